"""Saving and loading: what comes back is what was saved, and what does not fit is refused untouched."""

import importlib
import json

import pytest
import torch
from adapter_cases import (
    adapted,
    base_model,
    bert,
    gpt2,
    llama,
    logits,
    randomise,
    trainable,
)
from peft import (
    AutoPeftModelForCausalLM,
    PeftConfig,
    PeftModel,
    PeftType,
    get_peft_model,
    set_peft_model_state_dict,
)
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from safetensors.torch import load_file, save_file

import bslora_kit.adapters
from bslora_kit import bslora, lora, vera
from bslora_kit.adapters import SharedLoraModel, plan_of_model
from bslora_kit.methods import PEFT_TYPE

WEIGHTS = "adapter_model.safetensors"
BANK = "base_model.shared_lora_bank"


def test_saving_twice_gives_equal_files(tmp_path):
    for name in ("one", "two"):
        adapted("llama", "kron").save_pretrained(tmp_path / name)
    for file in (WEIGHTS, "adapter_config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_default_targets_are_written_into_the_config(tmp_path):
    for base, expected in (
        (llama(), ["down_proj", "k_proj", "q_proj", "up_proj", "v_proj"]),
        (gpt2(), ["c_attn"]),
        (bert(), ["query", "value"]),
    ):
        model = get_peft_model(base, bslora(1, 1, 1))
        model.save_pretrained(tmp_path)
        saved = json.loads((tmp_path / "adapter_config.json").read_text())
        assert saved["target_modules"] == expected
        assert saved["fan_in_fan_out"] == (expected == ["c_attn"])


def test_low_memory_loading_does_not_round_on_a_bfloat16_base(tmp_path):
    adapted("llama", "gate").save_pretrained(tmp_path)
    saved = load_file(tmp_path / WEIGHTS)
    for low in (False, True):
        model = PeftModel.from_pretrained(
            base_model("llama", torch.bfloat16), tmp_path, low_cpu_mem_usage=low
        )
        for name, value in model.state_dict().items():
            if "shared_lora_" in name:
                assert torch.equal(value, saved[name.replace(".default.", ".")]), name


def test_frozen_factors_are_drawn_again_from_the_seed(tmp_path):
    model = adapted("llama", "vera")
    model.save_pretrained(tmp_path)
    assert all(key.endswith(("/u.weight", "/v.weight")) for key in load_file(tmp_path / WEIGHTS))
    torch.manual_seed(99)  # the global state has no part in it
    again = PeftModel.from_pretrained(base_model("llama"), tmp_path, low_cpu_mem_usage=True)
    one, two = (dict(m.named_buffers()) for m in (model, again))
    frozen = [name for name in one if "shared_lora_" in name]
    assert len(frozen) == 2 and all(torch.equal(one[name], two[name]) for name in frozen)
    other = get_peft_model(base_model("llama"), vera(5, frozen_seed=1))
    assert not any(torch.equal(one[name], dict(other.named_buffers())[name]) for name in frozen)


def test_trainer_style_state_dict_round_trip():
    model = adapted("llama", "own_row")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    other = randomise(adapted("llama", "own_row"), seed=9)
    other.load_state_dict(state, strict=True)
    assert torch.equal(logits(other), logits(model))


def test_auto_class_reads_the_base_from_the_config(tmp_path):
    base_model("llama").save_pretrained(tmp_path / "base")
    model = get_peft_model(
        type(base_model("llama")).from_pretrained(tmp_path / "base"),
        bslora(1, 2, 3, task_type="CAUSAL_LM"),
    )
    randomise(model).eval().save_pretrained(tmp_path / "adapter")
    again = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert torch.equal(logits(again), logits(model))


def refused(model, folder, match, name="second"):
    """Loading fails with a clear error and leaves the model as it was."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    out, active = logits(model), model.active_adapters
    with pytest.raises(ValueError, match=match):
        model.load_adapter(folder, name)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(logits(model), out) and model.active_adapters == active


def change_config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder, change):
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})


def test_a_file_that_does_not_fit_is_refused(tmp_path):
    adapted("llama", "slice").save_pretrained(tmp_path)
    model = adapted("llama", "gate")
    change_weights(tmp_path, lambda t: dict(list(t.items())[1:]))
    refused(model, tmp_path, "is missing")
    change_weights(tmp_path, lambda t: t | {f"{BANK}.more/A/model.weight": torch.zeros(3, 4)})
    refused(model, tmp_path, "is missing")

    adapted("llama", "slice").save_pretrained(tmp_path)
    change_weights(tmp_path, lambda t: t | {f"{BANK}.more/A/model.weight": torch.zeros(3, 4)})
    refused(model, tmp_path, "more/A/model.weight is unknown")
    adapted("llama", "slice").save_pretrained(tmp_path)
    change_weights(tmp_path, lambda t: {k: v[:1] if "inter/A" in k else v for k, v in t.items()})
    refused(model, tmp_path, r"has shape \[1, 43\] where \[3, 43\] is wanted")


def test_a_config_of_another_method_or_base_is_refused(tmp_path):
    adapted("llama", "slice").save_pretrained(tmp_path)
    model = adapted("llama", "gate")
    branches = lora(4).to_dict()["branches"]
    change_config(tmp_path, branches=branches, method="lora")
    refused(model, tmp_path, r"\(lora\).*has shape \[1, 24\] where \[4, 24\]")

    adapted("opt", "slice").save_pretrained(tmp_path)
    refused(model, tmp_path, "does not fit|cannot be adapted|match no linear")


@pytest.mark.parametrize("low", [False, True])
def test_refusal_gives_the_base_back(tmp_path, low):
    adapted("llama", "slice").save_pretrained(tmp_path)
    change_config(tmp_path, branches=lora(4).to_dict()["branches"])
    base = base_model("llama")
    names, out = set(base.state_dict()), logits(base)
    with pytest.raises(ValueError, match="does not fit"):
        PeftModel.from_pretrained(base, tmp_path, low_cpu_mem_usage=low)
    assert set(base.state_dict()) == names and torch.equal(logits(base), out)


@pytest.mark.parametrize("cut", [-8, 50, 4])
def test_a_truncated_file_is_refused_before_the_model_is_touched(tmp_path, cut):
    adapted("llama", "slice").save_pretrained(tmp_path)
    file = tmp_path / WEIGHTS
    file.write_bytes(file.read_bytes()[:cut])
    refused(adapted("llama", "gate"), tmp_path, "damaged")
    base = base_model("llama")
    with pytest.raises(ValueError, match="damaged"):
        PeftModel.from_pretrained(base, tmp_path)
    assert not any("shared_lora" in name for name, _ in base.named_modules())


def test_a_failed_load_does_not_remove_an_adapter_in_use(tmp_path):
    adapted("llama", "slice").save_pretrained(tmp_path / "good")
    adapted("llama", "gate").save_pretrained(tmp_path / "other")
    config = PeftConfig.from_pretrained(tmp_path / "good")
    config.inference_mode = False
    model = randomise(get_peft_model(base_model("llama"), config)).eval()
    out = logits(model)  # it has run
    with pytest.raises(ValueError, match="does not fit"):
        set_peft_model_state_dict(model, load_file(tmp_path / "other" / WEIGHTS))
    assert torch.equal(logits(model), out) and trainable(model) == plan_of_model(model).trainable


def test_a_reload_registers_nothing_twice():
    """As after editing the kit in a notebook."""
    registered = PEFT_TYPE_TO_TUNER_MAPPING[PEFT_TYPE]
    importlib.reload(bslora_kit.adapters)
    assert PEFT_TYPE_TO_TUNER_MAPPING[PEFT_TYPE] is registered is SharedLoraModel
    assert list(PeftType).count(PEFT_TYPE) == 1 and PeftType("SHARED_LORA") is PEFT_TYPE
