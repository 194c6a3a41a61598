"""Every method on every model against the naive reading: updates, forward, gradients.

In float64, where a wrong equation and rounding cannot be taken for each other.
"""

import pytest
import torch
from adapter_cases import (
    INPUTS,
    METHODS,
    MODELS,
    adapted,
    base_model,
    file_name,
    logits,
    make_config,
    naive_model,
    naive_update,
    roles_of,
    stored,
    tensors_of_linear,
    weight_of,
)
from peft import get_peft_model
from torch.func import functional_call

from bslora_kit.adapters import plan_of_model

every_method = pytest.mark.parametrize("method", METHODS)
every_model = pytest.mark.parametrize("model_name", MODELS)


@every_method
@every_model
def test_update_of_each_linear_is_the_naive_one(model_name, method):
    model = adapted(model_name, method, torch.float64)
    config, tensors = model.peft_config["default"], stored(model)
    linears = plan_of_model(model).linears
    assert len(linears) == sum(
        name.endswith(tuple(f".{target}" for target in MODELS[model_name][1]))
        for name, _ in base_model(model_name).named_modules()
    )
    for linear in linears:
        layer = model.get_base_model().get_submodule(linear.name)
        update = layer.get_delta_weight("default")
        update = update.T if layer.fan_in_fan_out else update
        naive = naive_update(config, linear, tensors_of_linear(config, linear, tensors))
        torch.testing.assert_close(update, naive, rtol=1e-12, atol=1e-12)
        A, B = layer.effective_pair("default")
        assert A.shape == (plan_of_model(model).rank, linear.in_features)
        assert B.shape == (linear.out_features, plan_of_model(model).rank)


@every_method
@every_model
def test_adapter_starts_as_no_change(model_name, method):
    model = base_model(model_name)
    before = logits(model)
    assert torch.equal(logits(get_peft_model(model, make_config(model_name, method)).eval()), before)


@every_method
@every_model
def test_forward_equals_the_naive_model(model_name, method):
    model = adapted(model_name, method, torch.float64)
    config, linears = model.peft_config["default"], plan_of_model(model).linears
    wanted = logits(naive_model(model_name, config, linears, stored(model)))
    base = logits(base_model(model_name, torch.float64))
    assert (wanted - base).abs().max() > 1e-3  # the adapter does something
    torch.testing.assert_close(logits(model), wanted, rtol=1e-11, atol=1e-11)


@every_method
@every_model
def test_gradient_of_a_tensor_is_the_sum_over_its_users(model_name, method):
    model = adapted(model_name, method, torch.float64)
    config, made = model.peft_config["default"], plan_of_model(model)
    model(INPUTS).logits.square().mean().backward()

    # The naive model with a separate copy of each tensor for each linear that reads it.
    plain = base_model(model_name, torch.float64)
    tensors, copies, weights = stored(model), {}, {}
    for linear in made.linears:
        read = {
            key: value.detach().clone().requires_grad_()
            for key, value in tensors_of_linear(config, linear, tensors).items()
        }
        copies[linear] = read
        weight = weight_of(plain, linear).detach() + naive_update(config, linear, read)
        conv = model_name == "gpt2"
        weights[f"{linear.name}.weight"] = weight.T if conv else weight
    functional_call(plain, weights, (INPUTS,)).logits.square().mean().backward()

    sums = {}
    for branch in made.branches:
        for linear in made.linears:
            for role in roles_of(branch):
                name = file_name(branch, role, linear)
                sums[name] = sums.get(name, 0) + copies[linear][branch.name, role].grad
    found = {
        name.replace(".default.", "."): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert len(found) == sum(tensor.trainable for tensor in made.tensors.values())
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, sums[name], rtol=1e-10, atol=1e-12)
