"""Memory estimates against bytes that autograd really keeps, and against published measurements."""

from __future__ import annotations

import csv
from dataclasses import replace

import peft
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from bslora_kit import bslora, lora, share_lora, tied_lora, vera
from bslora_kit.budget import budget
from bslora_kit.memory import Setting, has_llama_layers, memory
from bslora_kit.paths import BASE, DATA
from bslora_kit.shapes import llama_3_8b, of_config

TARGETS = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]
ALL_SEVEN = [*TARGETS, "o_proj", "gate_proj"]
BATCH, SEQUENCE = 3, 64
ON_CPU = Setting(batch=BATCH, sequence=SEQUENCE, head_size=32, device="cpu")


@pytest.fixture(scope="module")
def bases():
    return {
        dtype: AutoModelForCausalLM.from_pretrained(BASE, dtype=getattr(torch, dtype))
        for dtype in ("float32", "bfloat16")
    }


@pytest.fixture(scope="module")
def shapes():
    return of_config(BASE)


def decoded(model, padded):
    """The decoder's output, without the head: what the logits take is counted by itself."""
    ids = torch.arange(BATCH * SEQUENCE).reshape(BATCH, SEQUENCE) + 3
    mask = torch.ones_like(ids)
    if padded:
        mask[0, -5:] = 0
    return model.base_model.model.model(input_ids=ids, attention_mask=mask, use_cache=False)[0]


def saved_bytes(model, padded):
    """Bytes that autograd saves for the backward pass, each storage once, parameters left out."""
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no address repeats
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        decoded(model, padded)
    return sum(size for size, _ in saved.values())


@pytest.mark.parametrize("padded, dropout", [(True, 0.1), (False, 0.0)], ids=["padded", "full"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: bslora(2, 4, 16, target_modules=TARGETS),
        lambda: bslora(2, 4, 16, fit="gate", gate_size=32, target_modules=ALL_SEVEN),
        lambda: bslora(2, 1, 2, fit="kron", kron_size=8, target_modules=["up_proj", "down_proj"]),
        lambda: share_lora(8, share="B", target_modules=["v_proj"]),
        lambda: tied_lora(8, variant="tl6", target_modules=["o_proj", "down_proj"]),
        lambda: vera(16, target_modules=["q_proj", "gate_proj"]),
        lambda: lora(4, layers_to_transform=[2, 5], target_modules=TARGETS),
    ],
    ids=["slice", "gate-all-seven", "kron-mlp", "share-b-v", "tl6-o-down", "vera-q-gate", "two-layers"],
)
def test_activations_of_the_kit_are_those_that_autograd_saves(
    make, dtype, padded, dropout, bases, shapes
):
    config = make()
    config.dropout = dropout
    estimate = memory(
        budget(config, shapes).plan, shapes, replace(ON_CPU, dtype=dtype, padded=padded, dropout=dropout)
    )
    model = peft.get_peft_model(bases[dtype], config).train()
    try:
        assert sum(estimate.activations.values()) == pytest.approx(saved_bytes(model, padded), rel=0.05)
    finally:
        model.unload()


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("targets", [TARGETS, ALL_SEVEN, ["q_proj", "v_proj"]], ids=["5", "7", "qv"])
def test_activations_of_peft_are_those_that_autograd_saves(targets, dtype, dropout, bases, shapes):
    config = peft.LoraConfig(r=8, lora_dropout=dropout, target_modules=list(targets))
    plan = budget(lora(8, target_modules=list(targets)), shapes).plan
    estimate = memory(plan, shapes, replace(ON_CPU, dtype=dtype, dropout=dropout, keeps="peft"))
    model = peft.get_peft_model(bases[dtype], config).train()
    try:
        assert sum(estimate.activations.values()) == pytest.approx(saved_bytes(model, True), rel=0.05)
    finally:
        model.unload()


class Alive(TorchDispatchMode):
    """Remembers the storage of every tensor that an operation makes, those of `own` left out."""

    def __init__(self, own):
        super().__init__()
        self.own = {tensor.untyped_storage()._cdata for tensor in own}
        self.made = {}

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self.own:
                    self.made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return result

    def bytes(self):
        return sum(size for reference, size in self.made.values() if not reference.expired())


def test_checkpointing_leaves_the_inputs_of_the_layers(bases, shapes):
    """Autograd's hooks do not see what non-reentrant checkpointing holds, so living tensors count."""
    config = bslora(2, 4, 16, target_modules=TARGETS)
    plan = budget(config, shapes).plan
    setting = replace(ON_CPU, padded=False, checkpointing=True)
    estimate = memory(plan, shapes, setting).activations
    again = {name: size for name, size in estimate.items() if name.endswith("(one layer)")}
    model = peft.get_peft_model(bases["bfloat16"], config).train()
    model.activation_checkpointing_enable({"use_reentrant": False})
    try:
        with Alive([*model.parameters(), *model.buffers()]) as alive:
            loss = decoded(model, False).sum()
            held = alive.bytes()
        assert loss.requires_grad
        kept = sum(estimate.values()) - sum(again.values())
        assert held == pytest.approx(kept, rel=0.05)
    finally:
        model.activation_checkpointing_disable()
        model.unload()
    # One layer of six runs again at a time; the first one keeps less. Under checkpointing down_proj
    # keeps its input, 448 wide in bfloat16, since the layer's own factors may be read once only.
    whole = memory(plan, shapes, replace(setting, checkpointing=False)).activations
    product = BATCH * SEQUENCE * 448 * 2
    assert sum(again.values()) == pytest.approx(sum(whole.values()) / 6 + product, rel=0.05)


def test_logits_keep_their_log_softmax(bases, shapes):
    ids = torch.arange(BATCH * SEQUENCE).reshape(BATCH, SEQUENCE)
    scores = bases["bfloat16"](input_ids=ids).logits.detach().requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        torch.nn.functional.cross_entropy(scores.float().flatten(0, 1), ids.flatten())
    largest = max(tensor.nbytes for tensor in saved)
    logits = memory(budget(lora(1), shapes).plan, shapes, ON_CPU).logits
    assert logits["log-softmax"] == largest
    assert logits["passing"] == scores.nbytes + 2 * largest  # two gradients in float32


def published_runs():
    """PEFT's measured LoRA runs; DoRA keeps more than LoRA's layer."""
    with (DATA / "published" / "peft_memory.csv").open(encoding="utf-8") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return [row for row in rows if row["run"].startswith("lora--") and "dora" not in row["run"]]


@pytest.mark.parametrize("row", published_runs(), ids=lambda row: row["run"])
def test_totals_are_near_published_measurements(row):
    llama = LlamaConfig(
        vocab_size=128_256,
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=28,
        num_attention_heads=24,
        num_key_value_heads=8,
        tie_word_embeddings=True,
    )
    shapes = of_config(llama, "Llama-3.2-3B")
    assert shapes.parameters == 3_212_749_824
    plan = budget(lora(int(row["rank"]), target_modules=row["targets"].split()), shapes).plan
    assert plan.trainable == int(row["trainable"])
    found = memory(plan, shapes, Setting(batch=4, sequence=768, dropout=0.0, keeps="peft"))
    assert found.total / 2**30 == pytest.approx(float(row["max_reserved_gib"]), rel=0.1)


def test_units_of_a_llama_layer():
    """One bfloat16 [tokens, hidden] is the unit: the base keeps 17, PEFT's LoRA adds 2 + 2 * 3.5 ...

    q, k, v, o, gate and up copy a [tokens, 4096] to float32 (2 units each), down a [tokens, 14336]
    (7 units): 19; dropout on a CPU keeps as much again for its mask.
    """
    shapes = llama_3_8b()
    plan = budget(lora(1, target_modules="all-linear"), shapes).plan
    unit = 32 * 1024 * 4096 * 2
    setting = Setting(batch=1, sequence=1024, padded=False, keeps="peft", device="cpu")
    for dropout, units in ((0.0, 17 + 19), (0.05, 17 + 38)):
        found = memory(plan, shapes, replace(setting, dropout=dropout))
        assert sum(found.activations.values()) / unit == pytest.approx(units, rel=0.02)
    # The kit keeps two inputs, attention's and the MLP's: o_proj's is there, down's is made again.
    found = memory(plan, shapes, replace(setting, keeps="kit"))
    assert sum(found.activations.values()) / unit == pytest.approx(17 + 1 + 1, rel=0.02)


def test_parameters_take_their_bytes():
    shapes = llama_3_8b()
    found = memory(budget(vera(256), shapes).plan, shapes, Setting(dtype="float16"))
    gains = 32 * (
        5 * 256 + 2 * 4096 + 2 * 1024 + 14_336 - 4096 + 4096
    )  # u of five, v of q, k, v, up, down
    frozen = 256 * (14_336 + 14_336)
    assert found.parts["weights"] == 2 * 8_030_261_248
    assert found.parts["adapters"] == 4 * (gains + frozen)
    assert found.parts["gradients"] == 4 * gains
    assert found.parts["optimizer"] == 8 * gains
    assert found.total == sum(found.parts.values())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch": 0}, "batch is 0"),
        ({"sequence": 2.5}, "sequence is 2.5"),
        ({"dtype": "int8"}, "dtype is 'int8', expected one of"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"keeps": "dora"}, "keeps is 'dora', expected one of kit, peft"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Setting(**options)


def test_what_the_estimate_does_not_know_is_refused():
    shapes = llama_3_8b()
    plan = budget(bslora(1, 1, 1), shapes).plan
    with pytest.raises(ValueError, match="this plan shares factors"):
        memory(plan, shapes, Setting(keeps="peft"))
    other = of_config(GPT2Config(n_layer=1, n_embd=8, n_head=2))
    assert not has_llama_layers(other)
    with pytest.raises(ValueError, match="has layers of c_attn, c_fc, c_proj; memory is estimated"):
        memory(budget(lora(1), other).plan, other)
