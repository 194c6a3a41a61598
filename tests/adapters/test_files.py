"""Saving and loading: what comes back is what was saved, and what does not fit is refused untouched."""

import importlib
import json

import huggingface_hub
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
    LoraConfig,
    PeftModel,
    PeftType,
    get_peft_model,
    set_peft_model_state_dict,
)
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

import bslora_kit.adapters
from bslora_kit import SharedLoraConfig, bslora, lora, tied_lora, vera
from bslora_kit.adapters import SharedLoraModel, plan_of_model
from bslora_kit.adapters.matching import describe_linears
from bslora_kit.methods import PEFT_TYPE
from bslora_kit.shapes import linear_at

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


def refused(model, folder, match, name="second", **options):
    """Loading fails with a clear error and leaves the model as it was."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    out, active = logits(model), model.active_adapters
    with pytest.raises(ValueError, match=match):
        model.load_adapter(folder, name, **options)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(logits(model), out) and model.active_adapters == active


def change_config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder, change):
    """Rewrites the weights on purpose, which the config then has to allow."""
    change_config(folder, weights_sha256=None)
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


@pytest.mark.parametrize("place", [0, 0.5, -1])
def test_altered_values_are_refused_before_the_model_is_touched(tmp_path, place):
    model = adapted("llama", "gate")
    model.save_pretrained(tmp_path)
    file = tmp_path / WEIGHTS
    content = bytearray(file.read_bytes())
    first = 8 + int.from_bytes(content[:8], "little")  # the header stays as it was
    content[-1 if place < 0 else first + int(place * (len(content) - first))] ^= 1
    file.write_bytes(content)
    assert load_file(file).keys()  # safetensors sees nothing wrong
    refused(model, tmp_path, "is altered: its SHA-256", "default")
    refused(model, tmp_path, "is altered: its SHA-256", "second")
    base = base_model("llama")
    with pytest.raises(ValueError, match="is altered: its SHA-256"):
        PeftModel.from_pretrained(base, tmp_path)
    assert not any("shared_lora" in name for name, _ in base.named_modules())


def test_the_weights_of_one_save_and_the_config_of_another_are_refused(tmp_path):
    adapted("llama", "slice").save_pretrained(tmp_path)
    older = (tmp_path / "adapter_config.json").read_bytes()
    model = randomise(adapted("llama", "slice"), seed=4)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(base_model("llama"), tmp_path)), logits(model))
    (tmp_path / "adapter_config.json").write_bytes(older)  # as a copy that was cut off leaves them
    refused(model, tmp_path, "is altered: its SHA-256")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache with one repository, as a download leaves it; without a network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--someone--adapter"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("1" * 40)
    adapted("llama", "gate").save_pretrained(repository / "snapshots" / ("1" * 40))
    return repository / "snapshots" / ("1" * 40)


def test_an_adapter_of_a_hub_loads_as_one_of_a_folder(tmp_path, hub):
    model = PeftModel.from_pretrained(base_model("llama"), "someone/adapter", cache_dir=tmp_path)
    model.load_adapter("someone/adapter", "second", cache_dir=tmp_path)
    assert torch.equal(logits(model), logits(adapted("llama", "gate")))


def test_altered_weights_of_a_hub_are_refused_and_the_model_is_unchanged(tmp_path, hub):
    older = randomise(adapted("llama", "gate"), seed=4)
    older.save_pretrained(tmp_path / "older")
    (hub / WEIGHTS).write_bytes((tmp_path / "older" / WEIGHTS).read_bytes())
    place, cache = "someone/adapter", {"cache_dir": tmp_path}
    refused(older, place, f"{WEIGHTS} is altered: its SHA-256", "default", **cache)
    refused(older, place, f"{WEIGHTS} is altered: its SHA-256", "second", **cache)
    base = base_model("llama")
    names, out = set(base.state_dict()), logits(base)
    with pytest.raises(ValueError, match=f"{WEIGHTS} is altered: its SHA-256"):
        PeftModel.from_pretrained(base, place, **cache)
    assert set(base.state_dict()) == names and torch.equal(logits(base), out)


def test_pickled_weights_are_neither_written_nor_read(tmp_path, hub):
    model = adapted("llama", "slice")
    with pytest.raises(ValueError, match="safe_serialization=False would pickle"):
        model.save_pretrained(tmp_path / "out", safe_serialization=False)
    assert not (tmp_path / "out").exists()
    stock = get_peft_model(base_model("llama"), LoraConfig(target_modules=["q_proj"]))
    stock.save_pretrained(tmp_path / "stock", safe_serialization=False)  # PEFT's own save as ever

    adapted("llama", "gate").save_pretrained(tmp_path / "folder")
    for folder in (tmp_path / "folder", hub):
        (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    for place in (tmp_path / "folder", "someone/adapter"):
        for name in ("default", "second"):
            refused(model, place, f"no {WEIGHTS}", name, cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"adapted_linears": ["lm_head"]}, r"adapted_linears \['lm_head'\] is not a mapping"),
        ({"adapted_linears": {"lm_head": 24}}, "adapted_linears .* is not a mapping"),
        ({"branches": ["lora"]}, r"branches \['lora'\] are not a list of branches"),
        ({"branches": [{"name": "local", "ranks": 2}]}, "unexpected keyword argument 'ranks'.* rank, "),
        ({"branches": None}, "branches None are not a list"),
    ],
)
def test_a_malformed_config_is_refused_with_the_field(tmp_path, changes, words):
    model = adapted("llama", "slice")
    model.save_pretrained(tmp_path)
    change_config(tmp_path, **changes)
    refused(model, tmp_path, words)


def test_a_config_names_the_linears_it_was_made_for(tmp_path):
    config = tied_lora(2, target_modules=["q_proj", "down_proj", "lm_head"])
    get_peft_model(base_model("llama"), config).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["adapted_linears"] == {
        "model.layers.0-1.self_attn.q_proj": "24 x 24",
        "model.layers.0-1.mlp.down_proj": "24 x 43",
        "lm_head": "40 x 24",
    }


def test_layers_alike_stand_together_and_others_alone():
    sizes = [(0, 24), (1, 24), (2, 32), (3, 24), (5, 24), (6, 24)]
    found = describe_linears(linear_at(f"stack.{layer}.up", 8, out) for layer, out in sizes)
    assert found == {"stack.0-1,3,5-6.up": "24 x 8", "stack.2.up": "32 x 8"}


def test_a_file_from_before_these_fields_loads(tmp_path):
    model = adapted("llama", "tl5")
    model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    saved = json.loads(path.read_text())
    del saved["adapted_linears"], saved["weights_sha256"]
    path.write_text(json.dumps(saved))
    again = PeftModel.from_pretrained(base_model("llama"), tmp_path)
    again.load_adapter(tmp_path, "default")
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize(
    ("setting", "method", "options"),
    [
        ("scaling", "slice", {"scaling": 4.0}),
        ("frozen_seed", "slice", {"frozen_seed": 7}),
        ("branches", "gate", {}),
    ],
)
def test_a_reload_under_the_same_name_compares_settings(tmp_path, setting, method, options):
    """PEFT reads no config there; what the weights do not show would go unnoticed."""
    model = adapted("llama", "slice")
    model.save_pretrained(tmp_path / "same")
    adapted("llama", method, **options).save_pretrained(tmp_path / "changed")
    refused(model, tmp_path / "changed", f"saved with {setting} .*load under another name", "default")
    randomise(model, seed=4)
    model.load_adapter(tmp_path / "same", "default")
    assert torch.equal(logits(model), logits(adapted("llama", "slice")))


def test_a_model_made_from_a_saved_config_refuses_weights_of_other_settings(tmp_path):
    for name, scaling in (("two", 2.0), ("four", 4.0)):
        adapted("llama", "slice", scaling=scaling).save_pretrained(tmp_path / name)
    model = get_peft_model(base_model("llama"), SharedLoraConfig.from_pretrained(tmp_path / "two"))
    refused(model, tmp_path / "four", "saved with scaling 4.0 .*load under another name", "default")
    model.load_adapter(tmp_path / "two", "default")
    assert torch.equal(logits(model), logits(adapted("llama", "slice")))


def test_settings_read_from_a_file_may_be_changed_before_loading(tmp_path):
    adapted("llama", "slice").save_pretrained(tmp_path)
    config = SharedLoraConfig.from_pretrained(tmp_path)
    config.scaling = 4.0
    model = PeftModel.from_pretrained(base_model("llama"), tmp_path, config=config)
    assert torch.equal(logits(model), logits(adapted("llama", "slice", scaling=4.0)))


def test_settings_read_from_a_file_serve_another_base(tmp_path):
    """A new adapter with the settings of a saved one, which resumes from a checkpoint of its own."""
    adapted("llama", "tl5").save_pretrained(tmp_path / "llama")
    deeper = base_model("llama").config
    deeper.num_hidden_layers = 3
    start = [
        get_peft_model(LlamaForCausalLM(deeper), SharedLoraConfig.from_pretrained(tmp_path / "llama"))
        for _ in range(2)
    ]
    start[0].save_pretrained(tmp_path / "checkpoint")
    start[1].load_adapter(tmp_path / "checkpoint", "default")
    with pytest.raises(ValueError, match="does not fit"):
        start[1].load_adapter(tmp_path / "llama", "default")
    assert plan_of_model(start[1]).trainable == trainable(adapted("llama", "tl5"))


def test_an_adapter_of_another_method_is_not_loaded_over_one_of_this_kit(tmp_path):
    get_peft_model(base_model("llama"), LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path)
    refused(adapted("llama", "lora"), tmp_path, "does not fit adapter 'default'.* is missing", "default")
    stock = get_peft_model(base_model("llama"), LoraConfig(target_modules=["q_proj"]))
    stock.load_adapter(tmp_path, "default")  # PEFT's own methods load as ever


def test_a_failed_load_does_not_remove_an_adapter_in_use(tmp_path):
    adapted("llama", "slice").save_pretrained(tmp_path / "good")
    adapted("llama", "gate").save_pretrained(tmp_path / "other")
    config = SharedLoraConfig.from_pretrained(tmp_path / "good")
    config.inference_mode = False
    model = randomise(get_peft_model(base_model("llama"), config)).eval()
    out = logits(model)  # it has run
    with pytest.raises(ValueError, match="does not fit"):
        set_peft_model_state_dict(model, load_file(tmp_path / "other" / WEIGHTS))
    assert torch.equal(logits(model), out) and trainable(model) == plan_of_model(model).trainable


def test_a_reload_registers_nothing_twice():
    """As after editing the kit in a notebook."""
    registered, load_adapter = PEFT_TYPE_TO_TUNER_MAPPING[PEFT_TYPE], PeftModel.load_adapter
    importlib.reload(bslora_kit.adapters)
    assert PeftModel.load_adapter is load_adapter
    assert PEFT_TYPE_TO_TUNER_MAPPING[PEFT_TYPE] is registered is SharedLoraModel
    assert list(PeftType).count(PEFT_TYPE) == 1 and PeftType("SHARED_LORA") is PEFT_TYPE
