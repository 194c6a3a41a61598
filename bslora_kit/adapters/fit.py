"""How a shared pair (A, B) meets a linear of another size: every branch ends as A' [R, in], B' [out, R].

    slice   A [r, I], B [O, r]   centred columns of A, centred rows of B                 R = r
    gate    A [r, g], B [g, r]   dW = gate_ou (gate_od B A gate_iu) gate_id              R = 1
    kron    A [r, k], B [k, r]   A' = kron_a (x) A, B' = kron_b (x) B, the end cut off   R = r
    gains   u [r], v [out]       dW = diag(v) B diag(u) A                                R = r

Slice, gate and Kronecker fits: Zhou et al., BSLoRA, ICML 2025. Gains: Kopiczko et al., VeRA, ICLR 2024,
and Renduchintala et al., Tied-LoRA, NAACL 2024. All are linear in (A, B), so an update is always the
product B' A' and never needs more than two thin matrices. Pure functions of tensors.

Why the Kronecker fit forms its thin pair instead of folding x over its chunks, for T tokens and rank r:
forming moves about 2 r in numbers, once for all tokens; folding reads T in numbers again for each
branch, and T is hundreds to thousands where r is 2 to 32. Folding multiplies less, 2 T in against
2 T r in, but that is r / out of what the base multiplies, and one product of all branches hides it. With
fewer tokens than ranks the count turns round; both are then small beside reading W, in x out numbers.
"""

from __future__ import annotations

from torch import Tensor

from bslora_kit.branches import Branch
from bslora_kit.plan import centred_offset

Pair = tuple[Tensor, Tensor]  # A' [R, in], B' [out, R]


def fit_slice(
    A: Tensor,  # [r, I]
    B: Tensor,  # [O, r]
    in_features: int,
    out_features: int,
) -> Pair:  # [r, in], [out, r]
    """The centred slices of a pair that is at least as large as the linear (BSLoRA, SS)."""
    start_in = centred_offset(A.shape[1], in_features)
    start_out = centred_offset(B.shape[0], out_features)
    return A[:, start_in : start_in + in_features], B[start_out : start_out + out_features]


def fit_gate(
    A: Tensor,  # [r, g]
    B: Tensor,  # [g, r]
    gate_id: Tensor,  # [1, in]
    gate_iu: Tensor,  # [g, 1]
    gate_od: Tensor,  # [1, g]
    gate_ou: Tensor,  # [out, 1]
) -> Pair:  # [1, in], [out, 1]
    """One dot product and one outer product: gate_od B A gate_iu is a scalar (BSLoRA, GT)."""
    # Sums, since autocast would round the factors of matrix products to half precision.
    inward, outward = (A * gate_iu.T).sum(1), (gate_od.T * B).sum(0)  # [r], [r]
    return (outward * inward).sum() * gate_id, gate_ou


def fit_kron(
    A: Tensor,  # [r, k]
    B: Tensor,  # [k, r]
    kron_a: Tensor,  # [1, ceil(in / k)]
    kron_b: Tensor,  # [ceil(out / k), 1]
    in_features: int,
    out_features: int,
) -> Pair:  # [r, in], [out, r]
    """Column j k + i of A' is kron_a[j] A[:, i], row j k + i of B' is kron_b[j] B[i] (BSLoRA, KE)."""
    rank = A.shape[0]
    wide = A[:, None, :] * kron_a.view(1, -1, 1)  # [r, chunks, k]
    tall = B[None, :, :] * kron_b.view(-1, 1, 1)  # [chunks, k, r]
    return wide.reshape(rank, -1)[:, :in_features], tall.reshape(-1, rank)[:out_features]


def apply_gains(
    A: Tensor,  # [r, in]
    B: Tensor,  # [out, r]
    u: Tensor,  # [r]
    v: Tensor,  # [out]
) -> Pair:  # [r, in], [out, r]
    """diag(u) A and diag(v) B (Tied-LoRA TL6, VeRA)."""
    return u[:, None] * A, v[:, None] * B


def fit_branch(branch: Branch, tensors: dict[str, Tensor], in_features: int, out_features: int) -> Pair:
    """The pair A' [R, in], B' [out, R] of one branch on one linear.

    Args:
        branch: says which fit, and whether gains follow.
        tensors: role -> tensor, with the roles and shapes of the table in `bslora_kit.plan`.
        in_features: size of the linear's input.
        out_features: size of the linear's output.
    """
    A, B = tensors["A"], tensors["B"]
    if branch.fit == "slice":
        A, B = fit_slice(A, B, in_features, out_features)
    elif branch.fit == "gate":
        gates = (tensors[role] for role in ("gate_id", "gate_iu", "gate_od", "gate_ou"))
        A, B = fit_gate(A, B, *gates)
    elif branch.fit == "kron":
        A, B = fit_kron(A, B, tensors["kron_a"], tensors["kron_b"], in_features, out_features)
    return apply_gains(A, B, tensors["u"], tensors["v"]) if branch.gains else (A, B)
