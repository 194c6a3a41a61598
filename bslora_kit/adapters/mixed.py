"""Batches whose rows use different adapters: two batched products instead of a loop over adapters.

    h = s x A'    [n, tokens, R]        A [n, R, in]     one slice for each adapter in the batch,
    y = y + h B   [n, tokens, out]      B [n, R, out]    smaller ranks filled up with zeros

`adapter_names` of PEFT names one adapter for each row; `__base__`, and an adapter that does not target
the linear, have zeros. The pairs of the batch at hand are kept until its adapters or their values
change, so that generating token after token fits once: at most batch size x R (in + out) numbers for
each linear, however many adapters are loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bslora_kit.adapters.fused import product_dtype

if TYPE_CHECKING:
    from bslora_kit.adapters.layer import SharedLoraLinear

Stack = tuple[Tensor, Tensor, Tensor]  # A [n, R, in], B [n, R, out], scaling [n, 1, 1]

BASE_NAME = "__base__"  # PEFT's name for "no adapter" in mixed batches


class RowPairs:
    """The effective pairs of the adapters in one linear's last mixed batch. Copies start empty.

    Attributes:
        kept: the pairs, stacked; None where nothing is kept.
    """

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self.kept: Stack | None = None

    def __reduce__(self) -> tuple[type[RowPairs], tuple[()]]:
        """Deep copies and pickles of a layer fit again instead of carrying the pairs."""
        return RowPairs, ()

    def forget(self) -> None:
        """Frees what is kept."""
        self._key = self.kept = None

    def add(
        self,
        layer: SharedLoraLinear,
        result: Tensor,  # [batch, ..., out]
        x: Tensor,  # [batch, ..., in]
        adapter_names: Sequence[str],
    ) -> Tensor:  # [batch, ..., out]
        """Adds to each row of a batch the update of the adapter that is named for it.

        Raises:
            ValueError: if there is not one name for each row.
        """
        if len(adapter_names) != len(x):
            raise ValueError(
                f"adapter_names has {len(adapter_names)} entries for a batch of {len(x)} rows; "
                f"name one adapter for each row, {BASE_NAME!r} for none"
            )
        readings = layer.shared_lora_reading
        by_row = [name if name in readings else BASE_NAME for name in adapter_names]
        names = tuple(dict.fromkeys(by_row))
        if names == (BASE_NAME,):
            return result
        stack = self._pairs(layer, names, product_dtype(x), x.device)
        repeats = len(by_row) // len(names)
        if by_row != [name for name in names for _ in range(repeats)]:  # as beams are, for example
            rows = torch.tensor([names.index(name) for name in by_row], device=x.device)
            stack = tuple(part.index_select(0, rows) for part in stack)
        A, B, scaling = stack
        hidden = torch.bmm(x.reshape(len(A), -1, x.shape[-1]).to(A.dtype), A.transpose(1, 2))
        update = torch.bmm((hidden * scaling).to(B.dtype), B).view(result.shape)
        return result + update.to(result.dtype)

    def _pairs(
        self, layer: SharedLoraLinear, names: tuple[str, ...], dtype: torch.dtype, device: torch.device
    ) -> Stack:
        """The stacked pairs of some adapters, kept from the last call where nothing has changed."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return stacked_pairs(layer, names, dtype, device)
        read = [layer.shared_lora_reading[name] for name in names if name != BASE_NAME]
        weights = [weight for reading in read for weight in reading.weights()]
        if any(weight.is_inference() for weight in weights):  # these do not count their changes
            return stacked_pairs(layer, names, dtype, device)
        key = (names, dtype, device, [(weight.data_ptr(), weight._version) for weight in weights])
        if key != self._key:
            self.kept = stacked_pairs(layer, names, dtype, device)
            self._key = key
        return self.kept


def stacked_pairs(
    layer: SharedLoraLinear, names: Sequence[str], dtype: torch.dtype, device: torch.device
) -> Stack:
    """The effective pairs of some adapters of a linear, filled up with zeros to the largest rank.

    Args:
        layer: the adapted linear.
        names: adapters of the layer, or `__base__` for zeros.
        dtype: of A and B.
        device: of the result.
    """
    pairs = [[] if name == BASE_NAME else layer.branch_pairs(name, device) for name in names]
    ranks = [sum(len(A) for A, _ in branches) for branches in pairs]
    downs, ups = [], []  # written into place by one concatenation each
    for rank, branches in zip(ranks, pairs, strict=True):
        downs += [A for A, _ in branches]
        ups += [B.T for _, B in branches]
        if rank < max(ranks):
            downs.append(torch.zeros(max(ranks) - rank, layer.in_features, device=device))
            ups.append(torch.zeros(max(ranks) - rank, layer.out_features, device=device))
    A = torch.cat(downs).to(dtype).view(len(names), max(ranks), layer.in_features)
    B = torch.cat(ups).to(dtype).view(len(names), max(ranks), layer.out_features)
    readings = layer.shared_lora_reading
    scaling = [0.0 if name == BASE_NAME else readings[name].scaling for name in names]
    wide = torch.promote_types(dtype, torch.float32)
    return A, B, torch.tensor(scaling, dtype=wide, device=device).view(-1, 1, 1)
