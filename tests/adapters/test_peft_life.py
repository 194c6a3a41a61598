"""What PEFT users do to a model beyond the matrix of test_conformance: starts, switching, refusals."""

import pytest
import torch
from adapter_cases import (
    INPUTS,
    METHODS,
    VOCABULARY,
    adapted,
    base_model,
    bert,
    llama,
    logits,
    make_config,
    randomise,
    trainable,
)
from peft import LoraConfig, PeftModel, TaskType, get_peft_model, inject_adapter_in_model
from peft.utils.hotswap import hotswap_adapter
from transformers import T5Config, T5ForConditionalGeneration

from bslora_kit import bslora, lora, tied_lora
from bslora_kit.adapters import parameter_scopes, plan_of_model

every_method = pytest.mark.parametrize("method", METHODS)


def close(one, other, tolerance=1e-5):
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.fixture
def pair():
    """A model with the adapters "default" (BSLoRA) and "other" (TL6), and their logits."""
    model = adapted("llama", "slice")
    out = {"__base__": logits(base_model("llama")), "default": logits(model)}
    model.add_adapter("other", tied_lora(4, target_modules=["o_proj", "q_proj"]))
    model.set_adapter("other")
    randomise(model, seed=3)
    out["other"] = logits(model)
    model.set_adapter("default")
    return model, out


@every_method
def test_start_is_reproducible_and_independent_of_the_order_of_targets(method):
    states = []
    for order in (1, -1):
        base = base_model("llama")
        torch.manual_seed(11)
        targets = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"][::order]
        states.append(get_peft_model(base, METHODS[method](target_modules=targets)).state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@every_method
def test_random_start_for_tests_changes_the_output(method):
    model = get_peft_model(base_model("llama"), make_config("llama", method, init_weights=False))
    assert not torch.allclose(logits(model.eval()), logits(base_model("llama")))


def test_start_follows_torch_linear():
    """kaiming-uniform(a = sqrt 5) of a [out, in] matrix is uniform in +-1 / sqrt(in)."""
    model = get_peft_model(base_model("llama"), bslora(64, 0, 64, fit="gate", gate_size=50))
    tensors = {name: p for name, p in model.named_parameters() if p.requires_grad}
    bounds = {"local/A": 24, "inter/A": 50, "gate_id": 24, "gate_iu": 1, "gate_od": 50, "gate_ou": 1}
    for part, fan in bounds.items():
        name = next(
            n
            for n in tensors
            if "layers.0.self_attn.q_proj" in n and part in n or "bank" in n and part in n
        )
        largest = tensors[name].abs().max().item()
        assert 0.8 * fan**-0.5 < largest <= fan**-0.5, (name, largest)
    for name, tensor in tensors.items():
        assert not tensor.any() if "/B" in name else tensor.all(), name


def test_adapters_add_up_and_merge_together(pair):
    model, out = pair
    model.base_model.set_adapter(["default", "other"])
    both = logits(model)
    assert not torch.allclose(both, out["default"]) and not torch.allclose(both, out["other"])
    q_proj = model.get_base_model().model.layers[0].self_attn.q_proj
    weight = q_proj.base_layer.weight + q_proj.get_delta_weight("default")
    total = weight + q_proj.get_delta_weight("other")
    model.merge_adapter()
    close(q_proj.base_layer.weight, total)
    close(logits(model), both)
    model.unmerge_adapter()
    close(logits(model), both)
    close(logits(model.merge_and_unload(adapter_names=["other"])), out["other"])


def test_a_layer_acts_only_for_its_own_adapters(pair):
    model, out = pair
    up_proj = model.get_base_model().model.layers[0].mlp.up_proj
    assert up_proj._get_available_adapters() == {"default"}
    model.set_adapter("other")
    x = torch.randn(3, 24)
    assert torch.equal(up_proj(x), up_proj.base_layer(x))
    close(logits(model), out["other"])


def test_switching_changes_what_trains(pair):
    model, out = pair
    for name in ("other", "default"):
        model.set_adapter(name)
        trained = {n for n, p in model.named_parameters() if p.requires_grad}
        assert trained and all(f".{name}." in n for n in trained)
        assert trained == set(parameter_scopes(model))
        close(logits(model), out[name])
    model.set_adapter("other", inference_mode=True)
    assert trainable(model) == 0
    model.set_requires_grad("default")
    assert trainable(model) == plan_of_model(model).trainable


def test_adding_an_adapter_leaves_the_others_as_they_were(pair):
    model, out = pair
    model.set_requires_grad("other")
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    model.add_adapter("third", lora(1, target_modules=["q_proj"]))
    after = {name: p.requires_grad for name, p in model.named_parameters()}
    assert {name: after[name] for name in before} == before
    assert not any(value for name, value in after.items() if ".third." in name)
    close(logits(model), out["default"])


@pytest.mark.parametrize("active", [["default"], ["other"], ["default", "other"]])
def test_delete_leaves_nothing_and_activates_what_is_left(pair, active):
    model, out = pair
    model.base_model.set_adapter(active)
    model.delete_adapter("default")
    assert model.active_adapters == ["other"]
    assert not [name for name in model.state_dict() if "default" in name]
    assert all("default" not in layer.shared_lora_reading for layer in layers_of(model))
    close(logits(model), out["other"])
    with pytest.raises(ValueError, match="does not exist"):
        plan_of_model(model, "default")
    model.delete_adapter("other")
    assert not [name for name in model.state_dict() if "shared_lora" in name]
    close(model.base_model(INPUTS).logits.detach(), out["__base__"])


def layers_of(model):
    return [module for module in model.modules() if hasattr(module, "shared_lora_reading")]


def test_mixed_batches_in_an_encoder_decoder_with_beams():
    """Beams repeat the rows of the decoder, not those of the encoder."""
    torch.manual_seed(0)
    sizes = {"d_model": 24, "d_kv": 6, "d_ff": 40, "num_layers": 1, "num_heads": 4}
    base = T5ForConditionalGeneration(T5Config(vocab_size=VOCABULARY, decoder_start_token_id=0, **sizes))
    model = randomise(get_peft_model(base, bslora(1, 2, 3, target_modules=["q", "v"]))).eval()
    model.add_adapter("other", lora(2, target_modules=["q", "v"], init_weights=False))
    options = {"num_beams": 3, "max_new_tokens": 4, "do_sample": False}
    mixed = model.generate(input_ids=INPUTS, **options, adapter_names=["other", "default"])
    for row, name in enumerate(["other", "default"]):
        model.set_adapter(name)
        assert torch.equal(model.generate(input_ids=INPUTS, **options)[row], mixed[row])


def test_mixed_batches_are_refused_clearly(pair):
    model, _ = pair
    with pytest.raises(ValueError, match="'nobody' does not exist"):
        model(INPUTS, adapter_names=["nobody", "default"])
    with pytest.raises(ValueError, match="1 entries for a batch of 2"):
        model(INPUTS, adapter_names=["default"])
    model.train()
    with pytest.raises(ValueError, match="inference only"):
        model(INPUTS, adapter_names=["default", "other"])
    model.eval()
    model.merge_adapter()
    with pytest.raises(ValueError, match="unmerge_adapter"):
        model(INPUTS, adapter_names=["default", "other"])


def test_safe_merge_refuses_broken_adapters():
    model = adapted("llama", "kron")
    layer = model.get_base_model().model.layers[1].mlp.up_proj
    before = layer.base_layer.weight.clone()
    with torch.no_grad():
        layer.shared_lora_own["default"]["inter/kron_b"].weight[0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        layer.merge(safe_merge=True)
    assert torch.equal(layer.base_layer.weight, before) and not layer.merged


def test_one_dropout_mask_for_all_branches():
    model = adapted("llama", "slice", dropout=0.5)
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    x = torch.randn(4, 24)
    layer.train()
    torch.manual_seed(2)
    found = layer(x)
    torch.manual_seed(2)
    kept = torch.nn.functional.dropout(x, 0.5)
    close(found, layer.base_layer(x) + kept @ layer.get_delta_weight("default").T)
    assert not kept.all()
    layer.eval()
    close(layer(x), layer.base_layer(x) + x @ layer.get_delta_weight("default").T)


@pytest.mark.parametrize("bias", ["all", "shared_lora_only"])
def test_biases_train_and_are_saved(bias, tmp_path):
    model = get_peft_model(base_model("opt"), make_config("opt", "slice", bias=bias))
    randomise(model).eval()
    biases = {name for name, p in model.named_parameters() if p.requires_grad and "bias" in name}
    every_bias = sum("bias" in name for name, _ in base_model("opt").named_parameters())
    assert len(biases) == (len(plan_of_model(model).linears) if bias.endswith("only") else every_bias)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(base_model("opt"), tmp_path)
    close(logits(again), logits(model), 1e-6)


def test_modules_to_save(tmp_path):
    torch.manual_seed(0)
    base = bert()
    config = bslora(1, 2, 3, target_modules=["query", "dense"], task_type=TaskType.SEQ_CLS)
    model = randomise(get_peft_model(base, config)).eval()
    assert any(p.requires_grad for n, p in model.named_parameters() if "classifier" in n)
    assert not any("classifier" in name for name in parameter_scopes(model))
    model.save_pretrained(tmp_path)
    torch.manual_seed(0)
    again = PeftModel.from_pretrained(bert(), tmp_path)
    close(logits(again), logits(model), 1e-6)


def test_status_and_print(pair, capsys):
    model, _ = pair
    status = model.get_model_status()
    assert status.available_adapters == ["default", "other"] and status.enabled is True
    assert status.trainable_params == plan_of_model(model).trainable
    assert model.get_layer_status()[0].module_type == "shared_lora.SharedLoraLinear"
    model.print_trainable_parameters()
    assert f"{plan_of_model(model).trainable:,}" in capsys.readouterr().out
    assert "scope=model" in repr(model)


def test_scopes_of_a_stock_lora():
    model = get_peft_model(base_model("llama"), LoraConfig(r=2, target_modules=["q_proj"]))
    scopes = parameter_scopes(model)
    assert set(scopes) == {name for name, p in model.named_parameters() if p.requires_grad}
    assert set(scopes.values()) == {"module"}


def test_injection_without_a_tuner_is_refused():
    """The bare model that it returns has no place for shared tensors."""
    base = llama()
    with pytest.raises(
        ValueError, match="SHARED_LORA because it uses shared state.*use `get_peft_model`"
    ):
        inject_adapter_in_model(lora(2), base)
    with pytest.raises(
        ValueError, match="SHARED_LORA because it uses shared state.*use `get_peft_model`"
    ):
        base.add_adapter(lora(2))
    assert not any("shared_lora" in name for name, _ in base.named_modules())


def test_swapping_weights_in_place(tmp_path):
    """PEFT's hotswap takes its own methods only; loading under the same name keeps the tensors."""
    adapted("llama", "slice").save_pretrained(tmp_path)
    model = randomise(get_peft_model(base_model("llama"), make_config("llama", "slice")), 6).eval()
    with pytest.raises(ValueError, match="Hotswapping only supports .* SHARED_LORA was passed"):
        hotswap_adapter(model, tmp_path, "default")
    places = {name: p.data_ptr() for name, p in model.named_parameters()}
    model.load_adapter(tmp_path, "default")
    assert {name: p.data_ptr() for name, p in model.named_parameters()} == places
    assert torch.equal(logits(model), logits(adapted("llama", "slice")))


def test_casting_the_base_alone(pair):
    """get_base_model().to() reaches the tensors of the layers, not those of the bank."""
    model, out = pair
    model.get_base_model().to(torch.float64)
    close(logits(model).float(), out["default"], 1e-4)


def test_autocast(pair):
    model, out = pair
    with torch.autocast("cpu", torch.bfloat16):
        close(logits(model).float(), out["default"], 0.05)
