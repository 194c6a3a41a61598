"""The exported LoRA gives the same logits in stock peft, for every method and model."""

import json
import subprocess
import sys

import pytest
import torch
from adapter_cases import INPUTS, METHODS, MODELS, adapted, base_model, bert, logits, randomise
from peft import LoraConfig, PeftConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file

from bslora_kit import bslora
from bslora_kit.adapters import export_lora, plan_of_model


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model_name", MODELS)
def test_export_is_exact(model_name, method, tmp_path):
    model = adapted(model_name, method)
    assert export_lora(model, tmp_path / "plain") == tmp_path / "plain"
    config = PeftConfig.from_pretrained(tmp_path / "plain")
    rank = plan_of_model(model).rank
    assert type(config) is LoraConfig and config.r == rank and config.lora_alpha == 2 * rank
    plain = PeftModel.from_pretrained(base_model(model_name), tmp_path / "plain")
    torch.testing.assert_close(logits(plain), logits(model), rtol=1e-5, atol=1e-5)
    tensors = load_file(tmp_path / "plain" / "adapter_model.safetensors")
    assert sum(t.numel() for t in tensors.values()) == sum(
        rank * (linear.in_features + linear.out_features) for linear in plan_of_model(model).linears
    )


def test_export_of_a_trained_subset_with_odd_scaling(tmp_path):
    options = {"scaling": 0.7, "layers_to_transform": [1], "exclude_modules": ["k_proj"]}
    model = randomise(get_peft_model(base_model("llama"), bslora(1, 0, 2, **options))).eval()
    model.merge_adapter()  # what is merged at the moment has no part in the export
    export_lora(model, tmp_path)
    model.unmerge_adapter()
    plain = PeftModel.from_pretrained(base_model("llama"), tmp_path)
    torch.testing.assert_close(logits(plain), logits(model), rtol=1e-5, atol=1e-5)
    assert sum(hasattr(module, "lora_A") for module in plain.modules()) == 4


def test_export_takes_saved_modules_along(tmp_path):
    torch.manual_seed(0)
    config = bslora(
        1, 2, 3, target_modules=["query"], task_type=TaskType.SEQ_CLS, bias="shared_lora_only"
    )
    model = randomise(get_peft_model(bert(), config)).eval()
    export_lora(model, tmp_path)
    torch.manual_seed(0)
    plain = PeftModel.from_pretrained(bert(), tmp_path)
    torch.testing.assert_close(logits(plain.eval()), logits(model), rtol=1e-5, atol=1e-5)


def test_export_of_a_named_adapter(tmp_path):
    model = adapted("llama", "slice")
    model.add_adapter("other", METHODS["gate"](target_modules=["o_proj"]))
    model.set_adapter("other")
    randomise(model, seed=4).eval()
    export_lora(model, tmp_path, adapter="other")
    plain = PeftModel.from_pretrained(base_model("llama"), tmp_path)
    torch.testing.assert_close(logits(plain), logits(model), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="'missing' does not exist"):
        export_lora(model, tmp_path, adapter="missing")
    with pytest.raises(ValueError, match="no adapter of bslora_kit"):
        export_lora(base_model("llama"), tmp_path)


def test_export_replaces_files_in_place(tmp_path):
    adapted_model = adapted("llama", "kron")
    for _ in range(2):
        export_lora(adapted_model, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    text = json.loads((tmp_path / "adapter_config.json").read_text())
    assert text["peft_type"] == "LORA" and text["target_modules"]


def test_stock_peft_needs_no_kit(tmp_path):
    """A new process in which importing the kit fails."""
    model = adapted("llama", "gate")
    base_model("llama").save_pretrained(tmp_path / "base")
    export_lora(model, tmp_path / "plain")
    program = """
import sys
sys.modules["bslora_kit"] = None
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained(sys.argv[1] + "/base")
model = PeftModel.from_pretrained(base, sys.argv[1] + "/plain")
torch.save(model(torch.load(sys.argv[1] + "/in.pt")).logits.detach(), sys.argv[1] + "/out.pt")
"""
    torch.save(INPUTS, tmp_path / "in.pt")
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, capture_output=True)
    torch.testing.assert_close(torch.load(tmp_path / "out.pt"), logits(model), rtol=1e-5, atol=1e-5)
