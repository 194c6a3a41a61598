"""Exports beyond the matrix of test_conformance: subsets, saved modules, the command line's errors."""

import json

import pytest
import torch
from adapter_cases import METHODS, adapted, base_model, bert, llama, logits, opt, randomise
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import BertForSequenceClassification

from bslora_kit import bslora
from bslora_kit.adapters import export_lora
from bslora_kit.adapters.__main__ import main


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
    """From memory, and from the saved adapter, which names its base and its task."""
    torch.manual_seed(0)
    bert().save_pretrained(tmp_path / "base")
    config = bslora(
        1, 2, 3, target_modules=["query"], task_type=TaskType.SEQ_CLS, bias="shared_lora_only"
    )

    def base():
        return BertForSequenceClassification.from_pretrained(tmp_path / "base")

    model = randomise(get_peft_model(base(), config)).eval()
    model.save_pretrained(tmp_path / "adapter")
    export_lora(model, tmp_path / "plain")
    (tmp_path / "base" / "model.safetensors").rename(tmp_path / "weights")
    assert main(["export", f"{tmp_path}/adapter", f"{tmp_path}/from_saved"]) == 0
    (tmp_path / "weights").rename(tmp_path / "base" / "model.safetensors")
    for folder in ("plain", "from_saved"):
        plain = PeftModel.from_pretrained(base(), tmp_path / folder).eval()
        torch.testing.assert_close(logits(plain), logits(model), rtol=1e-5, atol=1e-5)


def test_what_cannot_be_exported_is_named(tmp_path, capsys):
    adapted("llama", "slice").save_pretrained(tmp_path / "adapter")
    opt().save_pretrained(tmp_path / "opt")
    get_peft_model(llama(), LoraConfig(r=1)).save_pretrained(tmp_path / "stock")

    def message(adapter, *more):
        assert main(["export", f"{tmp_path}/{adapter}", f"{tmp_path}/out", *more]) == 1
        return capsys.readouterr().err

    assert "no adapter_config.json" in message("nowhere")
    assert "holds a LORA adapter" in message("stock")
    assert "does not name its base model" in message("adapter")
    assert "cannot be read; name its folder" in message("adapter", "--base", f"{tmp_path}/nowhere")
    assert "LlamaForCausalLM, but" in message("adapter", "--base", f"{tmp_path}/opt")
    with pytest.raises(ValueError, match="which the export would replace"):
        export_lora(adapted("llama", "slice"), tmp_path / "adapter")
    assert not (tmp_path / "out").exists()


def test_a_file_does_not_choose_the_code_that_runs(tmp_path, capsys):
    adapted("llama", "slice").save_pretrained(tmp_path / "adapter")
    llama().save_pretrained(tmp_path / "base")
    file = tmp_path / "adapter" / "adapter_config.json"
    for name in ("set_seed", "Trainer", "MyModel"):
        mapping = {"base_model_class": name, "parent_library": "transformers"}
        file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_mapping": mapping}))
        folders = [f"{tmp_path}/adapter", f"{tmp_path}/out", "--base", f"{tmp_path}/base"]
        assert main(["export", *folders]) == 1
        assert f"made on '{name}', which transformers does not define" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_damaged_config_is_named(tmp_path, capsys, text):
    (tmp_path / "adapter_config.json").write_text(text)
    assert main(["export", str(tmp_path), str(tmp_path / "out")]) == 1
    assert f"{tmp_path / 'adapter_config.json'} is damaged" in capsys.readouterr().err


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
