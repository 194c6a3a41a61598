"""The equations of BSLoRA read word by word, as something to compare with.

Each branch on its own: dropout, a product with A, a product with B, an addition. The Kronecker extension
makes torch.kron(K_A, A) and torch.kron(K_B, B) first; a gated branch is its six products one after the
other (Zhou et al., ICML 2025). x is cast to the adapter's dtype, as PEFT's LoRA does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bslora_kit.adapters.layer import SharedLoraLinear
from bslora_kit.branches import Branch
from bslora_kit.plan import centred_offset


class NaiveLinear(nn.Module):
    """Reads the tensors of an adapted linear, term by term.

    Args:
        layer: an adapted linear with one adapter; it keeps the tensors.
    """

    def __init__(self, layer: SharedLoraLinear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:  # [..., in] -> [..., out]
        """The base layer's output plus one update for each branch."""
        (reading,) = self.layer.shared_lora_reading.values()
        result = self.layer.base_layer(x)
        for branch, tensors in reading.branches:
            read = {role: tensor() for role, tensor in tensors.items()}
            dropped = F.dropout(x.to(read["A"].dtype), reading.dropout, self.training)
            update = branch_update(branch, read, dropped, self.layer.in_features, result.shape[-1])
            result = result + reading.scaling * update.to(result.dtype)
        return result


def branch_update(
    branch: Branch, tensors: dict[str, Tensor], x: Tensor, in_features: int, out_features: int
) -> Tensor:  # [..., out]
    """B A x of one BSLoRA branch.

    Args:
        branch: with fit None, "slice", "gate" or "kron", without gains.
        tensors: role -> tensor.
        x: [..., in].
        in_features: size of the linear's input.
        out_features: size of its output.
    """
    A, B = tensors["A"], tensors["B"]
    if branch.fit == "gate":
        for role in ("gate_id", "gate_iu", "A", "B", "gate_od", "gate_ou"):
            x = F.linear(x, tensors[role])
        return x
    if branch.fit == "kron":
        A = torch.kron(tensors["kron_a"], A)[:, :in_features]
        B = torch.kron(tensors["kron_b"], B)[:out_features]
    if branch.fit == "slice":
        skip_in = centred_offset(A.shape[1], in_features)
        skip_out = centred_offset(B.shape[0], out_features)
        A, B = A[:, skip_in : skip_in + in_features], B[skip_out : skip_out + out_features]
    return F.linear(F.linear(x, A), B)
