"""8-bit and 4-bit bitsandbytes bases under every method, with the library's CPU kernels."""

import copy

import pytest
import torch
from adapter_cases import INPUTS, METHODS, base_model, logits, make_config, randomise, trainable
from peft import PeftModel, get_peft_model
from transformers import BitsAndBytesConfig, LlamaForCausalLM

from bslora_kit.adapters import export_lora, parameter_scopes, plan_of_model

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not a dependency: pip install bitsandbytes")

KINDS = {
    "8bit": BitsAndBytesConfig(load_in_8bit=True),
    "4bit": BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    ),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A quantised model of each kind, from the same saved weights."""
    folder = tmp_path_factory.mktemp("base")
    base_model("llama").save_pretrained(folder)
    return {
        kind: LlamaForCausalLM.from_pretrained(
            folder, quantization_config=config, device_map="cpu", dtype=torch.float32
        ).eval()
        for kind, config in KINDS.items()
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_quantised_bases(bases, kind, method, tmp_path):
    base = copy.deepcopy(bases[kind])
    plain = logits(base)
    model = randomise(get_peft_model(base, make_config("llama", method))).eval()
    out = logits(model)
    assert (out - plain).abs().max() > 1e-3
    with model.disable_adapter():
        assert torch.equal(logits(model), plain)
    assert trainable(model) == plan_of_model(model).trainable

    # One linear against its own base: the update is added to what the quantised linear gives.
    layer = model.get_base_model().model.layers[0].mlp.up_proj
    x = torch.randn(2, 3, 24)
    wanted = layer.base_layer(x) + x @ layer.get_delta_weight("default").T
    torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-4)

    model.train()
    model(INPUTS, labels=INPUTS).loss.backward()
    found = {name for name, p in model.named_parameters() if p.grad is not None}
    assert found == parameter_scopes(model).keys()

    model.eval().save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(copy.deepcopy(bases[kind]), tmp_path / "adapter").eval()
    assert torch.equal(logits(again), out)
    export_lora(model, tmp_path / "plain")
    stock = PeftModel.from_pretrained(copy.deepcopy(bases[kind]), tmp_path / "plain").eval()
    torch.testing.assert_close(logits(stock), out, rtol=1e-4, atol=1e-4)

    # A merged weight is quantised again: near the update, and exactly as the base's own grid allows.
    merged = model.merge_and_unload()
    assert (logits(merged) - out).abs().mean() < (out - plain).abs().mean()
