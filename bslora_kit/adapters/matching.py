"""Which linears of a model a config adapts, and why another module cannot be adapted.

PEFT's own matching decides (`SharedLoraConfig.targets_in`); here its result is compared with the modules
that are really there, before any of them is touched, and written down for those who load the adapter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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


def describe_linears(linears: Iterable[Linear]) -> dict[str, str]:
    """What an adapter is made for, to be read and compared: two lists of linears differ if this does.

    Returns:
        Names of linears -> "out x in". Layers whose linears are alike stand together as a range:
        {"model.layers.0-31.self_attn.k_proj": "1024 x 4096"}.
    """
    layers: dict[tuple[str, str, str], list[int]] = {}
    described = {}
    for linear in linears:
        size = f"{linear.out_features} x {linear.in_features}"
        if linear.layer:  # ends with its number
            stack, dot, number = linear.layer.rpartition(".")
            inside = linear.name.removeprefix(linear.layer)
            layers.setdefault((stack + dot, inside, size), []).append(int(number))
        else:
            described[linear.name] = size
    for (stack, inside, size), numbers in layers.items():
        described[f"{stack}{_ranges(sorted(numbers))}{inside}"] = size
    return described


def linears_difference(made_for: dict[str, str] | None, found: dict[str, str] | None) -> str:
    """How the linears of an adapter differ from those of a model; "" if not, or if a side is unknown."""
    if made_for is None or found is None or made_for == found:
        return ""
    one, two = (
        _some(sorted(f"{name} ({size})" for name, size in side))
        for side in (made_for.items() - found.items(), found.items() - made_for.items())
    )
    return f"it was made for the linears {one} and this model has {two} (out x in)"


def _some(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    if not names:
        return "no others"
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} others"


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as text: 0-3,5."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts)
