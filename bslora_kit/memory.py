"""Bytes that fine-tuning an adapter takes, part by part, from shapes and plan alone.

    weights      the frozen base, in its dtype
    adapters     every tensor of the plan once, VeRA's frozen factors included, in float32
    gradients    of the trainable ones; they stay while a step adds micro-batches up
    optimizer    AdamW's two moments of the trainable ones
    activations  what the forward pass keeps for the backward pass, by name of what keeps it
    logits       output of the head, log-softmax, and two gradients of it while the loss goes backward

The activations follow the layer of transformers' Llama with scaled-dot-product attention, read
operation by operation for what autograd saves when the base is frozen (n = batch * sequence tokens,
e = bytes of the base's dtype, Q, K = widths of query and key, M = width of the MLP):

    two norms        2 n hidden 4           they work in float32; and one more after the last layer
    attention        n (2 Q + k + v) e      query, key, value, output; k = v = Q where a padded batch has
                     + n heads 4            its key-value heads repeated, else K
                     + batch sequence^2 e   the mask of a padded batch, made in every layer
    MLP              3 n M e                gate before and after SiLU, up
    frozen linears   nothing

A layer keeps nothing before the first adapted linear: no gradient goes there. What adapted linears add
depends on the layer that runs them, `Setting.keeps` (R = rank of the pair):

    kit     n in e once for all that read one input; none for o_proj and down_proj, whose inputs are
            there or made again from SiLU and up; per linear n R e for A x, R (in + out) e for the pair,
            and the state of the random generator, from which dropout is drawn again
    peft    per linear n in 4 for a float32 or dropped copy of its input, n in for the dropout mask,
            n R 4 for A x

Checked against the bytes that autograd really saves on the shipped model, and against published
measurements of PEFT's LoRA runs (data/published/peft_memory.csv). Plain Python.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bslora_kit.budget import BYTES
from bslora_kit.plan import Plan
from bslora_kit.shapes import Linear, Shapes

KEEPS = ("kit", "peft")
FLOAT32 = BYTES["float32"]
LLAMA_HEAD = 128  # head size of the published Llamas
_READS = {  # which linears of a layer read the same tensor, so that it is kept once
    "attention input": ("q_proj", "k_proj", "v_proj"),
    "attention output": ("o_proj",),
    "MLP input": ("gate_proj", "up_proj"),
    "MLP product": ("down_proj",),
}
_KINDS = tuple(kind for kinds in _READS.values() for kind in kinds)
_STATE_BYTES = {"cuda": 16, "cpu": 5056}  # of torch's random generators
_MASK_BYTES = {"cuda": 1, "cpu": FLOAT32}  # of PEFT's dropout: booleans, on a CPU factors in float32


@dataclass(frozen=True)
class Memory:
    """Bytes of one fine-tuning, part by part.

    Attributes:
        weights, adapters, gradients, optimizer: as in the module's table.
        activations: what keeps it -> bytes kept from the forward to the backward pass.
        logits: "log-softmax", which is kept for the backward pass, and "passing", which comes and goes
            around the loss.
    """

    weights: int
    adapters: int
    gradients: int
    optimizer: int
    activations: dict[str, int]
    logits: dict[str, int]

    @property
    def parts(self) -> dict[str, int]:
        """The six parts, in the order in which a bar stacks them."""
        return {
            "weights": self.weights,
            "adapters": self.adapters,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            "activations": sum(self.activations.values()),
            "logits": sum(self.logits.values()),
        }

    @property
    def total(self) -> int:
        """Sum of the parts: the peak while the loss goes backward, without the allocator's waste."""
        return sum(self.parts.values())

    @property
    def saved_for_backward(self) -> int:
        """What autograd holds when the loss is there, parameters left out."""
        return sum(self.activations.values()) + self.logits["log-softmax"]


@dataclass(frozen=True)
class Setting:
    """How a model is fine-tuned.

    Attributes:
        batch: sequences in one forward pass (the micro-batch where a step adds several up).
        sequence: tokens of each, padding included.
        dtype: of the base: "float32", "bfloat16" or "float16".
        checkpointing: keep the layers' inputs only and run each layer again in the backward pass.
        dropout: on the adapters' input.
        padded: the batch has an attention mask, as batches of texts have.
        keeps: whose adapter layer: "kit", or "peft" for PEFT's LoRA.
        head_size: width of one attention head.
        device: "cuda" or "cpu"; they keep another form of PEFT's dropout mask.

    Raises:
        ValueError: for a value out of range, naming it and what is expected.
    """

    batch: int = 4
    sequence: int = 256
    dtype: str = "bfloat16"
    checkpointing: bool = False
    dropout: float = 0.05
    padded: bool = True
    keeps: Literal["kit", "peft"] = "kit"
    head_size: int = LLAMA_HEAD
    device: Literal["cuda", "cpu"] = "cuda"

    def __post_init__(self) -> None:
        for name in ("batch", "sequence", "head_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}, expected a whole number of at least 1")
        for name, known in (("dtype", BYTES), ("keeps", KEEPS), ("device", _MASK_BYTES)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, expected one of {', '.join(known)}"
                )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout!r}, expected a probability in [0, 1)")

    @property
    def tokens(self) -> int:
        """Tokens in one forward pass."""
        return self.batch * self.sequence

    @property
    def element(self) -> int:
        """Bytes of one element in the base's dtype."""
        return BYTES[self.dtype]


def memory(plan: Plan, shapes: Shapes, setting: Setting | None = None) -> Memory:
    """Estimates the memory of fine-tuning an adapter.

    Args:
        plan: from `plan.plan_of(config, shapes)`, or `budget(...).plan`.
        shapes: of the model; its layers must be those of a Llama.
        setting: batch, sequence, dtype and so on; by default 4 x 256 tokens in bfloat16.

    Raises:
        ValueError: if the layers are of another kind, or if `keeps` is "peft" and the plan no LoRA.
    """
    setting = setting or Setting()
    if setting.keeps == "peft" and any(
        (branch.scope_a, branch.scope_b, branch.gains) != ("module", "module", False)
        for branch in plan.branches
    ):
        raise ValueError("keeps='peft' describes PEFT's LoRA; this plan shares factors: use keeps='kit'")
    vocabulary = next((x.out_features for x in shapes.linears if x.name == shapes.head), 0)
    scores = setting.tokens * vocabulary
    return Memory(
        weights=shapes.parameters * setting.element,
        adapters=plan.total * FLOAT32,
        gradients=plan.trainable * FLOAT32,
        optimizer=2 * plan.trainable * FLOAT32,
        activations=_activations(plan, shapes, setting),
        # The head's output in the base's dtype, then the gradients of log-softmax and of its input.
        logits={
            "log-softmax": scores * FLOAT32,
            "passing": scores * (setting.element + 2 * FLOAT32),
        },
    )


def has_llama_layers(shapes: Shapes) -> bool:
    """Whether every layer has the seven linears of a Llama's, each once."""
    layers: dict[str, list[str]] = {}
    for linear in shapes.linears:
        if linear.layer:
            layers.setdefault(linear.layer, []).append(linear.kind)
    return bool(layers) and all(sorted(kinds) == sorted(_KINDS) for kinds in layers.values())


def _activations(plan: Plan, shapes: Shapes, setting: Setting) -> dict[str, int]:
    """Name of what keeps it -> bytes, over all layers."""
    adapted = {linear.name for linear in plan.linears}
    layers = _layers(shapes)
    kept, reached = [], False
    for layer in layers:
        kinds = {kind for kind, linear in layer.items() if linear.name in adapted}
        kept.append(_layer(layer, kinds, plan.rank, setting, reached))
        reached = reached or bool(kinds)
    hidden = layers[0]["q_proj"].in_features
    if setting.checkpointing:
        largest = max(kept, key=Counter.total)
        sums = Counter({"layer inputs": len(layers) * setting.tokens * hidden * setting.element})
        sums.update({f"{name} (one layer)": size for name, size in largest.items()})
    else:
        sums = Counter()
        for layer in kept:
            sums.update(layer)
    sums["last norm"] += setting.tokens * (hidden + 1) * FLOAT32
    outside = [linear for linear in plan.linears if not linear.layer]
    sums.update(_adapters(outside, outside, plan.rank, setting))
    return {name: size for name, size in sums.items() if size}


def _layers(shapes: Shapes) -> list[dict[str, Linear]]:
    """Kind -> linear of each layer.

    Raises:
        ValueError: if a layer is not a Llama's.
    """
    if not has_llama_layers(shapes):
        kinds = sorted({linear.kind for linear in shapes.linears if linear.layer})
        raise ValueError(
            f"{shapes.name} has layers of {', '.join(kinds) or 'no linears'}; memory is estimated for "
            f"layers of a Llama, with {', '.join(_KINDS)}"
        )
    layers: dict[str, dict[str, Linear]] = {}
    for linear in shapes.linears:
        if linear.layer:
            layers.setdefault(linear.layer, {})[linear.kind] = linear
    return list(layers.values())


def _layer(
    layer: Mapping[str, Linear], adapted: Collection[str], rank: int, setting: Setting, reached: bool
) -> Counter[str]:
    """What one layer keeps; `reached` says that a gradient goes to its input."""
    n, e = setting.tokens, setting.element
    norm = n * (layer["q_proj"].in_features + 1) * FLOAT32  # its input in float32, and 1 / deviation
    sums: Counter[str] = Counter()
    graph = {"attention input": reached}  # whether a gradient goes to what a group of linears reads
    sums["norms"] += norm * reached
    graph["attention output"] = reached or any(kind in adapted for kind in _READS["attention input"])
    sums["attention"] += _attention(layer, setting) * graph["attention output"]
    graph["MLP input"] = graph["attention output"] or "o_proj" in adapted
    sums["norms"] += norm * graph["MLP input"]
    gate, up = (graph["MLP input"] or kind in adapted for kind in ("gate_proj", "up_proj"))
    # SiLU keeps its input; the product keeps each factor for the other's gradient.
    sums["MLP"] += n * layer["up_proj"].out_features * e * (2 * gate + up)
    graph["MLP product"] = gate or up
    for group, kinds in _READS.items():
        chosen = [layer[kind] for kind in kinds if kind in adapted]
        # Attention keeps its own output anyway, and o_proj reads that same tensor. The kit's layer
        # multiplies down_proj's input again from the two factors, unless checkpointing holds them.
        again = setting.keeps == "kit" and not setting.checkpointing and gate and up
        held = graph[group] if group == "attention output" else group == "MLP product" and again
        sums.update(_adapters(chosen, chosen if graph[group] else (), rank, setting, held))
    return sums


def _attention(layer: Mapping[str, Linear], setting: Setting) -> int:
    """Query, key, value and output, the sums of the softmax, and the mask."""
    query, key = layer["q_proj"].out_features, layer["k_proj"].out_features
    # Repeating one key-value head is a view; repeating several is a copy.
    repeated = setting.padded and key > setting.head_size
    widths = 2 * query + 2 * (query if repeated else key)
    mask = setting.batch * setting.sequence**2 * setting.element if setting.padded else 0
    heads = query // setting.head_size
    return setting.tokens * (widths * setting.element + heads * FLOAT32) + mask


def _adapters(
    linears: Sequence[Linear],
    with_gradient: Collection[Linear],
    rank: int,
    setting: Setting,
    held: bool = False,
) -> Counter[str]:
    """What adapted linears that read one tensor keep.

    Args:
        linears: of one group of `_READS`.
        with_gradient: those to whose input a gradient goes.
        rank: R of their pairs.
        setting: how the model is fine-tuned.
        held: the tensor is kept by the base already, or can be had from what the base keeps.
    """
    n, e = setting.tokens, setting.element
    sums: Counter[str] = Counter()
    if not linears:
        return sums
    width = linears[0].in_features
    if setting.keeps == "peft":
        own_copy = setting.dropout > 0 or e != FLOAT32  # else float32 as it is, read by all of them
        copies = len(linears) if own_copy else 0 if held else 1
        sums["adapters: float32 copies of the input"] = copies * n * width * FLOAT32
        masks = len(with_gradient) * n * width * _MASK_BYTES[setting.device]
        sums["adapters: dropout masks"] = masks if setting.dropout else 0
        sums["adapters: A x"] = len(linears) * n * rank * FLOAT32
        return sums
    sums["adapters: input"] = 0 if held else n * width * e
    sums["adapters: A x"] = len(linears) * n * rank * e
    sides = sum(linear.in_features + linear.out_features for linear in linears)
    sums["adapters: pairs"] = rank * e * sides
    if setting.dropout:  # the mask is drawn again from the state of the generator
        sums["adapters: generator states"] = len(linears) * _STATE_BYTES[setting.device]
    return sums
