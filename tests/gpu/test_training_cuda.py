"""The training loop on a CUDA device: mixed precision, loss scaling, memory. Needs a GPU.

The model is tiny (2 layers, hidden 64): what is tested is the plumbing, not the speed.
"""

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from bslora_kit.data import Example, batch_indices
from bslora_kit.training import TrainingSettings, loop, train
from bslora_kit.training.checkpoint import all_checkpoints

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

HAS_BF16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="needs a CUDA device with bf16")
SETTINGS = TrainingSettings(
    steps=12, lr=1e-2, batch_size=8, micro_batch_size=4, checkpoint_every=4, precision="fp32"
)


def make_examples(count=24):
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 100, (count, 12)).tolist()
    return [Example(ids, [-100] * 6 + ids[6:]) for ids in tokens]


def make_model(base_dtype=torch.float32, dropout=0.0):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=100,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config).to(base_dtype)  # PEFT keeps the adapter in float32
    return get_peft_model(
        model, LoraConfig(r=4, lora_dropout=dropout, target_modules=["q_proj", "up_proj"])
    )


@pytest.mark.parametrize("precision", ["fp16", pytest.param("bf16", marks=needs_bf16)])
def test_mixed_precision_follows_fp32(tmp_path, precision):
    expected = train(make_model(), make_examples(), SETTINGS, tmp_path / "fp32", pad_id=0)
    settings = replace(SETTINGS, precision=precision)
    base_dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    model = make_model(base_dtype)
    result = train(model, make_examples(), settings, tmp_path / precision, pad_id=0)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.dtype == torch.float32 and p.device.type == "cuda" for p in trained)
    assert result.loss == pytest.approx(expected.loss, rel=0.03)
    assert 0 < result.peak_memory_bytes == max(e["peak_memory_bytes"] for e in result.history)


def test_cuda_gradients_are_those_of_the_cpu(tmp_path):
    settings = replace(SETTINGS, steps=1, checkpoint_every=0)
    on_gpu = make_model()
    on_cpu = copy.deepcopy(on_gpu)
    gpu = train(on_gpu, make_examples(), settings, tmp_path / "gpu", pad_id=0)
    examples = [make_examples()[i] for i in batch_indices(24, 8, 0, 0)]
    ids = torch.tensor([example.input_ids for example in examples])
    labels = torch.tensor([example.labels for example in examples])
    loss = on_cpu(input_ids=ids, labels=labels).loss  # equal lengths: transformers' mean is ours
    loss.backward()
    norms = [p.grad.norm() for p in on_cpu.parameters() if p.requires_grad]
    assert gpu.loss == pytest.approx(loss.item(), rel=1e-4)
    assert gpu.history[0]["grad_norm"] == pytest.approx(torch.stack(norms).norm().item(), rel=1e-3)


def test_fp16_overflow_is_skipped_and_the_scale_falls(tmp_path, monkeypatch):
    make_accelerator = loop.make_accelerator

    def with_a_far_too_large_scale(precision):
        accelerator = make_accelerator(precision)
        accelerator.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**40)
        return accelerator

    monkeypatch.setattr(loop, "make_accelerator", with_a_far_too_large_scale)
    settings = replace(SETTINGS, steps=40, precision="fp16")
    model = make_model(torch.float16)
    before = {n: p.detach().cpu().clone() for n, p in model.named_parameters() if p.requires_grad}
    after_first = {}

    def look(entry):
        if entry["step"] == 1:
            after_first.update({n: p.detach().cpu().clone() for n, p in model.named_parameters()})

    history = train(model, make_examples(), settings, tmp_path, pad_id=0, report=look).history
    assert history[0]["grad_norm"] is None  # valid JSON, where infinity would not be
    assert all(torch.equal(after_first[name], before[name]) for name in before)
    assert math.isfinite(history[-1]["grad_norm"])
    state = json.loads((all_checkpoints(tmp_path)[-1] / "state.json").read_text())
    assert state["scaler"]["scale"] < 2.0**40


def test_fp16_refuses_half_precision_adapters(tmp_path):
    model = make_model(torch.float16).half()
    settings = replace(SETTINGS, precision="fp16")
    with pytest.raises(ValueError, match="needs float32 trained parameters"):
        train(model, make_examples(), settings, tmp_path, pad_id=0)


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_resume_goes_on_with_scale_and_dropout(tmp_path, precision):
    settings = replace(SETTINGS, precision=precision)
    whole = make_model(dropout=0.3)
    expected = train(whole, make_examples(), settings, tmp_path / "whole", pad_id=0)
    answers = iter([False] * 5 + [True])
    train(
        make_model(dropout=0.3),
        make_examples(),
        settings,
        tmp_path / "cut",
        pad_id=0,
        should_stop=lambda: next(answers),
    )
    resumed = train(make_model(dropout=0.3), make_examples(), settings, tmp_path / "cut", pad_id=0)
    # CUDA may add in another order, so not bit for bit.
    assert resumed.steps == expected.steps == 12
    assert resumed.loss == pytest.approx(expected.loss, rel=1e-3)
