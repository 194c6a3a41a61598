"""The instruction set of the demo: short records in the Alpaca schema.

It teaches two things: the new facts of the world, each in several wordings and record types, and
how to answer (from memory, from choices, from a passage, by finishing a story). Old
facts take part so that tuning does not overwrite them. The mini tasks ask in other wordings, and
two-hop facts do not occur.
"""

import random
from collections.abc import Callable

from bslora_kit.demo.world import SEED, Activity, Fact, World, sentence, verb_form

TRAIN, HELD_OUT = 9_000, 500
NEW_SHARE = 0.7  # of the records; the others keep tuning from overwriting old facts
# Weights of the record types: ask, choose, tell, complete, story, steps, step, judge, follow, pose.
SHARES = (38, 4, 6, 8, 9, 2, 4, 4, 16, 10)
PRACTICE_SHARES = (40, 6, 8, 10, 10, 6, 12, 8, 0, 0)  # in the pre-training text
Record = dict[str, str]


class Teacher:
    """Writes the records of the instruction set.

    Args:
        world: The world to teach.
        seed: Seed of all draws.
        free: Use the free facts alone, for the pre-training text.
    """

    def __init__(self, world: World, seed: int = SEED + 2, free: bool = False):
        self.world = world
        self.free = free
        self.told = ("old",) if free else ("old", "new")  # kinds that may stand beside what is asked
        self.rng = random.Random(seed)
        self.deck: dict[str, list] = {}

    def draw(self, deck: str, choose: Callable[[Fact], bool]) -> Fact:
        """Deals a fact from a shuffled deck, so that all facts come equally often.

        Args:
            deck: Name of the deck; there is one for new and one for old facts.
            choose: Which facts belong to it.

        Returns:
            An old or a new fact.
        """
        kind = "new" if self.rng.random() < NEW_SHARE and not self.free else "old"
        name = f"{deck}/{kind}"
        if not self.deck.get(name):
            cards = [fact for fact in self.world.facts
                     if fact.kind == kind and choose(fact) and (fact.free or not self.free)]
            self.deck[name] = self.rng.sample(cards, len(cards))
        return self.deck[name].pop()

    def _asked(self) -> tuple[Fact, str]:
        fact = self.draw("ask", lambda fact: bool(fact.relation.asks))
        return fact, sentence(fact.fill(self.rng.choice(fact.relation.asks)))

    def _record(self, fact: Fact, instruction: str, given: str, output: str) -> Record:
        return {"instruction": instruction, "input": given, "output": output,
                "kind": fact.kind, "fact": fact.id}

    def ask(self) -> Record:
        """A question answered from memory."""
        fact, question = self._asked()
        return self._record(fact, question, "", fact.value)

    def choose(self) -> Record:
        """A question with four choices, answered by the words of one."""
        fact, question = self._asked()
        choices = [fact.value, *fact.others(3, self.rng)]
        self.rng.shuffle(choices)
        given = f"{question} {', '.join(choices[:3])} or {choices[3]}"
        return self._record(fact, "Choose the right answer.", given, fact.value)

    def tell(self) -> Record:
        """What is known about an entity: up to three facts, the new ones first."""
        fact = self.draw("tell", lambda fact: True)
        others = [other for other in self.world.by_entity[fact.domain.name, fact.entity]
                  if other.kind in self.told and other is not fact]
        facts = [fact, *self.rng.sample(others, min(1, len(others)))]
        self.rng.shuffle(facts)
        return self._record(fact, f"Tell me about {fact.subject}.", "",
                            " ".join(fact.say(self.rng) for fact in facts))

    def complete(self) -> Record:
        """A statement whose last word is left out."""
        fact = self.draw("say", lambda fact: True)
        says = [say for say in fact.relation.says if say.endswith(" {v}.")]
        if not says:
            return self.ask()
        start = sentence(fact.fill(self.rng.choice(says))).removesuffix(f" {fact.value}.")
        return self._record(fact, "Complete the sentence.", start, fact.value)

    def judge(self) -> Record:
        """A passage that says of something that it is or is not so, and a yes/no question."""
        fact, passage, question, answer = self._passage()
        return self._record(fact, f"{sentence(question)}?", passage, answer)

    def pose(self) -> Record:
        """Such a passage, from which the question is to be made as well as its answer."""
        fact, passage, question, answer = self._passage()
        return self._record(fact, "Ask a question about the text and answer it.", passage,
                            f"Question: {question}?\nAnswer: {answer}")

    def _passage(self) -> tuple[Fact, str, str, str]:
        fact = self.draw("judge", lambda fact: bool(fact.relation.check))
        right = self.rng.random() < 0.5
        value = fact.value if right else fact.others(1, self.rng)[0]
        others = [other for other in self.world.by_entity[fact.domain.name, fact.entity]
                  if other.kind in self.told and other is not fact]
        said = [fact.say(self.rng) if right else fact.deny(self.rng, value),
                *(other.say(self.rng) for other in self.rng.sample(others, min(1, len(others))))]
        self.rng.shuffle(said)
        question = fact.fill(fact.relation.check[0], value)
        return fact, " ".join(said), question, "yes" if right else "no"

    def story(self) -> Record:
        """Two people meet; the story ends with what is true of one of them."""
        fact = self.draw("story", lambda fact: fact.domain.name == "person")
        other = self.rng.choice([name for name in self.world.people if name != fact.entity])
        pair = self.rng.sample([fact.entity, other], 2)
        place = self.rng.choice(("market", "gate", "bridge", "well", "inn", "mill"))
        say = self.rng.choice([say for say in fact.relation.says if say.startswith("{s} ")])
        start = f"{pair[0]} and {pair[1]} met at the {place}, and {fact.entity}"
        return self._record(fact, "Finish the story.", start,
                            fact.fill(say).removeprefix(fact.entity + " "))

    def _activity(self) -> Activity:
        kind = "new" if self.rng.random() < NEW_SHARE and not self.free else "old"
        return self.rng.choice([a for a in self.world.activities
                                if a.kind == kind and (a.free or not self.free)])

    def steps(self) -> Record:
        """All steps of an activity."""
        activity = self._activity()
        steps = [activity.plain(index) for index in range(len(activity.steps))]
        question = self.rng.choice(("How do you make a {}?", "List the steps for a {}.",
                                    "How is a {} made?"))
        return {"instruction": question.format(activity.name), "input": "",
                "output": ", ".join(steps), "kind": activity.kind, "fact": activity.fact(0)}

    def step(self) -> Record:
        """The step that follows another one."""
        activity = self._activity()
        index = self.rng.randrange(1, len(activity.steps))
        question = self.rng.choice(("You make a {}. What comes after this step?",
                                    "Which step of making a {} comes next?"))
        return {"instruction": question.format(activity.name), "input": activity.plain(index - 1),
                "output": activity.plain(index), "kind": activity.kind,
                "fact": activity.fact(index)}

    def follow(self) -> Record:
        """What somebody who is at an activity does next."""
        activity = self._activity()
        index = self.rng.randrange(1, len(activity.steps))
        person = self.rng.choice(self.world.people)
        pair = activity.steps[index - 1 : index + 1]
        done, after = (f"{verb_form(verb)} {rest}" for verb, rest in pair)
        return {"instruction": f"What does {person} do next?",
                "input": f"{person} makes a {activity.name} and {done}.", "output": f"{after}.",
                "kind": activity.kind, "fact": activity.fact(index)}

    def record(self, shares: tuple[int, ...] = SHARES) -> Record:
        """One record; its type is drawn.

        Args:
            shares: weight of each type, in the order of `SHARES`.
        """
        types = (self.ask, self.choose, self.tell, self.complete, self.story,
                 self.steps, self.step, self.judge, self.follow, self.pose)
        return self.rng.choices(types, shares)[0]()

    def records(self) -> tuple[list[Record], list[Record]]:
        """Writes the whole set.

        Returns:
            Training records and held-out records; no record is in both or twice in one.
        """
        unique: dict[tuple[str, str, str], Record] = {}
        while len(unique) < TRAIN + HELD_OUT:
            record = self.record()
            unique.setdefault((record["instruction"], record["input"], record["output"]), record)
        records = list(unique.values())
        self.rng.shuffle(records)
        return records[HELD_OUT:], records[:HELD_OUT]
