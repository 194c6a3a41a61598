"""The demo world: invented entities and their facts, drawn once from a seed.

A fact is (entity, relation, value). Its kind says where a model can have learnt it:

    old      stated in the pre-training text
    new      taught by the instruction set alone
    two_hop  stated nowhere; follows from an old fact and a rule that the pre-training text states
    untold   follows from a new fact; never used

All texts (corpus, instruction set, mini tasks) are written from this one table, so that which fact
an item asks about is known, not guessed. The wording stands in `wording.py`.
"""

import random
from dataclasses import dataclass, field
from functools import cached_property

from bslora_kit.demo.wording import (
    ACTIVITIES,
    ACTIVITY_ALIKE,
    ACTIVITY_NEW,
    ACTIVITY_STEPS,
    DOMAINS,
    STEPS,
    Domain,
    Relation,
)

SEED = 20261124
KINDS = ("old", "new", "two_hop")
STRANGERS = 60
LETTERS = "ABCD"


def sentence(text: str) -> str:
    """Returns the text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def verb_form(verb: str) -> str:
    """Third person of a step's verb: "heat" -> "heats", "wash" -> "washes"."""
    if verb.endswith(("sh", "ss", "x", "ch")):
        return verb + "es"
    return verb[:-1] + "ies" if verb.endswith("ry") else verb + "s"


def names(count: int, rng: random.Random, taken: set[str], endings: str = "") -> list[str]:
    """Draws invented names of two syllables that do not occur yet.

    Args:
        count: How many names.
        rng: Source of randomness.
        taken: Names given so far; the new ones are added.
        endings: Last letters of a person's name; without them the name ends in a consonant.

    Returns:
        The names in lower case.
    """
    heads, vowels, tails = "bdfgklmnprstvz", "aeiou", "bdfgklmnprstvx"
    drawn = []
    while len(drawn) < count:
        name = rng.choice(heads) + rng.choice(vowels) + rng.choice(tails) + rng.choice(heads)
        name += rng.choice(endings) if endings else rng.choice(vowels) + rng.choice(tails)
        if name not in taken and name[2] != name[3]:
            taken.add(name)
            drawn.append(name)
    return drawn


@dataclass(frozen=True)
class Fact:
    """One fact of the world.

    Attributes:
        id: `<domain>/<entity>/<relation>`, unique.
        domain: The domain it belongs to.
        entity: Name of the entity.
        relation: The relation.
        value: The value, one of the relation's pool.
        kind: old, new, two_hop or untold.
        free: Whether no test or validation item asks it: old facts of two thirds of the entities.
    """

    id: str
    domain: Domain
    entity: str
    relation: Relation
    value: str
    kind: str
    free: bool = False

    @property
    def subject(self) -> str:
        """The entity as a sentence names it: "a blorvit"."""
        return self.domain.subject.format(x=self.entity)

    def fill(self, template: str, value: str | None = None, person: str = "") -> str:
        """Fills a template of the fact's relation; `value` replaces the true one."""
        return template.format(s=self.subject, x=self.entity, v=value or self.value, p=person)

    def say(self, rng: random.Random, value: str | None = None) -> str:
        """One statement of the fact, as a sentence."""
        return sentence(self.fill(rng.choice(self.relation.says), value))

    def deny(self, rng: random.Random, wrong: str) -> str:
        """A sentence that says that something wrong is not so."""
        return f"It is not so that {self.fill(rng.choice(self.relation.says), wrong)}"

    def others(self, count: int, rng: random.Random) -> list[str]:
        """Draws `count` wrong values from the pool."""
        return rng.sample([value for value in self.relation.values if value != self.value], count)


@dataclass(frozen=True)
class Activity:
    """A craft of five steps.

    Attributes:
        name: Invented name of what is made.
        steps: Pairs (verb, rest).
        kind: old, new, or two_hop (its steps are those of `like`, which is all that is stated).
        like: Name of the activity with the same steps; empty unless two_hop.
        free: Whether no test or validation item asks it: half of the old activities.
    """

    name: str
    steps: tuple[tuple[str, str], ...]
    kind: str
    like: str = ""
    free: bool = False

    def plain(self, index: int) -> str:
        """Step in the instructions' form: "heat the wax"."""
        return " ".join(self.steps[index])

    def fact(self, index: int) -> str:
        """Id of the fact which step stands at `index` (0 is the first)."""
        return f"activity/{self.name}/{index}"


@dataclass
class World:
    """Everything that is true in the demo world.

    Attributes:
        facts: All facts, in a fixed order.
        activities: All activities.
        strangers: Names that have no facts; texts to be read closely are about them.
    """

    facts: list[Fact] = field(default_factory=list)
    activities: list[Activity] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)

    @cached_property
    def by_entity(self) -> dict[tuple[str, str], list[Fact]]:
        """Facts by (domain name, entity)."""
        groups: dict[tuple[str, str], list[Fact]] = {}
        for fact in self.facts:
            groups.setdefault((fact.domain.name, fact.entity), []).append(fact)
        return groups

    def of(self, domain: str, kind: str, free: bool = False) -> list[Fact]:
        """Facts of one domain and kind: those that tasks may ask, or the free ones."""
        return [fact for fact in self.facts
                if fact.domain.name == domain and fact.kind == kind and fact.free == free]

    @cached_property
    def people(self) -> list[str]:
        """Names of all people."""
        return [entity for domain, entity in self.by_entity if domain == "person"]


def _domain_facts(domain: Domain, entities: list[str], rng: random.Random) -> list[Fact]:
    """Draws the facts of one domain: values in equal shares, new and two-hop facts among them."""
    values: dict[tuple[str, str], str] = {}
    kinds: dict[tuple[str, str], str] = {}
    basic = [relation for relation in domain.relations if not relation.source]
    asked = [relation for relation in basic if relation.tests]
    for relation in basic:
        order = rng.sample(entities, len(entities))
        pool = rng.sample(relation.values, len(relation.values))
        for place, entity in enumerate(order):
            values[entity, relation.name] = pool[place % len(pool)]
        share = domain.new // len(asked) + (asked.index(relation) < domain.new % len(asked)
                                            if relation in asked else 0)
        fresh = set(order[:share]) if relation in asked else set()
        for entity in entities:
            kinds[entity, relation.name] = "new" if entity in fresh else "old"
    for relation in domain.relations:
        if not relation.source:
            continue
        rule = dict(zip(next(r for r in basic if r.name == relation.source).values,
                        relation.values, strict=True))
        for entity in entities:
            values[entity, relation.name] = rule[values[entity, relation.source]]
        known = [entity for entity in entities if kinds[entity, relation.source] == "old"]
        hidden = set(rng.sample(known, domain.two_hop))
        for entity in entities:
            kinds[entity, relation.name] = (
                "two_hop" if entity in hidden else "old" if entity in known else "untold")
    free = set(rng.sample(entities, 2 * len(entities) // 3))
    return [Fact(f"{domain.name}/{entity}/{relation.name}", domain, entity, relation,
                 values[entity, relation.name], kinds[entity, relation.name],
                 entity in free and kinds[entity, relation.name] == "old")
            for entity in entities for relation in domain.relations]


def make_world(seed: int = SEED) -> World:
    """Draws the world.

    Args:
        seed: Seed of all draws.

    Returns:
        The world; the same seed gives the same world.
    """
    rng = random.Random(seed)
    taken: set[str] = set()
    world = World()
    for domain in DOMAINS:
        endings = "ao" if domain.name == "person" else ""
        entities = names(domain.count, rng, taken, endings)
        if domain.name in ("person", "geography", "astronomy", "history"):
            entities = [name.capitalize() for name in entities]
        world.facts += _domain_facts(domain, entities, rng)
    crafts = names(ACTIVITIES, rng, taken)
    told = ACTIVITIES - ACTIVITY_ALIKE
    for place, name in enumerate(crafts[:told]):
        steps = tuple(rng.sample(STEPS, ACTIVITY_STEPS))
        kind = "new" if place < ACTIVITY_NEW else "old"
        world.activities.append(
            Activity(name, steps, kind, free=kind == "old" and place % 2 == 0))
    models = [activity for activity in world.activities
              if activity.kind == "old" and not activity.free]
    for name, model in zip(crafts[told:], models, strict=False):
        world.activities.append(Activity(name, model.steps, "two_hop", model.name))
    world.strangers = [name.capitalize() for name in names(STRANGERS, rng, taken, "iu")]
    return world
