"""What an adapter has learned: its fitted pairs as arrays, their energy, singular values and subspaces.

    weights = weights_of(model)              A' [R, in], B' [out, R] of every branch on every linear
    energies(weights)                        ||s B' A'||_F^2 of each branch on each linear
    singular_values(*weights.pair(...))      of B' A', from the thin factors
    overlap(A, other_A)                      mean squared cosine of the principal angles (0 to 1)

All numbers follow from the weights of the model that is given. Energy and singular values never form
B' A' [out, in]: with B' = Q R and A'^T = P T they are those of R T^T, [R, R]. Principal angles are those
of Bjorck and Golub (1973), as `scipy.linalg.subspace_angles` computes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.linalg import subspace_angles
from torch import nn

from bslora_kit.adapters.fit import fit_branch
from bslora_kit.adapters.inspection import plan_of_model, tensors_of_model
from bslora_kit.plan import Plan
from bslora_kit.shapes import Linear

Factors = tuple[np.ndarray, np.ndarray]  # A' [R, in], B' [out, R]
Role = Literal["A", "B"]


@dataclass(frozen=True, eq=False)
class AdapterWeights:
    """An adapter as it was at one moment, without its model.

    Attributes:
        plan: which linears and branches there are.
        scaling: s of the update s B' A'.
        pairs: (name of linear, name of branch) -> A' [R, in] and B' [out, R] as the linear reads them,
            float32. Slices of a shared tensor are views of one copy.
    """

    plan: Plan
    scaling: float
    pairs: dict[tuple[str, str], Factors]

    def pair(self, linear: str, branch: str | None = None) -> Factors:
        """The pair of a branch on a linear; of all branches, stacked over the ranks, for None.

        Raises:
            ValueError: if there is no such linear or branch.
        """
        names = [found.name for found in self.plan.branches]
        wanted = names if branch is None else [branch]
        if any((linear, name) not in self.pairs for name in wanted):
            raise ValueError(
                f"no branch {branch!r} on linear {linear!r}; branches are {', '.join(names)}, linears "
                f"{self.plan.linears[0].name} to {self.plan.linears[-1].name}"
            )
        downs, ups = zip(*(self.pairs[linear, name] for name in wanted), strict=True)
        return np.concatenate(downs, axis=0), np.concatenate(ups, axis=1)

    def delta(self, linear: str, branch: str | None = None) -> np.ndarray:
        """The update s B' A' [out, in] of a branch, or of all."""
        A, B = self.pair(linear, branch)
        return self.scaling * (B @ A)


class Energy(NamedTuple):
    """The energy of one branch on one linear.

    Attributes:
        layer: path of the linear's layer.
        kind: of projection, "q_proj".
        branch: name of the branch.
        energy: ||s B' A'||_F^2, the sum of the squared elements of the branch's update.
        share: of the sum over the linear's branches; 0 where all are 0.
    """

    layer: str
    kind: str
    branch: str
    energy: float
    share: float


class Overlap(NamedTuple):
    """How much two subspaces of the same kind of projection have in common.

    Attributes:
        kind: of projection.
        first, second: paths of the two layers.
        overlap: mean squared cosine of the principal angles, from 0 (orthogonal) to 1 (one
            contains the other).
        chance: the mean overlap of two random subspaces of these ranks.
    """

    kind: str
    first: str
    second: str
    overlap: float
    chance: float


def weights_of(model: nn.Module, adapter: str = "default") -> AdapterWeights:
    """Copies an adapter's weights, as every linear reads them, into arrays.

    Args:
        model: a PeftModel of this kit.
        adapter: its name.

    Raises:
        ValueError: if the model has no such adapter of this kit.
    """
    made = plan_of_model(model, adapter)
    copies = {
        key: tensor.weight.detach().to("cpu", torch.float32, copy=True)
        for key, tensor in tensors_of_model(model, adapter).items()
    }
    pairs = {}
    for linear in made.linears:
        for branch, keys in made.uses[linear.name]:
            tensors = {role: copies[key] for role, key in keys.items()}
            A, B = fit_branch(branch, tensors, linear.in_features, linear.out_features)
            pairs[linear.name, branch.name] = (A.numpy(), B.numpy())
    return AdapterWeights(made, model.peft_config[adapter].scaling, pairs)


def singular_values(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """The min(R, in, out) largest singular values of B A, in falling order; all others are 0.

    Args:
        A: [R, in].
        B: [out, R].
    """
    upper = np.linalg.qr(B.astype(np.float64), mode="r")
    lower = np.linalg.qr(A.T.astype(np.float64), mode="r")
    return np.linalg.svd(upper @ lower.T, compute_uv=False)


def energies(weights: AdapterWeights) -> list[Energy]:
    """The energy of each branch on each linear, in the order of the model.

    Branches whose updates are not orthogonal have an energy together that is not the sum of theirs: see
    `total_energy`.
    """
    rows = []
    for linear in weights.plan.linears:
        found = {
            branch.name: _energy(*weights.pair(linear.name, branch.name), weights.scaling)
            for branch in weights.plan.branches
        }
        whole = sum(found.values())
        for name, value in found.items():
            share = value / whole if whole else 0.0
            rows.append(Energy(linear.layer, linear.kind, name, value, share))
    return rows


def total_energy(weights: AdapterWeights) -> float:
    """The energy of the whole update: branches added up first, then squared, over all linears."""
    linears = weights.plan.linears
    return sum(_energy(*weights.pair(linear.name), weights.scaling) for linear in linears)


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Mean squared cosine of the principal angles between the spans of the rows of two matrices.

    Args:
        first: [r, n].
        second: [r', n]. Give B transposed, to compare the spans of its columns.

    Raises:
        ValueError: if a matrix is all zero and spans nothing, like B before training.
    """
    for matrix in (first, second):
        if not matrix.any():
            raise ValueError(
                "a matrix of zeros spans no subspace; compare B after at least one training step"
            )
    angles = subspace_angles(first.T.astype(np.float64), second.T.astype(np.float64))
    return float(np.mean(np.cos(angles) ** 2))


def layer_overlaps(weights: AdapterWeights, branch: str, role: Role) -> list[Overlap]:
    """The overlap of each two layers, kind by kind: do different layers use the same directions?

    Args:
        weights: of one adapter.
        branch: whose pairs to compare.
        role: "A" compares the input directions (rows of A'), "B" the output directions (columns of B').
    """
    linears = weights.plan.linears
    return [
        Overlap(
            one.kind,
            one.layer,
            other.layer,
            *_compared(weights, one.name, weights, other.name, branch, role),
        )
        for one, other in combinations(linears, 2)
        if one.layer != other.layer and _alike(one, other)
    ]


def run_overlaps(
    weights: AdapterWeights, others: AdapterWeights, branch: str, role: Role
) -> list[Overlap]:
    """The overlap of the same linear in two runs, linear by linear: does training find one subspace?

    Args:
        weights: of one run.
        others: of a run of the same method with another seed.
        branch: whose pairs to compare.
        role: as in `layer_overlaps`.
    """
    return [
        Overlap(
            one.kind, one.layer, one.layer, *_compared(weights, one.name, others, one.name, branch, role)
        )
        for one in weights.plan.linears
    ]


def _alike(one: Linear, other: Linear) -> bool:
    """Of one kind and size, so that their subspaces lie in the same space."""
    sizes = [(linear.kind, linear.in_features, linear.out_features) for linear in (one, other)]
    return sizes[0] == sizes[1]


def _energy(A: np.ndarray, B: np.ndarray, scaling: float) -> float:
    return float(scaling**2 * (singular_values(A, B) ** 2).sum())


def _compared(
    weights: AdapterWeights,
    linear: str,
    others: AdapterWeights,
    other: str,
    branch: str,
    role: Role,
) -> tuple[float, float]:
    """Overlap of one branch on two linears, and what chance gives."""
    if role not in ("A", "B"):
        raise ValueError(f"role {role!r} is unknown; use 'A' or 'B'")
    (A, B), (other_A, other_B) = weights.pair(linear, branch), others.pair(other, branch)
    rows, other_rows = (A, other_A) if role == "A" else (B.T, other_B.T)
    # E ||P Q^T||_F^2 = r r' / n for random orthonormal rows; the mean is over min(r, r') angles.
    return overlap(rows, other_rows), max(len(rows), len(other_rows)) / rows.shape[1]
