"""The linears of a model (layer, kind, in, out) and its size, without weights.

The three published Llamas are built in as plain Python: sizes from their released configs,
parameter totals computed from them. `of_config` reads any other model of transformers from its
config, built on the meta device; `of_model` reads a model that is there, adapted or not. Names are
module paths of the model that is given to `peft.get_peft_model`, so what matches here is what PEFT
adapts.

    config, model --> Linear("model.layers.0.self_attn.k_proj", "model.layers.0", "k_proj", 4096, 1024)
                      ...
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bslora_kit.files import read_object

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig

DEFAULT_TARGETS = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")  # published BSLoRA targets

_FIRST_NUMBER = re.compile(r"(?:.*?\.)?\d+(?=\.|$)")


@dataclass(frozen=True)
class Linear:
    """One linear projection of a model.

    Attributes:
        name: its module path, for example "model.layers.0.self_attn.q_proj".
        layer: path of its layer up to the first number, "model.layers.0"; "" outside the layers.
        kind: last part of the path, "q_proj".
        in_features: size of its input.
        out_features: size of its output.
    """

    name: str
    layer: str
    kind: str
    in_features: int
    out_features: int


@dataclass(frozen=True)
class Shapes:
    """The adaptable linears of a model and its size.

    Attributes:
        name: what tables call the model.
        model_type: its type in transformers, for example "llama".
        linears: in the model's order, the output head included.
        parameters: elements of all its weights, tied ones once, adapters left out.
        head: name of the linear that gives the logits, which "all-linear" leaves out; "" if none.
        fused: names of the 3-D parameters that hold all experts of a layer in one tensor.
    """

    name: str
    model_type: str
    linears: tuple[Linear, ...]
    parameters: int
    head: str = ""
    fused: tuple[str, ...] = ()


def llama_1_7b() -> Shapes:
    """Llama 1 7B (Touvron et al. 2023)."""
    return _llama("Llama-1-7B", vocabulary=32_000, hidden=4096, kv=4096, mlp=11_008, layers=32)


def llama_3_8b() -> Shapes:
    """Llama 3 8B (Grattafiori et al. 2024): 8 key-value heads of 128 for 32 heads."""
    return _llama("Llama-3-8B", vocabulary=128_256, hidden=4096, kv=1024, mlp=14_336, layers=32)


def llama_1_13b() -> Shapes:
    """Llama 1 13B (Touvron et al. 2023)."""
    return _llama("Llama-1-13B", vocabulary=32_000, hidden=5120, kv=5120, mlp=13_824, layers=40)


def _llama(name: str, *, vocabulary: int, hidden: int, kv: int, mlp: int, layers: int) -> Shapes:
    """A Llama with its own output head: no biases, two norms a layer and one at the end."""
    sizes = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (hidden, kv),
        "self_attn.v_proj": (hidden, kv),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (hidden, mlp),
        "mlp.up_proj": (hidden, mlp),
        "mlp.down_proj": (mlp, hidden),
    }
    linears = [
        linear_at(f"model.layers.{layer}.{path}", *size)
        for layer in range(layers)
        for path, size in sizes.items()
    ]
    linears.append(linear_at("lm_head", hidden, vocabulary))
    weights = sum(linear.in_features * linear.out_features for linear in linears)
    norms = (2 * layers + 1) * hidden
    return Shapes(name, "llama", tuple(linears), vocabulary * hidden + weights + norms, "lm_head")


def linear_at(name: str, in_features: int, out_features: int) -> Linear:
    """The Linear of a module path: its layer ends with the path's first number."""
    layer = _FIRST_NUMBER.match(name)
    kind = name.rpartition(".")[2]
    return Linear(name, layer.group() if layer else "", kind, in_features, out_features)


def of_config(config: PreTrainedConfig | str | Path, name: str | None = None) -> Shapes:
    """The shapes of a transformers model, built without weights on the meta device.

    Models with a causal head get it; encoders (BERT) and encoder-decoders are read without a head.

    Args:
        config: a transformers config, or a folder that holds its config.json.
        name: what tables call the model; by default the folder's or the config's own name.

    Raises:
        FileNotFoundError: if the folder holds no config.json.
        ValueError: if transformers does not know the model without code from its repository.
    """
    import torch
    from transformers import AutoModel, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
        MODEL_MAPPING,
    )

    if isinstance(config, (str, Path)):
        name = name or Path(config).name
        config = _read_config(Path(config))
    kind = type(config)
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING and kind not in MODEL_FOR_MASKED_LM_MAPPING:
        factory = AutoModelForCausalLM
    elif kind in MODEL_MAPPING:
        factory = AutoModel
    else:
        raise ValueError(
            f"transformers has no model for a {kind.__name__}; give the config of one that it has"
        )
    with torch.device("meta"):
        model = factory.from_config(config, trust_remote_code=False)
    return of_model(model, name)


def of_model(model: nn.Module, name: str | None = None) -> Shapes:
    """The shapes of a model that is there.

    Args:
        model: any module with nn.Linear or transformers Conv1D inside. Of a model adapted by PEFT,
            the base layers are read, under the names that they have without PEFT.
        name: what tables call the model; by default its config's name or type.

    Raises:
        TypeError: if `model` is not a torch module.
    """
    import torch

    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"of_model needs a torch.nn.Module, got {type(model).__name__}")
    if hasattr(model, "get_base_model"):  # PeftModel
        model = model.get_base_model()
    config = getattr(model, "config", None)
    model_type = getattr(config, "model_type", "")
    head = _output_embedding(model)
    linears: list[Linear] = []
    fused: list[str] = []
    head_name = ""
    weights: dict[int, int] = {}
    for path, module in _base_modules(model):
        size = _linear_size(module)
        if size is not None:
            linears.append(linear_at(path, *size))
        if module is head:
            head_name = path
        for key, parameter in module.named_parameters(recurse=False):
            weights[id(parameter)] = parameter.numel()
            if parameter.ndim == 3 and "expert" in path:
                fused.append(f"{path}.{key}")
    name = name or getattr(config, "name_or_path", "") or model_type or type(model).__name__
    return Shapes(name, model_type, tuple(linears), sum(weights.values()), head_name, tuple(fused))


def refuse_fused(targets: Iterable[str] | str, shapes: Shapes) -> None:
    """Says why a target cannot be adapted where a model holds its experts as fused tensors.

    PEFT passes over names that match nothing, so `["q_proj", "down_proj"]` would silently leave the
    experts of a Mixtral untouched.

    Args:
        targets: names as in PEFT's target_modules, or one regular expression.
        shapes: of the model.

    Raises:
        ValueError: if a name matches no linear, or the expression a fused tensor, and the model has
            fused experts.
    """
    if not shapes.fused:
        return
    if isinstance(targets, str):
        pattern = re.compile(targets)
        parts = [part for name in shapes.fused for part in (name, name.rpartition(".")[0])]
        missing = [targets] if any(pattern.fullmatch(part) for part in parts) else []
    else:
        known = [linear.name for linear in shapes.linears]
        missing = [
            target
            for target in sorted(targets)
            if not any(name == target or name.endswith(f".{target}") for name in known)
        ]
    if missing:
        raise ValueError(
            f"target {missing[0]!r} of {shapes.name} cannot be adapted: transformers keeps all "
            f"experts of a layer in one 3-D parameter ({shapes.fused[0]}), and only linears take a "
            f"low-rank pair; target {', '.join(_kinds(shapes))}"
        )


def _kinds(shapes: Shapes) -> list[str]:
    """Kinds of the linears inside the layers, in the model's order."""
    return list(dict.fromkeys(linear.kind for linear in shapes.linears if linear.layer))


def _read_config(folder: Path) -> PreTrainedConfig:
    """The config of a model folder; its code is never run."""
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no config.json; give the folder of a model, or its config object"
        )
    read_object(folder / "config.json", "copy the model again")
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except ValueError as error:
        raise ValueError(
            f"transformers does not know the model in {folder} without running code from its "
            "repository, which this kit never does; give a model that transformers itself defines"
        ) from error


def _output_embedding(model: nn.Module) -> nn.Module | None:
    """The linear that turns hidden states into logits, which PEFT's "all-linear" leaves out."""
    from transformers import PreTrainedModel

    found = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    return found if found is None else _unwrapped(found)


def _unwrapped(module: nn.Module) -> nn.Module:
    """The module of the base model inside PEFT's wrappers."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    while isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
        adapted = isinstance(module, BaseTunerLayer)
        module = module.base_layer if adapted else module.original_module
    return module


def _linear_size(module: nn.Module) -> tuple[int, int] | None:
    """(in, out) of a linear, None for other modules; Conv1D keeps its weight as [in, out]."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    return None


def _base_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(path, module) of each module once, with PEFT's wrappers replaced by what they wrap."""
    seen: set[int] = set()

    def walk(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        module = _unwrapped(module)
        if id(module) in seen:
            return
        seen.add(id(module))
        yield path, module
        for key, child in module.named_children():
            yield from walk(f"{path}.{key}" if path else key, child)

    yield from walk("", model)
