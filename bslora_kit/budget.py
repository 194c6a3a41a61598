"""What an adapter costs in parameters, and which rank triples fit a given cost.

Counts are sums over the plan's tensors, each shared tensor once, so they equal what the tuner
trains. The search uses that every count is affine in each rank: two plans per branch give its slope
and intercept, and no second formula exists. Plain Python; only `Budget.frame` imports pandas.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any

from bslora_kit.branches import GATE_SIZE, KRON_SIZE, Branch, Fit, bslora_branches
from bslora_kit.plan import Plan, Tensor, plan, plan_of
from bslora_kit.shapes import DEFAULT_TARGETS, Linear, Shapes, refuse_fused

if TYPE_CHECKING:
    import pandas

BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
SHARED_KINDS = "shared"  # owner, in by_kind, of tensors that several projection kinds use


@dataclass(frozen=True)
class Budget:
    """Parameter counts of one adapter on one model.

    Attributes:
        plan: the tensors that are counted.
        model_parameters: elements of the model's own weights.
        trainable: trainable elements of the adapter.
        total: all elements of the adapter, VeRA's frozen factors included.
        by_scope: scope of sharing -> trainable elements.
        by_branch: branch -> trainable elements.
        by_kind: projection kind -> trainable elements; tensors of several kinds under "shared".
    """

    plan: Plan
    model_parameters: int
    trainable: int
    total: int
    by_scope: dict[str, int]
    by_branch: dict[str, int]
    by_kind: dict[str, int]

    @property
    def ratio(self) -> float:
        """Trainable elements as a fraction of the model's parameters."""
        return self.trainable / self.model_parameters

    @property
    def rank(self) -> int:
        """Rank of the update of one linear, all branches together."""
        return self.plan.rank

    def bytes(self, dtype: Any = "float32") -> int:
        """Bytes of the trainable tensors, which are what a saved adapter holds.

        Args:
            dtype: "float64", "float32", "float16" or "bfloat16", or a torch dtype of these.

        Raises:
            ValueError: for another dtype.
        """
        name = str(dtype).removeprefix("torch.")
        if name not in BYTES:
            raise ValueError(f"dtype {name!r} is unknown; use one of {', '.join(BYTES)}")
        return self.trainable * BYTES[name]

    def frame(self) -> pandas.DataFrame:
        """One row per group of like tensors.

        Returns:
            Columns scope, branch, role, trainable, count (tensors) and elements (of all of them
            together), in the plan's order.
        """
        import pandas

        counts: Counter[tuple[str, str, str, bool]] = Counter()
        elements: Counter[tuple[str, str, str, bool]] = Counter()
        for tensor in self.plan.tensors.values():
            group = (tensor.scope, tensor.branch, tensor.role, tensor.trainable)
            counts[group] += 1
            elements[group] += tensor.size
        rows = [(*group, count, elements[group]) for group, count in counts.items()]
        columns = ["scope", "branch", "role", "trainable", "count", "elements"]
        return pandas.DataFrame(rows, columns=columns)


@dataclass(frozen=True, order=True)
class Triple:
    """A BSLoRA rank triple and its trainable elements."""

    local: int
    intra: int
    inter: int
    trainable: int


def budget(config: Any, shapes: Shapes) -> Budget:
    """Counts what a SharedLoraConfig adds to a model.

    Args:
        config: from `lora`, `bslora`, `share_lora`, `tied_lora`, `vera` or SharedLoraConfig.
        shapes: of the model.

    Raises:
        ValueError: if the config adapts nothing in the model.
    """
    made = plan_of(config, shapes)
    kinds = {linear.name: linear.kind for linear in made.linears}
    groups: defaultdict[tuple[str, str, str], int] = defaultdict(int)
    frozen = 0
    for tensor in made.tensors.values():
        if tensor.trainable:
            groups[tensor.scope, tensor.branch, _kind(tensor, kinds)] += tensor.size
        else:
            frozen += tensor.size
    trainable = sum(groups.values())
    sums = [_sums_by(groups, position) for position in range(3)]
    return Budget(made, shapes.parameters, trainable, trainable + frozen, *sums)


def triples_within(
    budget: int,
    shapes: Shapes,
    *,
    fit: Fit = "slice",
    targets: Iterable[str] | str | None = None,
    gate_size: int = GATE_SIZE,
    kron_size: int = KRON_SIZE,
    tolerance: float = 0.05,
    max_rank: int = 64,
) -> list[Triple]:
    """BSLoRA triples whose count uses a parameter budget up.

    Args:
        budget: trainable elements that may be spent.
        shapes: of the model.
        fit: "slice" (SS), "gate" (GT) or "kron" (KE).
        targets: names or ends of module paths, or one regular expression for whole paths; None
            takes the published targets.
        gate_size: g of the gate transformation.
        kron_size: k of the Kronecker extension.
        tolerance: fraction of the budget that may stay unused.
        max_rank: largest rank tried in each branch; 0 switches a branch off.

    Returns:
        Triples with count in [budget * (1 - tolerance), budget]: best used first, and among equals
        the larger sum of ranks first. Empty if none fits.

    Raises:
        ValueError: for a value out of range, or if the targets match nothing.
    """
    if budget < 1:
        raise ValueError(f"budget {budget!r} is not a parameter count of at least 1")
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance {tolerance!r} is outside [0, 1); 0.05 leaves up to 5 % unused")
    if max_rank < 1:
        raise ValueError(f"max_rank {max_rank!r} is below 1, so no triple is left")
    linears = _targets(targets, shapes)
    local, intra, inter = (
        _costs(branch, linears, max_rank)
        for branch in bslora_branches(1, 1, 1, fit, gate_size, kron_size)
    )
    least = ceil(budget * (1 - tolerance))
    found = [
        Triple(a, b, c, local[a] + intra[b] + inter[c])
        for a in range(max_rank + 1)
        for b in range(max_rank + 1)
        if local[a] + intra[b] <= budget and local[a] + intra[b] + inter[-1] >= least
        for c in range(max_rank + 1)
        if least <= local[a] + intra[b] + inter[c] <= budget
    ]
    return sorted(found, key=lambda x: (-x.trainable, -(x.local + x.intra + x.inter), x))


def _sums_by(groups: Mapping[tuple[str, ...], int], position: int) -> dict[str, int]:
    """Elements summed over all groups with the same entry at `position`."""
    sums: dict[str, int] = {}
    for group, elements in groups.items():
        sums[group[position]] = sums.get(group[position], 0) + elements
    return sums


def _kind(tensor: Tensor, kinds: dict[str, str]) -> str:
    """The projection kind that a tensor serves."""
    if tensor.scope == "module":
        return kinds[tensor.owner]
    if tensor.scope == "type":
        return tensor.owner
    found = {kinds[user] for user in tensor.users}
    return found.pop() if len(found) == 1 else SHARED_KINDS


def _costs(branch: Branch, linears: Sequence[Linear], max_rank: int) -> list[int]:
    """Trainable elements of one branch alone, for each rank from 0 to `max_rank`."""
    first, second = (plan([replace(branch, rank=rank)], linears) for rank in (1, 2))
    slope = second.trainable - first.trainable
    return [0] + [first.trainable + slope * (rank - 1) for rank in range(1, max_rank + 1)]


def _targets(targets: Iterable[str] | str | None, shapes: Shapes) -> tuple[Linear, ...]:
    """The linears that PEFT's rules match, without loading PEFT."""
    if targets is None:
        targets = DEFAULT_TARGETS
    refuse_fused(targets, shapes)
    if isinstance(targets, str):
        pattern = re.compile(targets)
        found = [linear for linear in shapes.linears if pattern.fullmatch(linear.name)]
    else:
        targets = set(targets)
        ends = tuple(f".{target}" for target in targets)
        found = [x for x in shapes.linears if x.name in targets or x.name.endswith(ends)]
    if not found:
        raise ValueError(
            f"targets {targets!r} match no linear of {shapes.name}; it has "
            f"{', '.join(sorted({linear.kind for linear in shapes.linears}))}"
        )
    return tuple(found)
