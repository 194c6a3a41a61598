"""8-bit and 4-bit bitsandbytes bases under every method, with the library's CPU kernels.

Every method and fit on a Llama; on the other models and quantisations one method of each kind of role.
"""

import copy

import pytest
import torch
from adapter_cases import (
    INPUTS,
    METHODS,
    MODELS,
    base_model,
    logits,
    make_config,
    randomise,
    trainable,
)
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from bslora_kit.adapters import export_lora, parameter_scopes, plan_of_model

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not a dependency: pip install bitsandbytes")

F32, BF16 = torch.float32, torch.bfloat16
KINDS = {  # how the weights are kept, and the dtype of everything else
    "8bit": ({"load_in_8bit": True}, F32),
    "4bit": ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": F32}, F32),
    "8bit_bfloat16": ({"load_in_8bit": True}, BF16),
    "4bit_fp4": ({"load_in_4bit": True, "bnb_4bit_compute_dtype": F32}, F32),
    "4bit_double_bfloat16": (
        {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": BF16,
        },
        BF16,
    ),
}
EVERY_ROLE = ("lora", "tl6", "slice", "gate", "kron", "vera", "own_row")
CASES = [
    (model, kind, method)
    for model in MODELS
    for kind in KINDS
    for method in METHODS
    if method in EVERY_ROLE or (model == "llama" and kind in ("8bit", "4bit"))
]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """(model, kind) -> a quantised model, from the same saved weights."""
    folder, made = tmp_path_factory.mktemp("base"), {}
    for name in MODELS:
        base_model(name).save_pretrained(folder / name)
        for kind, (options, dtype) in KINDS.items():
            made[name, kind] = AutoModelForCausalLM.from_pretrained(
                folder / name,
                quantization_config=BitsAndBytesConfig(**options),
                device_map="cpu",
                dtype=dtype,
            ).eval()
    return made


@pytest.mark.parametrize(("model_name", "kind", "method"), CASES)
def test_quantised_bases(bases, model_name, kind, method, tmp_path):
    quantised, dtype = bases[model_name, kind], KINDS[kind][1]
    tolerance = 1e-4 if dtype == F32 else 0.03
    base = copy.deepcopy(quantised)
    plain = logits(base)
    model = randomise(get_peft_model(base, make_config(model_name, method))).eval()
    out = logits(model)
    assert (out - plain).abs().max() > 1e-3
    with model.disable_adapter():
        assert torch.equal(logits(model), plain)
    assert trainable(model) == plan_of_model(model).trainable

    # One linear against its own base: the update is added to what the quantised linear gives.
    layer = model.get_base_model().get_submodule(plan_of_model(model).linears[-1].name)
    x = torch.randn(2, 3, layer.in_features, dtype=dtype)
    A, B = layer.effective_pair("default")
    update = x.float() @ A.T @ B.T
    wanted = layer.base_layer(x).float() + model.peft_config["default"].scaling * update
    torch.testing.assert_close(layer(x).float(), wanted, rtol=tolerance, atol=tolerance)

    model.train()
    model(INPUTS, labels=INPUTS).loss.backward()
    found = {name for name, p in model.named_parameters() if p.grad is not None}
    assert found == parameter_scopes(model).keys()

    model.eval().save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(copy.deepcopy(quantised), tmp_path / "adapter").eval()
    assert torch.equal(logits(again), out)
    export_lora(model, tmp_path / "plain")
    stock = PeftModel.from_pretrained(copy.deepcopy(quantised), tmp_path / "plain").eval()
    torch.testing.assert_close(logits(stock), out, rtol=tolerance, atol=tolerance)

    # A merged weight is quantised again: near the update, and exactly as the base's own grid allows.
    merged = model.merge_and_unload()
    assert (logits(merged) - out).abs().mean() < (out - plain).abs().mean()
