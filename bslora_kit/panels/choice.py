"""A choice of method, ranks and model, and everything that follows from it, as plain values.

The rank picker shows what `answer` returns. Counts come from `bslora_kit.budget`, bytes from
`bslora_kit.memory`, published rows from `bslora_kit.published`; nothing here knows a widget.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import log
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from bslora_kit import methods, published
from bslora_kit.branches import GATE_SIZE, KRON_SIZE
from bslora_kit.budget import Budget, budget
from bslora_kit.jobs.parameters import row_name
from bslora_kit.memory import Memory, Setting, has_llama_layers, memory
from bslora_kit.shapes import DEFAULT_TARGETS, Shapes, llama_3_8b

if TYPE_CHECKING:
    import pandas

LABELS = {  # (method, variant) -> what tables and figures call it
    ("bslora", "slice"): "BSLoRA (SS)",
    ("bslora", "gate"): "BSLoRA (GT)",
    ("bslora", "kron"): "BSLoRA (KE)",
    ("lora", None): "LoRA",
    ("share_lora", "A"): "ShareLoRA A",
    ("share_lora", "B"): "ShareLoRA B",
    ("share_lora", "AB"): "ShareLoRA AB",
    ("tied_lora", "tl5"): "Tied-LoRA (TL5)",
    ("tied_lora", "tl6"): "Tied-LoRA (TL6)",
    ("vera", None): "VeRA",
}
RANKS = {"bslora": ("local", "intra", "inter")}  # all other methods take one rank
VARIANT_NAMES = {"bslora": "fit", "share_lora": "share", "tied_lora": "variant"}
_PUBLISHED = {  # method as printed -> (method, variant); the counts prove ShareB
    "ShareLoRA": ("share_lora", "B"),
    "BSLoRA (SS)": ("bslora", "slice"),
    "BSLoRA (GT)": ("bslora", "gate"),
    "BSLoRA (KE)": ("bslora", "kron"),
    "Tied_lora (tl5)": ("tied_lora", "tl5"),
    "Tied_lora (tl6)": ("tied_lora", "tl6"),
}


@dataclass(frozen=True)
class Choice:
    """What the picker's controls say, but for the model.

    Attributes:
        method: "lora", "bslora", "share_lora", "tied_lora" or "vera".
        variant: its fit, share or variant, as in `LABELS`; None where it has none.
        ranks: (local, intra, inter) for BSLoRA, (rank,) for the others.
        targets: kinds of the adapted linears.
        gate_size: g of the gate transformation.
        kron_size: k of the Kronecker extension.
    """

    method: str = "bslora"
    variant: str | None = "slice"
    ranks: tuple[int, ...] = (2, 4, 16)
    targets: tuple[str, ...] = DEFAULT_TARGETS
    gate_size: int = GATE_SIZE
    kron_size: int = KRON_SIZE

    @property
    def label(self) -> str:
        """Method and ranks, as tables print them."""
        return f"{LABELS[self.method, self.variant]} {','.join(map(str, self.ranks))}"

    @property
    def options(self) -> dict[str, Any]:
        """Variant and share size, by the names that constructors and grid rows take."""
        options = {VARIANT_NAMES[self.method]: self.variant} if self.variant else {}
        if self.variant == "gate":
            options["gate_size"] = self.gate_size
        if self.variant == "kron":
            options["kron_size"] = self.kron_size
        return options

    @property
    def config(self) -> methods.SharedLoraConfig:
        """The config that the kit's constructor makes of it."""
        make = getattr(methods, self.method)
        return make(*self.ranks, **self.options, target_modules=list(self.targets))

    @property
    def python(self) -> str:
        """The line of Python that makes the config."""
        options = dict(self.options)
        if set(self.targets) != set(DEFAULT_TARGETS):
            options["target_modules"] = list(self.targets)
        given = [*map(str, self.ranks), *(f"{name}={value!r}" for name, value in options.items())]
        return f"{self.method}({', '.join(given)})"

    @property
    def grid_row(self) -> str:
        """The row of a grid file (papermill_runs/grids/*.yaml) that trains and scores it."""
        given = {"method": self.method, **self.options, "ranks": list(self.ranks)}
        row = {"row": row_name(given), "label": LABELS[self.method, self.variant], **given}
        if set(self.targets) != set(DEFAULT_TARGETS):
            row["targets"] = list(self.targets)
        text = yaml.safe_dump(row, default_flow_style=True, sort_keys=False, width=float("inf"))
        return f"- {text.strip()}"


class PublishedRow(NamedTuple):
    """A row of the published tables as a preset: its model as printed, choice, count and score (%)."""

    model: str
    choice: Choice
    parameters: int
    mean: float

    @property
    def label(self) -> str:
        """Method, ranks and model."""
        return f"{self.choice.label} on {self.model}"


class EqualLora(NamedTuple):
    """The largest plain LoRA that a budget pays for; rank 0 if none, with the count of rank 1."""

    rank: int
    parameters: int


@dataclass(frozen=True)
class Answer:
    """What follows from a choice on a model.

    Attributes:
        choice: method, ranks, targets.
        shapes: of the model.
        budget: its counts.
        memories: this adapter in this kit, and the plain LoRA of equal budget in PEFT; empty where the
            model's layers are not a Llama's.
        nearest: the published row that is nearest in share of its model's parameters.
        equal: the plain LoRA of equal budget.
    """

    choice: Choice
    shapes: Shapes
    budget: Budget
    memories: dict[str, Memory]
    nearest: PublishedRow
    equal: EqualLora

    @property
    def sentences(self) -> list[str]:
        """The answer in words."""
        count = self.budget
        said = [
            f"{self.choice.label} trains {count.trainable:,} parameters, {count.ratio:.4%} of "
            f"{self.shapes.name}; the update of a linear has rank {count.rank}."
        ]
        if self.equal.rank:
            said.append(
                f"A plain LoRA within this budget has rank {self.equal.rank} "
                f"({self.equal.parameters:,} parameters)."
            )
        else:
            said.append(f"Not even a plain LoRA of rank 1 fits: it takes {self.equal.parameters:,}.")
        given = sum(branch.rank for branch in count.plan.branches)
        if count.rank < given:
            said.append(f"The ranks add up to {given}, but a gated branch has rank 1 whatever r is.")
        row = self.nearest
        said.append(
            f"Nearest published row by share of the model: {row.choice.label} on Llama 3-8B, "
            f"{row.parameters:,} parameters, mean {row.mean:.2f} %."
        )
        return said

    def table(self) -> pandas.DataFrame:
        """The same numbers as columns quantity and value, both text."""
        import pandas

        count = self.budget
        rows = [
            ("trainable parameters", f"{count.trainable:,}"),
            ("share of the model", f"{count.ratio:.4%}"),
            ("rank of one linear's update", str(count.rank)),
            ("file, float32", f"{count.bytes() / 1e6:,.2f} MB"),
            *((f"parameters by scope: {name}", f"{n:,}") for name, n in count.by_scope.items()),
            *((f"parameters by kind: {name}", f"{n:,}") for name, n in count.by_kind.items()),
        ]
        for label, parts in self.memories.items():
            rows.append((f"training memory, {label}", f"{parts.total / 2**30:,.2f} GiB"))
        return pandas.DataFrame(rows, columns=["quantity", "value"])


def answer(choice: Choice, shapes: Shapes, setting: Setting) -> Answer:
    """What a choice costs on a model.

    Args:
        choice: method, ranks, targets.
        shapes: of the model.
        setting: batch, sequence, dtype and so on of the memory estimate.

    Raises:
        ValueError: if the choice adapts nothing: all ranks 0, no target.
    """
    if not choice.targets:
        raise ValueError("no projection is chosen; choose at least one")
    count = budget(choice.config, shapes)
    single = budget(Choice("lora", None, (1,), choice.targets).config, shapes)
    rank = count.trainable // single.trainable
    memories = {}
    if has_llama_layers(shapes):
        memories[choice.label] = memory(count.plan, shapes, setting)
        plain = Choice("lora", None, (max(rank, 1),), choice.targets)
        plan = budget(plain.config, shapes).plan
        memories[f"LoRA {max(rank, 1)} in PEFT"] = memory(plan, shapes, replace(setting, keeps="peft"))
    equal = EqualLora(rank, single.trainable * max(rank, 1))
    return Answer(choice, shapes, count, memories, nearest_published(count.ratio), equal)


def rank_within(choice: Choice, position: int, limit: int, shapes: Shapes, largest: int) -> int:
    """The largest rank of one branch that keeps a choice within a budget, the other ranks as they are.

    Args:
        choice: whose other ranks stay.
        position: of the rank that gives way.
        limit: trainable parameters that may be spent.
        shapes: of the model.
        largest: rank that is tried at most.

    Returns:
        A rank from 0 to `largest`; 0 also where the other ranks alone exceed the budget.
    """
    # Counts are affine in a rank from 1 on: two of them give all.
    first, second = (
        budget(_with_rank(choice, position, rank).config, shapes).trainable for rank in (1, 2)
    )
    return 0 if first > limit else min(largest, 1 + (limit - first) // (second - first))


def published_rows() -> tuple[PublishedRow, ...]:
    """The 16 rows of the equal-budget table and the 6 of Tied-LoRA, as printed."""
    return _similar_rows() + _tied_rows()


def nearest_published(ratio: float) -> PublishedRow:
    """The row of the equal-budget table whose share of its model's parameters is nearest, in logarithm.

    Args:
        ratio: trainable parameters as a fraction of the model's.
    """
    whole = llama_3_8b().parameters
    return min(_similar_rows(), key=lambda row: abs(log(row.parameters / whole) - log(ratio)))


def _with_rank(choice: Choice, position: int, rank: int) -> Choice:
    ranks = list(choice.ranks)
    ranks[position] = rank
    return replace(choice, ranks=tuple(ranks))


@cache
def _similar_rows() -> tuple[PublishedRow, ...]:
    rows = published.similar_budget().itertuples()
    return tuple(_published_row("Llama 3-8B", row, row.ranks.split(",")) for row in rows)


@cache
def _tied_rows() -> tuple[PublishedRow, ...]:
    return tuple(
        _published_row(row.model, row, [row.rank]) for row in published.tied_lora().itertuples()
    )


def _published_row(model: str, row: Any, ranks: list[Any]) -> PublishedRow:
    method, variant = _PUBLISHED[row.method]
    choice = Choice(method, variant, tuple(map(int, ranks)))
    return PublishedRow(model, choice, int(row.parameters), float(row.mean))
