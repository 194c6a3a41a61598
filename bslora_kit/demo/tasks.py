"""The eight mini tasks and mini MMLU, in the columns of the official data sets.

Each function writes the items of one task from facts of one domain. Every item names its fact and
the fact's kind; choices come from the relation's pool, the right one stands in every place equally
often. The test split uses the first two test wordings of a relation, validation the last one. The
pre-training text asks free facts alone (see `practice`) and the instruction set has wordings of its
own, so no (fact, question) pair of a split occurs anywhere else.

    openbookqa    things           arc_easy      people         piqa         tools
    arc_challenge beasts           winogrande    people         social_iqa   events
    hellaswag     activities       boolq         things, people, with a passage
    mini MMLU     six subjects
"""

import random
from collections.abc import Callable, Iterator, Sequence

from bslora_kit.demo.wording import STEPS, SUBJECTS
from bslora_kit.demo.world import (
    KINDS,
    LETTERS,
    SEED,
    Activity,
    Fact,
    World,
    sentence,
    verb_form,
)

SHARES = {"old": 0.28, "new": 0.57, "two_hop": 0.15}
TEST, VALIDATION = 540, 180
MMLU_TEST, MMLU_VALIDATION, MMLU_DEV = 84, 30, 5
PLACES = ("market", "gate", "bridge", "well", "inn", "mill")
Item = dict[str, object]


def counts(total: int) -> dict[str, int]:
    """Number of items of each kind."""
    parts = {kind: round(total * SHARES[kind]) for kind in KINDS}
    parts["new"] += total - sum(parts.values())
    return parts


class Examiner:
    """Writes the mini tasks.

    Args:
        world: The world to ask about.
        seed: Seed of all draws.
        free: Ask the free facts, for the pre-training text, instead of those kept for the tasks.
    """

    def __init__(self, world: World, seed: int = SEED + 3, free: bool = False):
        self.world = world
        self.free = free
        self.told = ("old",) if free else ("old", "new")  # kinds that may stand beside what is asked
        self.rng = random.Random(seed)
        self.places: dict[int, list[int]] = {}

    def place(self, size: int) -> int:
        """Place of the right answer among `size`: all places equally often, in random order."""
        if not self.places.get(size):
            self.places[size] = self.rng.sample(range(size), size)
        return self.places[size].pop()

    def choices(self, fact: Fact, size: int) -> tuple[list[str], int]:
        """The right value among wrong ones of its pool, and its place."""
        place = self.place(size)
        texts = fact.others(size - 1, self.rng)
        texts.insert(place, fact.value)
        return texts, place

    def deal(self, facts: Sequence, total: int, wordings: int) -> Iterator[tuple[object, int]]:
        """Deals facts in turn, each with every wording before a wording comes again."""
        order = self.rng.sample(list(facts), len(facts))
        for number in range(total):
            turn = number // len(order)
            yield order[number % len(order)], turn % wordings

    def split(self, facts: Callable[[str], Sequence], total: int, validation: bool,
              write: Callable[[Fact, int], Item]) -> list[Item]:
        """Writes a split without repeated items, in random order.

        Args:
            facts: Kind -> the facts to ask about.
            total: Number of items.
            validation: Whether to use the validation wording.
            write: (fact, wording) -> item.

        Returns:
            The items, each with its `kind` and `fact`.
        """
        items: dict[str, Item] = {}
        for kind, count in counts(total).items():
            wanted = len(items) + count
            for fact, turn in self.deal(facts(kind), 20 * count, 1 if validation else 2):
                item = write(fact, 2 if validation else turn)
                item["kind"] = kind
                items.setdefault(repr(item), item)
                if len(items) == wanted:
                    break
        return self.rng.sample(list(items.values()), len(items))

    def of(self, *domains: str) -> Callable[[str], list[Fact]]:
        """Kind -> the facts of some domains that a question can be asked about."""
        return lambda kind: [fact for domain in domains
                             for fact in self.world.of(domain, kind, self.free)
                             if fact.relation.tests]

    def question(self, fact: Fact, wording: int) -> Item:
        """ARC: question, choices, answerKey."""
        texts, place = self.choices(fact, 4)
        return {"id": fact.id, "question": sentence(fact.fill(fact.relation.tests[wording])),
                "choices": {"text": texts, "label": list(LETTERS)},
                "answerKey": LETTERS[place], "fact": fact.id}

    def stem(self, fact: Fact, wording: int) -> Item:
        """OpenBookQA: the beginning of a sentence and four ends."""
        item = self.question(fact, wording)
        return {"id": item["id"], "question_stem": item.pop("question"), **item}

    def goal(self, fact: Fact, wording: int) -> Item:
        """PIQA: a goal and two ways to reach it."""
        texts, place = self.choices(fact, 2)
        return {"goal": sentence(fact.fill(fact.relation.tests[wording])), "sol1": texts[0],
                "sol2": texts[1], "label": place, "fact": fact.id}

    def social(self, fact: Fact, wording: int) -> Item:
        """Social IQa: what happened, a question, three answers."""
        texts, place = self.choices(fact, 3)
        person = self.rng.choice(self.world.people)
        return {"context": f"{person} had {fact.subject}.",
                "question": sentence(fact.fill(fact.relation.tests[wording], person=person)),
                "answerA": texts[0], "answerB": texts[1], "answerC": texts[2],
                "label": str(place + 1), "fact": fact.id}

    def pronoun(self, fact: Fact, wording: int) -> Item:
        """WinoGrande: a gap for one of two people, decided by the end of the sentence."""
        rivals = [other for other in self.world.facts
                  if other.relation is fact.relation and other.value != fact.value]
        alike = [other for other in rivals if other.kind == fact.kind] or rivals
        other = self.rng.choice(alike).entity
        first, second = self.rng.sample([fact.entity, other], 2)
        start = (f"{first} and {second} met at the {self.rng.choice(PLACES)}, because _",
                 f"When {first} and {second} came home, _",
                 f"{first} talked to {second}, and _")[wording]
        place = self.place(2)
        options = [other]
        options.insert(place, fact.entity)
        return {"sentence": f"{start} {fact.fill(fact.relation.tail[wording])}",
                "option1": options[0], "option2": options[1], "answer": str(place + 1),
                "fact": fact.id}

    def passage(self, fact: Fact, wording: int) -> Item:
        """BoolQ: a passage that holds the answer, and a yes/no question.

        The passage says of what is asked that it is so or that it is not so; for a two-hop fact it
        says so of the fact from which the answer follows. A third of the passages say of something
        else that it is not so, and there a negation alone tells nothing.
        """
        own = self.world.by_entity[fact.domain.name, fact.entity]
        label = self.place(2)
        value = fact.value if label else fact.others(1, self.rng)[0]
        question = fact.fill(fact.relation.check[1], value)
        stated = fact
        if fact.kind == "two_hop":
            stated = next(f for f in own if f.relation.name == fact.relation.source)
            value = stated.relation.values[fact.relation.values.index(value)]
        rest = [f for f in own if f.kind in self.told and f is not stated]
        sentences = [stated.say(self.rng, value) if label else stated.deny(self.rng, value)]
        for number, other in enumerate(self.rng.sample(rest, min(len(rest), 2))):
            if number == 0 and self.rng.random() < 1 / 3:
                sentences.append(other.deny(self.rng, other.others(1, self.rng)[0]))
            else:
                sentences.append(other.say(self.rng))
        self.rng.shuffle(sentences)
        return {"passage": " ".join(sentences), "question": question, "label": label,
                "fact": fact.id}

    def activity(self, asked: tuple[Activity, int], wording: int) -> Item:
        """HellaSwag: an activity, what has been done, four next steps."""
        activity, index = asked
        person = self.rng.choice(self.world.people)
        done = [f"{verb_form(verb)} {rest}" for verb, rest in activity.steps[:index]]
        right = activity.steps[index]
        wrong = self.rng.sample([step for step in STEPS if step not in activity.steps], 3)
        place = self.place(4)
        wrong.insert(place, right)
        context = (f"{person} is at work. First {person} {' and '.join(done[-2:])}.",
                   f"In the workshop {person} {' and then '.join(done[-2:])}.",
                   f"We see {person}, who {' and '.join(done[-2:])}.")[wording]
        return {"activity_label": f"Making a {activity.name}", "ctx_a": context, "ctx_b": "then "
                + person, "ctx": f"{context} then {person}",
                "endings": [f"{verb_form(verb)} {rest}." for verb, rest in wrong],
                "label": str(place), "fact": activity.fact(index)}

    def _transitions(self, kind: str) -> list[tuple[Activity, int]]:
        return [(activity, index) for activity in self.world.activities
                if activity.kind == kind and activity.free == self.free
                for index in range(1, len(activity.steps))]

    def plan(self) -> dict[str, tuple[Callable[[str], Sequence], Callable[..., Item]]]:
        """Task -> (kind -> what it asks about, how an item is written)."""
        things = self.of("thing")
        people = self.of("person")
        return {
            "mini_openbookqa": (things, self.stem),
            "mini_arc_challenge": (self.of("beast"), self.question),
            "mini_hellaswag": (self._transitions, self.activity),
            "mini_arc_easy": (people, self.question),
            "mini_piqa": (self.of("tool"), self.goal),
            "mini_winogrande": (people, self.pronoun),
            "mini_boolq": (self.of("thing", "person"), self.passage),
            "mini_social_iqa": (self.of("event"), self.social),
        }

    def tasks(self) -> dict[str, dict[str, list[Item]]]:
        """Writes the eight tasks: name -> split -> items."""
        return {name: {"test": self.split(facts, TEST, False, write),
                       "validation": self.split(facts, VALIDATION, True, write)}
                for name, (facts, write) in self.plan().items()}

    def mmlu_item(self, fact: Fact, wording: int) -> Item:
        """MMLU: question, four choices, the place of the right one."""
        texts, place = self.choices(fact, 4)
        return {"question": fact.fill(fact.relation.tests[wording]),
                "subject": f"mini_{fact.domain.name}", "choices": texts, "answer": place,
                "fact": fact.id}

    def mmlu(self) -> dict[str, dict[str, list[Item]]]:
        """Writes mini MMLU: subject -> split -> items; the five dev items ask free facts."""
        subjects = {}
        for subject in SUBJECTS:
            facts = self.of(subject.name)
            known = [fact for fact in self.world.of(subject.name, "old", free=True)
                     if fact.relation.tests]
            dev = [self.mmlu_item(fact, 2) | {"kind": "old"}
                   for fact in self.rng.sample(known, MMLU_DEV)]
            subjects[f"mini_{subject.name}"] = {
                "dev": dev,
                "validation": self.split(facts, MMLU_VALIDATION, True, self.mmlu_item),
                "test": self.split(facts, MMLU_TEST, False, self.mmlu_item)}
        return subjects
