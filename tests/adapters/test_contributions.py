"""The parts of a shared gradient: they sum to autograd's, and are zero where a linear reads nothing.

One Llama of width 16 with 2 layers; k_proj is smaller and down_proj wider than the rest, and neither
the Kronecker size nor the slices divide evenly.
"""

from __future__ import annotations

import numpy as np
import peft
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bslora_kit import bslora, tied_lora
from bslora_kit.adapters.contributions import gradient_by_user
from bslora_kit.adapters.inspection import plan_of_model, tensors_of_model

CONFIGS = {
    "slice": bslora(1, 2, 3, fit="slice", init_weights=False),
    "gate": bslora(1, 2, 3, fit="gate", gate_size=6, init_weights=False),
    "kron": bslora(1, 2, 3, fit="kron", kron_size=5, init_weights=False),
    "gains": tied_lora(2, init_weights=False),
}


def small(config):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 28, "num_hidden_layers": 2, "vocab_size": 24}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 1}
    model = peft.get_peft_model(LlamaForCausalLM(LlamaConfig(**sizes, **heads)), config).eval()
    ids = torch.randint(0, 24, (2, 7))
    return model, lambda: model(input_ids=ids, labels=ids).loss


@pytest.mark.parametrize("name", CONFIGS)
def test_the_parts_sum_to_the_gradient_of_every_shared_tensor(name):
    model, loss = small(CONFIGS[name])
    loss().backward()
    for key, spec in plan_of_model(model).tensors.items():
        if spec.scope != "module":
            parts = gradient_by_user(model, loss, key)
            assert tuple(parts) == spec.users
            expected = tensors_of_model(model)[key].weight.grad.numpy()
            assert np.abs(expected).max() > 0
            np.testing.assert_allclose(
                sum(parts.values()), expected, atol=1e-5 * np.abs(expected).max(), rtol=1e-4
            )


def test_a_sliced_linear_moves_only_its_own_columns():
    model, loss = small(CONFIGS["slice"])
    parts = gradient_by_user(model, loss, "inter.A.model")  # [3, 28]
    moved = np.abs(parts["model.layers.1.self_attn.q_proj"]).sum(axis=0) > 0
    assert list(np.flatnonzero(moved)) == list(range(6, 22))  # 16 columns, 6 left over on each side
    assert (np.abs(parts["model.layers.1.mlp.down_proj"]).sum(axis=0) > 0).all()


def test_the_gradient_itself_is_not_left_on_the_model():
    model, loss = small(CONFIGS["kron"])
    gradient_by_user(model, loss, "inter.B.model")
    assert all(parameter.grad is None for parameter in model.parameters())


def test_bad_requests_are_refused():
    model, loss = small(CONFIGS["slice"])
    with pytest.raises(ValueError, match="no tensor 'inter.C'"):
        gradient_by_user(model, loss, "inter.C")
    model.train()
    with pytest.raises(ValueError, match="call model.eval"):
        gradient_by_user(model, loss, "inter.A.model")
