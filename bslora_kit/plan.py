"""From branches and linears to the list of tensors, each once.

Everything else reads the plan: the budget sums it, the tuner allocates it, the checkpoint stores it,
the figures draw it. Counts follow from the shapes here and nowhere else. Plain Python, no torch.

    branches x linears --> Tensor(key, shape, scope, owner, users, trainable), ...
                           and, for each linear, which tensors play which role in which branch

Roles and shapes for a linear [out, in] and a branch of rank r (equations: Hu et al. 2021; Zhou et al.
2025; Renduchintala et al. 2024):

    fit None   A [r, in]  B [out, r]
    slice      A [r, I]   B [O, r]      I, O = largest in, out among the users; centred slice
    gate       A [r, g]   B [g, r]      gate_id [1, in]  gate_iu [g, 1]  gate_od [1, g]  gate_ou [out, 1]
    kron       A [r, k]   B [k, r]      kron_a [1, ceil(in/k)]  kron_b [ceil(out/k), 1]
    gains      u [r]      v [out]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

from bslora_kit.branches import Branch, Scope
from bslora_kit.shapes import Linear, Shapes


class Tensor(NamedTuple):
    """One tensor of an adapter (a tuple, since a plan of a large model makes thousands).

    Attributes:
        key: unique name: branch, role and owner, for example "intra.A.model.layers.0".
        branch: name of its branch.
        role: A, B, u, v, gate_id, gate_iu, gate_od, gate_ou, kron_a or kron_b.
        shape: its size, as in the module's table.
        scope: over what it is shared.
        owner: the module, layer or projection type that it belongs to; "model" for the model's own.
        users: names of the linears that read it, in the model's order.
        trainable: False for the frozen factors of VeRA.
        init: how it starts: "kaiming" (uniform, a = sqrt 5), "zeros" or "ones".
    """

    key: str
    branch: str
    role: str
    shape: tuple[int, ...]
    scope: Scope
    owner: str
    users: tuple[str, ...]
    trainable: bool
    init: str

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)


class Use(NamedTuple):
    """What one linear reads in one branch: `keys` maps each role to a tensor's key."""

    branch: Branch
    keys: dict[str, str]


@dataclass(frozen=True)
class Plan:
    """The tensors of an adapter and, for each adapted linear, its branches.

    Attributes:
        branches: the branches of rank > 0.
        linears: the adapted linears, in the model's order.
        tensors: key -> tensor, each once.
        uses: linear's name -> one Use per branch, in the order of the branches.
    """

    branches: tuple[Branch, ...]
    linears: tuple[Linear, ...]
    tensors: dict[str, Tensor]
    uses: dict[str, tuple[Use, ...]]

    @cached_property
    def trainable(self) -> int:
        """Trainable elements, each shared tensor once."""
        return sum(tensor.size for tensor in self.tensors.values() if tensor.trainable)

    @cached_property
    def total(self) -> int:
        """All elements, frozen factors included."""
        return sum(tensor.size for tensor in self.tensors.values())

    @property
    def rank(self) -> int:
        """Rank R of the pair (A_eff [R, in], B_eff [out, R]) of each linear."""
        return sum(branch.effective_rank for branch in self.branches)


def plan(branches: Sequence[Branch], linears: Iterable[Linear]) -> Plan:
    """Lists the tensors that `branches` need on `linears`.

    Args:
        branches: of one method; those of rank 0 are switched off.
        linears: the adapted linears.

    Raises:
        ValueError: if no branch or no linear is left, if two branches share a name, or if a factor
            without a fit is shared by linears of different sizes.
    """
    linears = tuple(linears)
    active = tuple(branch for branch in branches if branch.rank > 0)
    if not active:
        ranks = [branch.rank for branch in branches]
        raise ValueError(f"ranks {ranks} switch every branch off; give at least one rank above 0")
    if not linears:
        raise ValueError("no linear to adapt; check target_modules and layers_to_transform")
    names = [branch.name for branch in active]
    if len(set(names)) < len(names):
        raise ValueError(f"branch names {names} repeat; give each branch its own name")

    tensors: dict[str, Tensor] = {}
    uses: dict[str, list[Use]] = {linear.name: [] for linear in linears}
    for branch in active:
        keys: dict[str, dict[str, str]] = {linear.name: {} for linear in linears}
        for role, scope in (("A", branch.scope_a), ("B", branch.scope_b)):
            for owner, group in _groups(scope, linears).items():
                tensor = _shared_factor(branch, role, scope, owner, group)
                tensors[tensor.key] = tensor
                for linear in group:
                    keys[linear.name][role] = tensor.key
        for linear in linears:
            for role, shape, init in _own_vectors(branch, linear):
                key = f"{branch.name}.{role}.{linear.name}"
                tensors[key] = Tensor(
                    key, branch.name, role, shape, "module", linear.name, (linear.name,), True, init
                )
                keys[linear.name][role] = key
            uses[linear.name].append(Use(branch, keys[linear.name]))
    return Plan(active, linears, tensors, {name: tuple(found) for name, found in uses.items()})


def plan_of(config: Any, shapes: Shapes) -> Plan:
    """The plan of a SharedLoraConfig on a model: `plan` of its branches and of its targets."""
    return plan(config.branches, config.targets_in(shapes))


def centred_offset(shared: int, own: int) -> int:
    """Where the centred slice of `own` elements starts in a shared factor of `shared` elements."""
    return (shared - own) // 2


def _groups(scope: Scope, linears: Sequence[Linear]) -> dict[str, list[Linear]]:
    """Owner -> the linears that share one tensor over `scope`."""
    owner_of: Callable[[Linear], str] = {
        "module": lambda linear: linear.name,
        "layer": lambda linear: linear.layer or linear.name,  # outside the layers: its own layer
        "type": lambda linear: linear.kind,
        "model": lambda linear: "model",
    }[scope]
    groups: dict[str, list[Linear]] = {}
    for linear in linears:
        groups.setdefault(owner_of(linear), []).append(linear)
    return groups


def _shared_factor(
    branch: Branch, role: str, scope: Scope, owner: str, group: Sequence[Linear]
) -> Tensor:
    """The factor A or B of one group of linears."""
    sizes = {linear.in_features if role == "A" else linear.out_features for linear in group}
    if branch.fit in ("gate", "kron"):
        length = branch.size
    elif branch.fit == "slice" or len(sizes) == 1:
        length = max(sizes)
    else:
        raise ValueError(
            f"branch {branch.name!r}: {role} of {owner!r} is shared by linears of different sizes "
            f"{sorted(sizes)} without a fit; target linears of one size or set fit to 'slice', "
            "'gate' or 'kron'"
        )
    zero = role == "B" and branch.trainable  # B = 0 makes the update 0 at the start
    return Tensor(
        key=f"{branch.name}.{role}.{owner}",
        branch=branch.name,
        role=role,
        shape=(branch.rank, length) if role == "A" else (length, branch.rank),
        scope=scope,
        owner=owner,
        users=tuple(linear.name for linear in group),
        trainable=branch.trainable,
        init="zeros" if zero else "kaiming",
    )


def _own_vectors(branch: Branch, linear: Linear) -> list[tuple[str, tuple[int, ...], str]]:
    """(role, shape, init) of the vectors that fit a branch to one linear."""
    vectors: list[tuple[str, tuple[int, ...], str]] = []
    if branch.fit == "gate":
        vectors += [
            ("gate_id", (1, linear.in_features), "kaiming"),
            ("gate_iu", (branch.size, 1), "kaiming"),
            ("gate_od", (1, branch.size), "kaiming"),
            ("gate_ou", (linear.out_features, 1), "kaiming"),
        ]
    if branch.fit == "kron":
        vectors += [
            ("kron_a", (1, -(-linear.in_features // branch.size)), "kaiming"),
            ("kron_b", (-(-linear.out_features // branch.size), 1), "kaiming"),
        ]
    if branch.gains:
        # v starts where the update is 0: at 1 behind a zero B, at 0 behind a random one.
        vectors += [
            ("u", (branch.rank,), "ones"),
            ("v", (linear.out_features,), "ones" if branch.trainable else "zeros"),
        ]
    return vectors
