"""Frozen weights sharded, trained ones whole; here in a group of one process, which holds all shards.

Two processes that train a job so are in test_job.py: they end where one process does.
"""

from __future__ import annotations

import copy

import pytest
import torch
from peft import get_peft_model
from torch import distributed
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM

from bslora_kit import bslora
from bslora_kit.data import Example
from bslora_kit.sharding import decoder_layers, shard_frozen_weights, sum_gradients
from bslora_kit.training import TrainingSettings, train

TOKENS = torch.arange(24).view(2, 12)


@pytest.fixture
def group():
    """A process group of this process alone."""
    distributed.init_process_group("gloo", rank=0, world_size=1, store=distributed.HashStore())
    yield
    distributed.destroy_process_group()


def adapted() -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 40}
    base = LlamaForCausalLM(LlamaConfig(num_attention_heads=4, num_key_value_heads=2, **sizes))
    return get_peft_model(base, bslora(1, 2, 3, init_weights=False, task_type="CAUSAL_LM"))


def test_frozen_weights_are_sharded_and_nothing_else_changes(group):
    whole = adapted()
    sharded = copy.deepcopy(whole)
    layers = decoder_layers(sharded)
    shard_frozen_weights(sharded, torch.device("cpu"))
    for name, parameter in sharded.named_parameters():
        assert isinstance(parameter, DTensor) != parameter.requires_grad, name
    assert len(layers) == 2 and all(isinstance(layer, FSDPModule) for layer in layers)

    losses = [model(TOKENS, labels=TOKENS).loss for model in (whole, sharded)]
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-6)
    for loss in losses:
        loss.backward()
    sum_gradients(sharded)
    gradients = {name: p.grad for name, p in sharded.named_parameters() if p.requires_grad}
    for name, parameter in whole.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-5, atol=1e-7)


def test_a_model_without_named_layers_is_refused(group):
    with pytest.raises(ValueError, match="Linear does not name its layers"):
        decoder_layers(torch.nn.Linear(2, 2))


def test_one_process_has_nothing_to_share(tmp_path):
    settings = TrainingSettings(steps=1, lr=0.1, batch_size=1)
    examples = [Example([1, 2, 3], [-100, 2, 3])]
    with pytest.raises(ValueError, match="one process only"):
        train(adapted(), examples, settings, tmp_path, pad_id=0, shard=True)
