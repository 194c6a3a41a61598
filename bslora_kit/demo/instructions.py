"""The instruction set of the demo: short records in the Alpaca schema.

It teaches two things: the new facts of the world, each in several wordings and record types, and
how to answer (from memory, from choices, by letter, from a passage, by finishing a story). Old
facts take part so that tuning does not overwrite them. The mini tasks ask in other wordings, and
two-hop facts do not occur.
"""

import random
from collections.abc import Callable

from bslora_kit.demo.corpus import LETTERS
from bslora_kit.demo.world import SEED, Activity, Fact, World, sentence

TRAIN, HELD_OUT = 12_000, 600
NEW_SHARE = 0.62
Record = dict[str, str]


class Teacher:
    """Writes the records of the instruction set.

    Args:
        world: The world to teach.
        seed: Seed of all draws.
    """

    def __init__(self, world: World, seed: int = SEED + 2):
        self.world = world
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
        kind = "new" if self.rng.random() < NEW_SHARE else "old"
        name = f"{deck}/{kind}"
        if not self.deck.get(name):
            cards = [fact for fact in self.world.facts if fact.kind == kind and choose(fact)]
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

    def letter(self) -> Record:
        """A question with four lettered choices, answered by the letter."""
        fact, question = self._asked()
        choices = [fact.value, *fact.others(3, self.rng)]
        self.rng.shuffle(choices)
        lines = [question, *(f"{a}. {b}" for a, b in zip(LETTERS, choices, strict=True))]
        return self._record(fact, "Answer with a letter.", "\n".join(lines),
                            LETTERS[choices.index(fact.value)])

    def tell(self) -> Record:
        """What is known about an entity: up to three facts, the new ones first."""
        fact = self.draw("tell", lambda fact: True)
        others = [other for other in self.world.by_entity[fact.domain.name, fact.entity]
                  if other.kind in ("old", "new") and other is not fact]
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

    def check(self) -> Record:
        """A passage and a yes/no question whose answer stands in it."""
        fact = self.draw("check", lambda fact: bool(fact.relation.check))
        others = [other for other in self.world.by_entity[fact.domain.name, fact.entity]
                  if other.kind in ("old", "new") and other is not fact]
        facts = [fact, *self.rng.sample(others, min(len(others), self.rng.choice((1, 2))))]
        self.rng.shuffle(facts)
        right = self.rng.random() < 0.5
        value = fact.value if right else fact.others(1, self.rng)[0]
        question = sentence(fact.fill(fact.relation.check[0], value)) + "?"
        return self._record(fact, question, " ".join(other.say(self.rng) for other in facts),
                            "yes" if right else "no")

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
        kind = "new" if self.rng.random() < NEW_SHARE else "old"
        return self.rng.choice([a for a in self.world.activities if a.kind == kind])

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

    def records(self) -> tuple[list[Record], list[Record]]:
        """Writes the whole set.

        Returns:
            Training records and held-out records; no record is in both or twice in one.
        """
        types = (self.ask, self.choose, self.letter, self.tell, self.complete, self.check,
                 self.story, self.steps, self.step)
        shares = (32, 10, 14, 10, 6, 8, 8, 6, 6)
        unique: dict[tuple[str, str, str], Record] = {}
        while len(unique) < TRAIN + HELD_OUT:
            record = self.rng.choices(types, shares)[0]()
            unique.setdefault((record["instruction"], record["input"], record["output"]), record)
        records = list(unique.values())
        self.rng.shuffle(records)
        return records[HELD_OUT:], records[:HELD_OUT]
