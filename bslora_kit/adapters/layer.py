"""A linear with adapters of the family: one effective pair, two thin products, whatever the method.

    y = W x + b + scaling * B_eff (A_eff drop(x))        A_eff [R, in], B_eff [out, R]

A_eff stacks the branches' A' over the ranks and B_eff their B' (see `fit`). Both are cast to the dtype
in which the linear multiplies; no copy of x is kept (see `fused`). One dropout mask serves all branches,
where the released BSLoRA code draws one for each branch. `scaling * B_eff A_eff` is the update that
merging adds and exporting writes. A batch whose rows use different adapters: see `mixed`.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from peft.utils import quantization_extra_repr, resolve_quantization_backend
from torch import nn
from transformers.pytorch_utils import Conv1D

from bslora_kit.adapters.bank import AdapterTensor
from bslora_kit.adapters.fit import Pair, fit_branch
from bslora_kit.adapters.fused import adapted_linear, product_dtype
from bslora_kit.adapters.mixed import BASE_NAME, RowPairs
from bslora_kit.branches import Branch
from bslora_kit.shapes import Linear

__all__ = ["BASE_NAME", "Reading", "SharedLoraLinear"]


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

    def weights(self) -> list[torch.Tensor]:
        """Every tensor that is read."""
        return [tensor.weight for _, tensors in self.branches for tensor in tensors.values()]


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
        self.row_pairs = RowPairs()
        self._disable_adapters = False
        self._active_adapter = []
        self.merged_adapters = []

    def update_layer(self, adapter_name: str, own: nn.ModuleDict, reading: Reading) -> None:
        """Adds an adapter: the tensors that this linear owns, and all that it reads."""
        self.shared_lora_own[adapter_name] = own
        self.shared_lora_reading[adapter_name] = reading
        self.row_pairs.forget()

    def delete_adapter(self, adapter_name: str) -> None:
        """Drops an adapter and all that is kept of it."""
        super().delete_adapter(adapter_name)
        self.row_pairs.forget()

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
        pairs = self.branch_pairs(adapter_name, device or self.base_layer.weight.device)
        downs, ups = zip(*pairs, strict=True)
        A, B = (downs[0], ups[0]) if len(pairs) == 1 else (torch.cat(downs, 0), torch.cat(ups, 1))
        return A.to(dtype or A.dtype), B.to(dtype or B.dtype)

    def branch_pairs(self, adapter_name: str, device: torch.device) -> list[Pair]:
        """The pair A' [R, in], B' [out, R] of each branch of an adapter, in float32 or wider."""
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
        return [
            fit_branch(branch, tensors, self.in_features, self.out_features)
            for branch, tensors in branches
        ]

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
        silent = self.disable_adapters or self.merged
        names = [name for name in self.active_adapters if name in self.shared_lora_reading]
        if not silent and adapter_names is None and names and self._base_is_plain(x, args, kwargs):
            result = self._update(x, names.pop(0), self.base_layer.weight, self.base_layer.bias)
        else:
            result = self.base_layer(x, *args, **kwargs)
            if silent:
                return result
            if self.quantization_backend is not None:
                result = self.quantization_backend.maybe_clone_base_result(result)
        if adapter_names is not None:
            return self.row_pairs.add(self, result, x, adapter_names)
        for name in names:
            result = result + self._update(x, name).to(result.dtype)
        return result

    def _update(
        self,
        x: torch.Tensor,
        adapter_name: str,
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """scaling * B_eff (A_eff drop(x)) of one adapter, [..., out]; on top of W x + b where given."""
        reading = self.shared_lora_reading[adapter_name]
        A, B = self.effective_pair(adapter_name, product_dtype(x), x.device)
        dropout = reading.dropout if self.training else 0.0
        return adapted_linear(x, A, B, reading.scaling, dropout, weight, bias)

    def _base_is_plain(self, x: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the base layer does W x + b and nothing else, so that one step may do it all.

        Everything else is called as it is: other classes, quantised, sharded or parametrised weights,
        and linears whose call somebody watches or replaces. A compiler joins the two by itself.
        """
        base = self.base_layer
        return (
            not torch.compiler.is_compiling()
            and type(base) is nn.Linear
            and type(base.weight) is nn.Parameter
            and base.weight.device == x.device
            and product_dtype(base.weight) == product_dtype(x)
            and not (args or kwargs or "forward" in vars(base))
            and not (base._forward_hooks or base._forward_pre_hooks)
            and not (base._backward_hooks or base._backward_pre_hooks)
        )

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
            if "meta" not in (tensor.weight.device.type, device.type):
                tensor.to(device)

    def __repr__(self) -> str:
        """As PEFT writes its layers, with the method in front."""
        return "shared_lora." + super().__repr__()

    def extra_repr(self) -> str:
        """Quantisation of the base, if any."""
        return quantization_extra_repr(self)
