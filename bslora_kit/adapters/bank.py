"""The tensors of an adapter as small modules, and the bank that owns the shared ones.

Every tensor of a plan is one `AdapterTensor`, made once. A tensor of scope "module" is owned by its
linear; all others are owned by the one bank of the tuner, and the linears keep plain references to
them. So `named_parameters`, optimizers, files and `.to()` meet each tensor once. A tensor is read by
calling its module: what acts on module calls (FSDP, offloading) and what replaces a Parameter (dtype
casts, loading) then reaches every user.

    tuner.shared_lora_bank[adapter]["intra/A/model/layers/0"]              one tensor, many users
    linear.shared_lora_own[adapter]["local/A"]                             one tensor, one user

Trainable tensors are Parameters. Frozen ones (the factors of VeRA) are buffers outside the state dict:
they are drawn again from the config's seed and their key, on the CPU, so that they are equal on every
machine and never stored.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

import torch
from torch import nn

from bslora_kit import plan

_KAIMING_SLOPE = math.sqrt(5)  # a = sqrt 5, as in torch.nn.Linear and the published runs


class AdapterTensor(nn.Module):
    """One tensor of a plan; calling it returns the tensor.

    Attributes:
        scope: over what it is shared: "module", "layer", "type" or "model".
        weight: the tensor, a Parameter if it trains, else a buffer that is not saved.
    """

    def __init__(self, spec: plan.Tensor, value: torch.Tensor) -> None:
        super().__init__()
        self.scope = spec.scope
        if spec.trainable:
            self.weight = nn.Parameter(value)
        else:
            self.register_buffer("weight", value, persistent=False)

    def forward(self) -> torch.Tensor:
        """The tensor itself."""
        return self.weight

    def extra_repr(self) -> str:
        """Scope and shape, for print(model)."""
        return f"scope={self.scope}, shape={tuple(self.weight.shape)}"


def module_name(key: str) -> str:
    """A tensor's key as the name of a module, which may not contain dots."""
    return key.replace(".", "/")


def own_name(spec: plan.Tensor) -> str:
    """Name of a tensor of scope "module" inside its linear."""
    return module_name(f"{spec.branch}.{spec.role}")


def make_tensor(
    spec: plan.Tensor,
    *,
    zero_start: bool,
    frozen_seed: int,
    device: torch.device,
    dtype: torch.dtype,
) -> AdapterTensor:
    """Makes one tensor of a plan with its first values.

    Values are drawn in float32 on the CPU, so that a seed gives the same adapter on every device. What
    trains is then cast to `dtype`; what is frozen stays in float32 or wider.

    Args:
        spec: the tensor to make.
        zero_start: start as the plan says, which makes the update 0; otherwise B and v are random.
        frozen_seed: seed of the tensors that do not train.
        device: where it lives; "meta" leaves a trainable tensor without values, a frozen one on the CPU.
        dtype: of a trainable tensor.
    """
    if not spec.trainable:
        value = _first_value(spec, zero_start, _frozen_generator(frozen_seed, spec.key))
        home = torch.device("cpu") if device.type == "meta" else device
        return AdapterTensor(spec, value.to(home, torch.promote_types(dtype, torch.float32)))
    if device.type == "meta":
        return AdapterTensor(spec, torch.empty(spec.shape, device=device, dtype=dtype))
    return AdapterTensor(spec, _first_value(spec, zero_start, None).to(device, dtype))


def adapter_tensors(model: nn.Module) -> Iterable[tuple[str, AdapterTensor]]:
    """(name of its parameter, tensor) of every tensor in a model, each once."""
    for name, module in model.named_modules():
        if isinstance(module, AdapterTensor):
            yield f"{name}.weight", module


def _first_value(spec: plan.Tensor, zero_start: bool, generator: torch.Generator | None) -> torch.Tensor:
    """The first value of a tensor, in float32 on the CPU."""
    value = torch.empty(spec.shape, dtype=torch.float32, device="cpu")
    if spec.init == "kaiming" or (spec.role == "B" and not zero_start):
        return nn.init.kaiming_uniform_(value, a=_KAIMING_SLOPE, generator=generator)
    if spec.role == "v" and not zero_start:
        return nn.init.uniform_(value, -1.0, 1.0, generator=generator)
    return nn.init.ones_(value) if spec.init == "ones" else nn.init.zeros_(value)


def _frozen_generator(seed: int, key: str) -> torch.Generator:
    """A generator of its own for each frozen tensor, so that no other draw shifts it."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return torch.Generator(device="cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)
