"""What a benchmark runs: one linear, one decoder layer, a training step of a whole model.

Linear and decoder layer have the proportions of Llama 3 8B (Grattafiori et al. 2024): key-value size 1/4
and MLP size 7/2 of the hidden size, 128 numbers a head. On CUDA they have its sizes, in bfloat16; on a
CPU a quarter of them in float32, the dtype in which CPUs without bfloat16 units are not held up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, LlamaModel

from bslora_kit.paths import BASE
from bslora_kit.shapes import DEFAULT_TARGETS


@dataclass(frozen=True)
class Scale:
    """Sizes of the linear and the decoder layer.

    Attributes:
        hidden: hidden size.
        tokens: of the batch, in one row.
        model_batch: rows and tokens a row of a training step.
        dtype: of the base.
        heads: attention heads.
        head_size: numbers a head.
    """

    hidden: int
    tokens: int
    model_batch: tuple[int, int]
    dtype: torch.dtype
    head_size: int = 128

    @property
    def mlp(self) -> int:
        """MLP size."""
        return self.hidden * 7 // 2

    @property
    def key_value(self) -> int:
        """Size of keys and of values."""
        return self.hidden // 4


def scale_for(device: torch.device, quick: bool) -> Scale:
    """The sizes that a device is measured at; `quick` only shows that everything runs.

    A training step of Llama 3 8B with PEFT's LoRA keeps 36 units of activations in 32 layers, and a unit
    is 8 KiB a token: 4 rows of 2,048 tokens are 72 GiB. A card of 80 GB, weights included, gets 2 rows.
    """
    if quick:
        return Scale(64, 32, (2, 16), torch.float32, head_size=16)
    if device.type == "cuda":
        rows = 4 if _memory(device) > 120e9 else 2
        return Scale(4096, 8192, (rows, 2048), torch.bfloat16)
    return Scale(1024, 512, (8, 128), torch.float32)


@dataclass(frozen=True)
class Workload:
    """One thing to run, with and without adapters.

    Attributes:
        name: of its table.
        sizes: what a reader has to know of it.
        base: the frozen model, on the device.
        hidden: hidden size, for gate and Kronecker sizes.
        targets: names of the linears to adapt.
        leaf: [batch, tokens, hidden], the input, which wants a gradient.
        run: model -> output.
        gradient: of the output, where it is no scalar.
    """

    name: str
    sizes: dict[str, Any]
    base: nn.Module
    hidden: int
    targets: tuple[str, ...]
    leaf: Tensor
    run: Callable[[nn.Module], Tensor]
    gradient: Tensor | None

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.leaf.device


class _OneLinear(nn.Module):
    """An up projection, and a down projection that is there so that shared pairs have slices to give."""

    def __init__(self, hidden: int, mlp: int) -> None:
        super().__init__()
        self.up_proj = nn.Linear(hidden, mlp, bias=False)
        self.down_proj = nn.Linear(mlp, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The up projection alone."""
        return self.up_proj(x)


def one_linear(device: torch.device, scale: Scale) -> Workload:
    """The up projection of a decoder layer: x [tokens, hidden] -> [tokens, mlp]."""
    base = _OneLinear(scale.hidden, scale.mlp).to(device, scale.dtype).requires_grad_(False)
    x = torch.randn(1, scale.tokens, scale.hidden, device=device, dtype=scale.dtype, requires_grad=True)
    gradient = torch.randn(1, scale.tokens, scale.mlp, device=device, dtype=scale.dtype)
    sizes = {"in": scale.hidden, "out": scale.mlp, **_common(scale)}
    return Workload(
        "one linear",
        sizes,
        base,
        scale.hidden,
        ("up_proj", "down_proj"),
        x,
        lambda model: model(x),
        gradient,
    )


def decoder_layer(device: torch.device, scale: Scale) -> Workload:
    """One decoder layer; its five published target linears are adapted."""
    with torch.device(device):
        model = LlamaModel(_llama(scale, vocabulary=8, layers=1))
    model.norm = nn.Identity()  # the norm after the last layer belongs to no layer
    base = model.to(scale.dtype).requires_grad_(False)
    x = torch.randn(1, scale.tokens, scale.hidden, device=device, dtype=scale.dtype, requires_grad=True)
    sizes = {"hidden": scale.hidden, "key_value": scale.key_value, "mlp": scale.mlp, **_common(scale)}
    return Workload(
        "one decoder layer",
        sizes,
        base,
        scale.hidden,
        DEFAULT_TARGETS,
        x,
        lambda model: model(inputs_embeds=x, use_cache=False).last_hidden_state,
        torch.randn_like(x).detach(),
    )


def shipped_model(device: torch.device, scale: Scale) -> Workload:
    """A training step of the base that ships with the kit, in float32."""
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).to(device)
    return _training_step("training step, shipped base", base, scale)


def random_llama_3_8b(device: torch.device, scale: Scale) -> Workload:
    """A training step of Llama 3 8B with random weights, in the scale's dtype."""
    config = _llama(scale, vocabulary=128_256, layers=32)
    default = torch.get_default_dtype()
    torch.set_default_dtype(scale.dtype)
    try:
        with torch.device(device):
            base = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(default)
    return _training_step("training step, Llama 3 8B with random weights", base, scale)


def workloads(device: torch.device, scale: Scale, quick: bool) -> Iterator[Workload]:
    """The workloads of a device, made one after the other; Llama 3 8B where 60 GB hold it."""
    yield one_linear(device, scale)
    yield decoder_layer(device, scale)
    yield shipped_model(device, scale)
    if device.type == "cuda" and not quick and _memory(device) > 60e9:
        yield random_llama_3_8b(device, scale)


def _training_step(name: str, base: nn.Module, scale: Scale) -> Workload:
    """Loss of a causal language model on random tokens; the embeddings ask for a gradient."""
    base.requires_grad_(False)
    config, (batch, tokens) = base.config, scale.model_batch
    if tokens > config.max_position_embeddings:  # the same number of tokens in shorter rows
        tokens, batch = config.max_position_embeddings, batch * tokens // config.max_position_embeddings
    ids = torch.randint(config.vocab_size, (batch, tokens), device=base.device)
    embeddings = base.get_input_embeddings()(ids).detach().requires_grad_()
    sizes = {
        "hidden": config.hidden_size,
        "layers": config.num_hidden_layers,
        "batch": batch,
        "tokens": tokens,
        "dtype": str(base.dtype).removeprefix("torch."),
    }
    return Workload(
        name,
        sizes,
        base,
        config.hidden_size,
        DEFAULT_TARGETS,
        embeddings,
        lambda model: model(inputs_embeds=embeddings, labels=ids, use_cache=False).loss,
        None,
    )


def _llama(scale: Scale, vocabulary: int, layers: int) -> LlamaConfig:
    """A Llama of the scale's sizes."""
    heads = scale.hidden // scale.head_size
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=scale.hidden,
        intermediate_size=scale.mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 4,
        head_dim=scale.head_size,
        max_position_embeddings=max(scale.tokens, 2048),
        pad_token_id=None,
    )


def _memory(device: torch.device) -> int:
    """Bytes of a CUDA device."""
    return torch.cuda.get_device_properties(device).total_memory


def _common(scale: Scale) -> dict[str, Any]:
    """What every table of the scale names."""
    return {"tokens": scale.tokens, "dtype": str(scale.dtype).removeprefix("torch.")}
