"""A linear with adapters of the family: one effective pair, two thin products, whatever the method.

    y = W x + b + scaling * B_eff (A_eff drop(x))        A_eff [R, in], B_eff [out, R]

A_eff stacks the branches' A' over the ranks and B_eff their B' (see `fit`). Both are cast to the dtype
of x; x itself is never cast. One dropout mask serves all branches, where the released BSLoRA code draws
one for each branch. `scaling * B_eff A_eff` is the update that merging adds and exporting writes.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from peft.utils import quantization_extra_repr, resolve_quantization_backend
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from bslora_kit.adapters.bank import AdapterTensor
from bslora_kit.adapters.fit import Pair, fit_branch
from bslora_kit.branches import Branch
from bslora_kit.shapes import Linear

BASE_NAME = "__base__"  # PEFT's name for "no adapter" in mixed batches


@dataclass
class Reading:
    """What a linear reads of one adapter; its tensors are references, owned elsewhere.

    Attributes:
        branches: each branch with its tensors by role.
        scaling: s of the update.
        dropout: probability of the mask on the input.
        keeps: the tensors whose device follows this linear: its own, and the shared ones that it is the
            first to use.
    """

    branches: list[tuple[Branch, dict[str, AdapterTensor]]]
    scaling: float
    dropout: float
    keeps: list[AdapterTensor] = field(default_factory=list)


class SharedLoraLinear(nn.Module, BaseTunerLayer):
    """A linear or Conv1D, the adapter tensors that are its own, and references to the shared ones.

    Args:
        base_layer: the linear to adapt.
        linear: its name and sizes.
        quantization: PEFT's keyword arguments for quantised bases.
    """

    adapter_layer_names = ("shared_lora_own",)
    other_param_names = ("shared_lora_reading",)

    def __init__(self, base_layer: nn.Module, linear: Linear, **quantization: Any) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.fan_in_fan_out = isinstance(base_layer, Conv1D)  # Conv1D keeps its weight as [in, out]
        self.quantization_backend = resolve_quantization_backend(base_layer, **quantization)
        # An adapter without tensors of its own here still has its (empty) entry: PEFT reads from these
        # keys which adapters a layer has.
        self.shared_lora_own = nn.ModuleDict()
        # A plain dict, so that tensors of shared_lora_own or of the bank are not registered again.
        self.shared_lora_reading: dict[str, Reading] = {}
        self._disable_adapters = False
        self._active_adapter = []
        self.merged_adapters = []

    def update_layer(self, adapter_name: str, own: nn.ModuleDict, reading: Reading) -> None:
        """Adds an adapter: the tensors that this linear owns, and all that it reads."""
        self.shared_lora_own[adapter_name] = own
        self.shared_lora_reading[adapter_name] = reading

    def effective_pair(
        self,
        adapter_name: str,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> Pair:
        """The pair of all branches of an adapter on this linear.

        Args:
            adapter_name: an adapter of this layer.
            dtype: of the result; by default float32, or what the tensors have if that is wider.
            device: of the result; by default the base weight's.

        Returns:
            A_eff [R, in] and B_eff [out, R], differentiable.
        """
        device = device or self.base_layer.weight.device
        branches = [
            (branch, {role: tensor() for role, tensor in tensors.items()})
            for branch, tensors in self.shared_lora_reading[adapter_name].branches
        ]
        found = {(t.dtype, t.device) for _, tensors in branches for t in tensors.values()}
        widest = functools.reduce(torch.promote_types, (kind for kind, _ in found), torch.float32)
        if found != {(widest, device)}:
            # Own and shared tensors differ once the base model alone was cast or moved.
            branches = [
                (branch, {role: tensor.to(device, widest) for role, tensor in tensors.items()})
                for branch, tensors in branches
            ]
        pairs = [
            fit_branch(branch, tensors, self.in_features, self.out_features)
            for branch, tensors in branches
        ]
        dtype = dtype or widest
        downs, ups = zip(*((A.to(dtype), B.to(dtype)) for A, B in pairs), strict=True)
        return (downs[0], ups[0]) if len(pairs) == 1 else (torch.cat(downs, 0), torch.cat(ups, 1))

    def get_delta_weight(self, adapter_name: str) -> torch.Tensor:
        """scaling * B_eff A_eff in the layout of the base weight, computed in float32 or wider."""
        A, B = self.effective_pair(adapter_name)
        delta = self.shared_lora_reading[adapter_name].scaling * (B @ A)
        return delta.T if self.fan_in_fan_out else delta

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The base layer's output plus the update of each active adapter.

        Args:
            x: [..., in].
            *args: passed to the base layer.
            **kwargs: passed to the base layer, but for `adapter_names` of a mixed batch.

        Returns:
            [..., out].
        """
        adapter_names = kwargs.pop("adapter_names", None)
        if self.disable_adapters and self.merged:
            self.unmerge()
        if adapter_names is not None and self.merged:
            raise ValueError(
                f"adapters {self.merged_adapters} are merged, so a batch cannot choose its own with "
                "adapter_names; call unmerge_adapter() first"
            )
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        if self.quantization_backend is not None:
            result = self.quantization_backend.maybe_clone_base_result(result)
        if adapter_names is not None:
            return self._add_by_row(result, x, adapter_names)
        for name in self.active_adapters:
            if name in self.shared_lora_reading:
                result = result + self._update(x, name).to(result.dtype)
        return result

    def _update(self, x: torch.Tensor, adapter_name: str) -> torch.Tensor:
        """scaling * B_eff (A_eff drop(x)) of one adapter, [..., out]."""
        reading = self.shared_lora_reading[adapter_name]
        A, B = self.effective_pair(adapter_name, x.dtype, x.device)
        hidden = F.linear(F.dropout(x, reading.dropout, self.training), A)
        return F.linear(reading.scaling * hidden, B)

    def _add_by_row(
        self, result: torch.Tensor, x: torch.Tensor, adapter_names: Sequence[str]
    ) -> torch.Tensor:
        """Adds to each row of a batch the update of the adapter that is named for it."""
        if len(adapter_names) != len(x):
            raise ValueError(
                f"adapter_names has {len(adapter_names)} entries for a batch of {len(x)} rows; "
                f"name one adapter for each row, {BASE_NAME!r} for none"
            )
        for name in dict.fromkeys(adapter_names):
            if name in self.shared_lora_reading:
                rows = torch.tensor(
                    [row for row, chosen in enumerate(adapter_names) if chosen == name],
                    device=result.device,
                )
                update = self._update(x.index_select(0, rows), name)
                result = result.index_add(0, rows, update.to(result.dtype))
        return result

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Adds the update of active (or named) adapters to the base weight.

        Args:
            safe_merge: work on a copy and refuse a result that is not finite.
            adapter_names: which adapters; by default the active ones.

        Raises:
            ValueError: if `safe_merge` finds values that are not finite; the weight is then unchanged.
        """
        for name in check_adapters_to_merge(self, adapter_names):
            if name not in self.shared_lora_reading:
                continue
            weight = self.get_base_weight()
            merged = weight + self.get_delta_weight(name).to(weight.dtype)
            if safe_merge and not torch.isfinite(merged).all():
                raise ValueError(
                    f"adapter {name!r} gives weights that are not finite; it is broken and not merged"
                )
            self.set_base_weight(merged)
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Takes the update of all merged adapters out of the base weight, up to rounding."""
        if not self.merged:
            warnings.warn("no adapter is merged, nothing to unmerge", stacklevel=2)
            return
        while self.merged_adapters:
            weight = self.get_base_weight()
            delta = self.get_delta_weight(self.merged_adapters.pop())
            self.set_base_weight(weight - delta.to(weight.dtype))

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """True: the update is additive. PEFT's conversion is by SVD; `export_lora` is exact."""
        return True

    def _move_adapter_to_device_of_base_layer(
        self, adapter_name: str, device: torch.device | None = None
    ) -> None:
        """Moves what follows this linear to its device; PEFT calls it after `low_cpu_mem_usage`.

        The dtype stays: casting loaded float32 values to a bfloat16 base would round them.
        """
        device = device or self.base_layer.weight.device
        reading = self.shared_lora_reading.get(adapter_name)
        for tensor in reading.keeps if reading else ():
            if tensor.weight.device.type != "meta":
                tensor.to(device)

    def __repr__(self) -> str:
        """As PEFT writes its layers, with the method in front."""
        return "shared_lora." + super().__repr__()

    def extra_repr(self) -> str:
        """Quantisation of the base, if any."""
        return quantization_extra_repr(self)
