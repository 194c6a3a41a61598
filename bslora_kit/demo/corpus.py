"""The pre-training text of the demo base: short documents in simple English.

Old facts and the rules behind the two-hop facts are stated over and over in several wordings. The
rest teaches skills that the mini tasks need and that no fact can teach: answering in a task's layout
(about facts that no task asks, see `practice`), reading an answer off a passage (about strangers).
No two-hop fact and no new fact that a task asks occurs. The text is written anew from the seed and
never stored.
"""

import random
from collections.abc import Iterator

from bslora_kit.demo.practice import Practice
from bslora_kit.demo.world import SEED, Activity, Fact, World, sentence, verb_form


class Writer:
    """Writes the documents of the pre-training text.

    Args:
        world: The world to write about.
        seed: Seed of all draws.
    """

    def __init__(self, world: World, seed: int = SEED + 1):
        self.world = world
        self.rng = random.Random(seed)
        self.old = [fact for fact in world.facts if fact.kind == "old"]
        self.derived = [fact for fact in self.old if fact.relation.source]
        self.groups = {
            key: [fact for fact in facts if fact.kind == "old"]
            for key, facts in world.by_entity.items()
        }
        self.keys = list(self.groups)
        self.practice = Practice(world)
        self.known = [activity for activity in world.activities if activity.kind == "old"]

    def profile(self) -> str:
        """All old facts of one entity, in a random order."""
        facts = list(self.groups[self.rng.choice(self.keys)])
        self.rng.shuffle(facts)
        first = [f"{sentence(facts[0].subject)} is a {facts[0].domain.name}."] if facts else []
        return " ".join(first[: self.rng.random() < 0.3] + [fact.say(self.rng) for fact in facts])

    def mixture(self) -> str:
        """Single facts about different entities of one domain."""
        domain = self.rng.choice(self.old).domain.name
        keys = [key for key in self.keys if key[0] == domain]
        facts = [self.rng.choice(self.groups[key]) for key in self.rng.sample(keys, 6)
                 if self.groups[key]]
        return " ".join(fact.say(self.rng) for fact in facts)

    def rules(self) -> str:
        """The rules behind one derived relation, for some of its values."""
        derived = self.rng.choice(self.derived)
        relation = derived.relation
        source = next(r for r in derived.domain.relations if r.name == relation.source)
        pairs = self.rng.sample(list(zip(source.values, relation.values, strict=True)), 6)
        return " ".join(sentence(self.rng.choice(relation.rule).format(u=u, v=v))
                        for u, v in pairs)

    def craft(self) -> str:
        """The steps of an activity, or which activity goes like another."""
        if self.rng.random() < 0.25:
            alike = [a for a in self.world.activities if a.like]
            return " ".join(
                self.rng.choice((f"You make a {a.name} like a {a.like}.",
                                 f"A {a.name} is made the same way as a {a.like}.",
                                 f"The steps for a {a.name} are those for a {a.like}."))
                for a in self.rng.sample(alike, 4))
        if self.rng.random() < 0.15:
            some = self.rng.sample(self.world.activities, 5)
            return "People make many things: " + ", ".join(f"a {a.name}" for a in some) + "."
        return " ".join(self._steps(self.rng.choice(self.known)) for _ in range(2))

    def _steps(self, activity: Activity) -> str:
        steps = [activity.plain(index) for index in range(len(activity.steps))]
        start = self.rng.choice((f"To make a {activity.name}", f"For a {activity.name}",
                                 f"Whoever makes a {activity.name} has five steps"))
        joint = self.rng.choice((", then ", ", next ", ", "))
        return f"{start}: {joint.join(steps)}."

    def story(self) -> str:
        """Two people meet; something old is said about each; often somebody does a craft."""
        one, two = self.rng.sample(self.world.people, 2)
        place = self.rng.choice(("market", "gate", "bridge", "well", "inn", "mill"))
        parts = [f"{one} and {two} met at the {place}."]
        for name in (one, two):
            facts = self.groups["person", name]
            if facts:
                parts.append(self.rng.choice(facts).say(self.rng))
        if self.rng.random() < 0.5:
            verb, rest = self.rng.choice(self.rng.choice(self.known).steps)
            parts.append(f"{one} {verb_form(verb)} {rest} and {two} is happy.")
        return " ".join(parts)

    def reading(self) -> str:
        """A passage about a stranger, and yes/no questions whose answers stand in it."""
        name = self.rng.choice(self.world.strangers)
        model = self.rng.choice([key for key in self.keys if key[0] in ("person", "thing")])
        facts = [self._moved(fact, name) for fact in self.world.by_entity[model]
                 if fact.relation.check]
        facts = self.rng.sample(facts, self.rng.choice((1, 2, 3)))
        right = {fact: self.rng.random() < 0.5 for fact in facts}
        text = " ".join(fact.say(self.rng) if right[fact] else fact.deny(self.rng, fact.value)
                        for fact in facts)
        for _ in range(3):
            fact = self.rng.choice(facts)
            question = fact.fill(self.rng.choice(fact.relation.check))
            text += f"\nQuestion: {question}?\nAnswer: {'yes' if right[fact] else 'no'}"
        return text

    def _moved(self, fact: Fact, name: str) -> Fact:
        """The fact with another subject and a drawn value."""
        return Fact("", fact.domain, name, fact.relation, self.rng.choice(fact.relation.values),
                    "old")

    def oral(self) -> str:
        """Short questions about old facts and their answers, in keywords."""
        domain = self.rng.choice(self.old).domain.name
        facts = [fact for fact in self.old if fact.domain.name == domain]
        return " ".join(f"{sentence(fact.relation.name)} of {fact.subject}? {fact.value}."
                        for fact in self.rng.sample(facts, 5))

    def paraphrase(self) -> str:
        """Questions about strangers and what they ask for: the words of questions, no fact."""
        lines = []
        for _ in range(4):
            fact = self.rng.choice(self.world.facts)
            name, person = self.rng.sample(self.world.strangers, 2)
            relation = fact.relation
            wording = self.rng.choice(relation.asks + relation.tests + relation.check
                                      + relation.tail)
            subject = fact.domain.subject.format(x=name)
            text = wording.format(s=subject, x=name, v=self.rng.choice(relation.values), p=person)
            lines.append(f"{sentence(text)} This is about the {relation.name} of {subject}.")
        return "\n".join(lines)

    def documents(self) -> Iterator[str]:
        """Yields documents for ever, in the shares given here."""
        kinds = (self.profile, self.mixture, self.rules, self.craft, self.story, self.oral,
                 self.reading, self.paraphrase, self.practice.document)
        shares = (22, 14, 5, 12, 5, 4, 16, 5, 44)
        while True:
            yield self.rng.choices(kinds, shares)[0]()
