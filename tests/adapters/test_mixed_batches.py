"""Mixed batches against one row at a time: structures, ranks, beams, base rows, changes of values."""

import copy

import pytest
import torch
from adapter_cases import INPUTS, METHODS, MODELS, base_model, logits, make_config, randomise
from peft import get_peft_model

from bslora_kit import bslora, lora
from bslora_kit.adapters.mixed import BASE_NAME

ROWS = INPUTS.repeat(3, 1)


def resident(model_name, configs, dtype=torch.float64):
    """A model with several adapters, each with random values of its own."""
    first, *others = configs
    model = get_peft_model(base_model(model_name, dtype), configs[first], adapter_name=first)
    for name in others:
        model.add_adapter(name, configs[name])
    for number, name in enumerate(configs):
        model.set_adapter(name)
        randomise(model, seed=number)
    return model.eval()


def one_by_one(model, names):
    """Logits of each row with its adapter, by PEFT's ordinary way of choosing one."""
    rows = []
    for row, name in zip(ROWS, names, strict=True):
        with torch.no_grad():
            if name == BASE_NAME:
                with model.disable_adapter():
                    rows.append(model(row[None]).logits)
            else:
                model.set_adapter(name)
                rows.append(model(row[None]).logits)
    return torch.cat(rows)


def mixed(model, names):
    with torch.no_grad():
        return model(ROWS, adapter_names=names).logits


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("model_name", ["llama", "gpt2"])
def test_every_method_in_one_batch(model_name):
    """One adapter of each structure, some of other ranks; six rows at a time."""
    names = [f"adapter_{method}" for method in METHODS]
    configs = {f"adapter_{method}": make_config(model_name, method) for method in METHODS}
    model = resident(model_name, configs)
    for start in range(0, len(names), 5):
        batch = [*names[start : start + 5], BASE_NAME, *names][:6]
        close(mixed(model, batch), one_by_one(model, batch))


def test_a_model_that_joins_rows_and_tokens_is_refused():
    """OPT's MLP gets [batch * tokens, hidden]: which row a line belongs to is not to be seen there."""
    configs = {f"adapter_{number}": make_config("opt", "lora") for number in range(2)}
    with pytest.raises(ValueError, match="adapter_names has 6 entries for a batch of 72 rows"):
        mixed(resident("opt", configs), ["adapter_0", "adapter_1"] * 3)


def like(count=6, **options):
    """Adapters of one structure."""
    config = bslora(1, 2, 1, fit="kron", kron_size=5, target_modules=MODELS["llama"][1], **options)
    return {f"user_{number}": copy.deepcopy(config) for number in range(count)}


@pytest.mark.parametrize(
    "order",
    [
        [0, 1, 2, 3, 4, 5],
        [5, 4, 3, 2, 1, 0],
        [2, 2, 2, 0, 0, 0],
        [1, 0, 1, 0, 1, 0],
        [3, 3, 3, 3, 3, 1],
        [4, 4, 4, 4, 4, 4],
        [0, None, 1, None, None, 2],
        [None, None, None, 0, 0, 0],
        [None, None, None, None, None, None],
    ],
)
def test_any_order_and_number_of_rows_for_an_adapter(order):
    model = resident("llama", like())
    names = [BASE_NAME if number is None else f"user_{number}" for number in order]
    close(mixed(model, names), one_by_one(model, names))


def test_other_targets_scaling_and_rank_beside_each_other():
    model = resident(
        "llama",
        {
            "narrow": lora(2, target_modules=["k_proj"], scaling=0.5),
            "wide": bslora(2, 4, 1, target_modules=["k_proj", "down_proj"]),
        },
    )
    names = ["narrow", "wide", BASE_NAME, "wide", "narrow", "narrow"]
    close(mixed(model, names), one_by_one(model, names))


def test_pairs_are_fitted_once_until_a_value_changes(monkeypatch):
    from bslora_kit.adapters import mixed as module

    fitted = []
    stacked = module.stacked_pairs
    monkeypatch.setattr(module, "stacked_pairs", lambda *a: fitted.append(a[1]) or stacked(*a))
    model = resident("llama", like(3))
    linears = 2 * len(MODELS["llama"][1])
    names = ["user_0", "user_1", "user_2"] * 2
    close(mixed(model, names), mixed(model, names))
    assert len(fitted) == linears
    model.set_adapter("user_1")
    randomise(model, seed=9)  # the values of one of three
    close(mixed(model, names), one_by_one(model, names))
    assert len(fitted) == 2 * linears
    mixed(model, ["user_0"] * 6)  # another batch
    assert len(fitted) == 3 * linears


def test_a_new_adapter_of_an_old_name_is_not_taken_for_the_old_one():
    model = resident("llama", like(3))
    names = ["user_0", "user_1", "user_2"] * 2
    before = mixed(model, names)
    model.delete_adapter("user_1")
    layers = [module for module in model.modules() if hasattr(module, "shared_lora_reading")]
    assert all(layer.row_pairs.kept is None for layer in layers)
    model.add_adapter("user_1", like(1)["user_0"])
    model.set_adapter("user_1")
    randomise(model, seed=21)
    after = mixed(model, names)
    close(after, one_by_one(model, names))
    assert not torch.allclose(after[1], before[1])


def test_gradients_flow_to_each_adapter_of_a_batch():
    model = resident("llama", like(2))
    for name in ("user_0", "user_1"):
        model.base_model.set_requires_grad(name)
    names = ["user_0", "user_1"] * 3
    mixed(model, names)  # pairs kept without a graph must not be used
    model(ROWS, adapter_names=names).logits[::2].square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    for name, gradient in gradients.items():
        if "user_0" in name:
            assert gradient.abs().sum() > 0, name
        if "user_1" in name:
            assert gradient is None or gradient.abs().sum() == 0, name


def test_copies_do_not_carry_the_pairs():
    model = resident("llama", like(2))
    names = ["user_0", "user_1"] * 3
    wanted = mixed(model, names)
    copied = copy.deepcopy(model)
    layers = [module for module in copied.modules() if hasattr(module, "shared_lora_reading")]
    assert all(layer.row_pairs.kept is None for layer in layers)
    close(mixed(copied, names), wanted)


def test_inference_mode_and_half_precision():
    model = resident("llama", like(3), torch.bfloat16)
    names = ["user_0", "user_1", "user_2"] * 2
    with torch.inference_mode():
        inferred = model(ROWS, adapter_names=names).logits
    assert torch.equal(inferred, mixed(model, names))
    # bfloat16 keeps 8 bits; logits are about 1.
    torch.testing.assert_close(inferred, one_by_one(model, names), rtol=0, atol=0.05)
    assert logits(model).dtype == torch.bfloat16
