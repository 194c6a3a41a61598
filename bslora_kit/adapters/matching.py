"""Which linears of a model a config adapts, and why another module cannot be adapted.

PEFT's own matching decides (`SharedLoraConfig.targets_in`); here its result is compared with the modules
that are really there, before any of them is touched.
"""

from __future__ import annotations

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_target_module_exists
from peft.utils.constants import INCLUDE_LINEAR_LAYERS_SHORTHAND
from torch import nn
from transformers.pytorch_utils import Conv1D

from bslora_kit.adapters.layer import SharedLoraLinear
from bslora_kit.methods import SharedLoraConfig, resolve_targets
from bslora_kit.shapes import Linear, of_model


def match_linears(config: SharedLoraConfig, model: nn.Module) -> tuple[Linear, ...]:
    """The linears that a config adapts; writes the targets that it leaves open into the config.

    Raises:
        ValueError: if a target is something else than a linear that takes an adapter.
    """
    shapes = of_model(model)
    linears = config.targets_in(shapes)
    names = {linear.name for linear in linears}
    targets = resolve_targets(config.target_modules, shapes)
    if isinstance(targets, str) and targets.lower() == INCLUDE_LINEAR_LAYERS_SHORTHAND:
        targets = names
    config.target_modules = targets
    config.fan_in_fan_out = any(isinstance(base_of(model.get_submodule(name)), Conv1D) for name in names)
    inside = tuple(
        f"{name}." for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)
    )
    for name, module in model.named_modules():
        if not name or name.startswith(inside):
            continue
        if not check_target_module_exists(config, name):
            continue
        kind = type(module).__name__
        if name not in names:
            raise ValueError(
                f"target_modules {config.target_modules!r} match {name!r} of type {kind}; only "
                "nn.Linear (also of bitsandbytes) and Conv1D take an adapter: narrow target_modules "
                "or put the name into exclude_modules"
            )
        if isinstance(module, BaseTunerLayer) and not isinstance(module, SharedLoraLinear):
            raise ValueError(
                f"{name!r} already holds an adapter of another method ({kind}); unload that first"
            )
        if isinstance(model.get_submodule(name.rpartition(".")[0]), nn.MultiheadAttention):
            raise ValueError(
                f"{name!r} lies in an nn.MultiheadAttention, which reads its weight without calling it, "
                "so that an adapter there would do nothing; put it into exclude_modules"
            )
    return linears


def base_of(module: nn.Module) -> nn.Module:
    """The linear itself, without the layers that adapt it."""
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def home_of(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device of a linear and the dtype in which its adapters start."""
    base = base_of(module)
    dtype = getattr(base, "compute_dtype", None) or base.weight.dtype
    plain = dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    return base.weight.device, dtype if plain else torch.float32
