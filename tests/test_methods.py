"""The constructors and their config: values, errors, files, and counts of really adapted models.

The adapted Llama has 2 layers of width 32 with grouped heads (q and k differ in size), the smallest
model in which every way of sharing differs from the others.
"""

import json
import subprocess
import sys

import peft
import pytest
import transformers
from peft import PeftConfig

from bslora_kit import Branch, SharedLoraConfig, bslora, lora, share_lora, tied_lora, vera
from bslora_kit.budget import budget
from bslora_kit.shapes import llama_3_8b, of_config, of_model

LLAMA = transformers.LlamaConfig(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
CONFIGS = {
    "lora": lora(3),
    "bslora slice": bslora(1, 2, 3),
    "bslora gate": bslora(1, 2, 3, fit="gate", gate_size=7),
    "bslora kron": bslora(1, 2, 3, fit="kron", kron_size=5),
    "bslora intra only": bslora(0, 4, 0, fit="kron", kron_size=8),
    "bslora inter only": bslora(0, 0, 4, fit="gate", gate_size=8),
    "share_lora A": share_lora(3, share="A"),
    "share_lora B": share_lora(3, share="B"),
    "share_lora AB": share_lora(3, share="AB"),
    "tied_lora tl5": tied_lora(3, variant="tl5"),
    "tied_lora tl6": tied_lora(3, variant="tl6"),
    "vera": vera(6),
}


def test_constructors_say_what_is_shared():
    assert bslora(2, 4, 16).branches == [
        Branch("local", 2),
        Branch("intra", 4, "layer", "layer", "slice"),
        Branch("inter", 16, "model", "model", "slice"),
    ]
    assert bslora(2, 4, 16, fit="gate").branches[1].size == 1024
    assert bslora(2, 4, 16, fit="kron").branches[1].size == 256
    assert share_lora(8, share="B").branches == [Branch("shared", 8, "module", "type")]
    assert tied_lora(8, variant="tl5").branches == [Branch("shared", 8, "type", "type")]
    assert tied_lora(8).branches == [Branch("shared", 8, "type", "type", gains=True)]
    assert lora(8).branches == [Branch("local", 8)]
    assert lora(8).scaling == 2.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lora(-1), "rank -1 is not a whole number >= 0; 0 switches the branch off"),
        (lambda: lora(0), r"lora: ranks \[0\] switch every branch off; give at least one rank above 0"),
        (lambda: bslora(0, 0, 0), r"bslora_slice: ranks \[0, 0, 0\] switch every branch off"),
        (lambda: bslora(2, 4, -16), "branch 'inter': rank -16"),
        (lambda: bslora(2, 4, 16, fit="crop"), "fit 'crop' is unknown; use one of slice, gate, kron"),
        (
            lambda: bslora(2, 4, 16, fit="gate", gate_size=0),
            "size of at least 1, got 0; published: gate",
        ),
        (lambda: bslora(2, 4, 16, fit="kron", kron_size=-8), "size of at least 1, got -8"),
        (lambda: share_lora(8, share="C"), "share 'C' is unknown; use one of A, B, AB"),
        (lambda: tied_lora(8, variant="tl9"), "variant 'tl9' is unknown; use one of tl5, tl6"),
        (lambda: lora(8, dropout=1.0), r"dropout 1.0 is not a number in \[0, 1\)"),
        (lambda: lora(8, dropout=-0.1), "dropout -0.1 is not"),
        (lambda: lora(8, dropout="0.05"), "dropout '0.05' is not"),
        (lambda: lora(8, scaling=0), "scaling 0 is not a finite number other than 0"),
        (lambda: lora(8, scaling=float("nan")), "scaling nan is not"),
        (lambda: lora(8, bias="lora_only"), "bias 'lora_only' is unknown; use one of none, all, shared"),
        (lambda: lora(8, layers_pattern="layers"), "layers_to_transform is not; set both"),
        (
            lambda: lora(8, target_modules=".*q_proj", layers_to_transform=[0]),
            "'.*q_proj' is a regular expression, for which PEFT ignores layers_to_transform",
        ),
        (lambda: SharedLoraConfig(), r"custom: ranks \[\] switch every branch off"),
    ],
)
def test_bad_values_are_refused_with_the_remedy(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'alpha'"):
        lora(8, alpha=16)


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["query", "value"]},
        {"target_modules": r".*\.query"},
        {"target_modules": ["q_proj"], "layers_to_transform": [32]},
        {"target_modules": ["q_proj"], "exclude_modules": ["q_proj"]},
    ],
    ids=str,
)
def test_targets_that_match_nothing_name_what_the_model_has(options):
    with pytest.raises(ValueError, match="match no linear of Llama-3-8B; it has down_proj, gate_proj"):
        lora(8, **options).targets_in(llama_3_8b())


def test_a_model_without_default_targets_asks_for_them():
    import torch

    plain = of_model(torch.nn.Sequential(torch.nn.Linear(3, 5)), "plain")
    with pytest.raises(ValueError, match="name them with target_modules, for example"):
        lora(8).targets_in(plain)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_saved_config_comes_back_equal(name, tmp_path):
    config = CONFIGS[name]
    config.save_pretrained(tmp_path)
    back = PeftConfig.from_pretrained(tmp_path)
    assert type(back) is SharedLoraConfig
    assert back == config
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written["peft_type"] == "SHARED_LORA"
    assert written["branches"][0]["rank"] == config.branches[0].rank


def test_every_option_survives_the_file_and_equal_configs_give_equal_files(tmp_path):
    options = {
        "target_modules": ["v_proj", "q_proj", "up_proj"],
        "exclude_modules": ["down_proj", "o_proj"],
        "layers_to_transform": [0, 3],
        "layers_pattern": "layers",
        "modules_to_save": ["lm_head"],
        "bias": "shared_lora_only",
        "scaling": 0.5,
        "dropout": 0.05,
        "frozen_seed": 7,
        "task_type": "CAUSAL_LM",
    }
    config = bslora(2, 4, 16, fit="gate", gate_size=12, **options)
    config.save_pretrained(tmp_path / "one")
    assert PeftConfig.from_pretrained(tmp_path / "one") == config
    turned = options | {"target_modules": ["up_proj", "q_proj", "v_proj"]}
    bslora(2, 4, 16, fit="gate", gate_size=12, **turned).save_pretrained(tmp_path / "two")
    files = [(tmp_path / name / "adapter_config.json").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]


def test_a_loaded_config_is_checked_again(tmp_path):
    lora(8).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(path.read_text().replace('"rank": 8', '"rank": -8'))
    with pytest.raises(ValueError, match="branch 'local': rank -8"):
        PeftConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_budget_is_what_the_adapted_model_trains(name):
    planned = budget(CONFIGS[name], of_config(LLAMA))
    model = transformers.AutoModelForCausalLM.from_config(LLAMA)
    adapted = peft.get_peft_model(model, CONFIGS[name])
    assert sum(x.numel() for x in adapted.parameters() if x.requires_grad) == planned.trainable
    assert of_model(adapted) == of_config(LLAMA)


def test_the_constructors_load_on_first_use():
    code = "import sys, bslora_kit; assert 'torch' not in sys.modules; bslora_kit.lora(8)"
    subprocess.run([sys.executable, "-c", code], check=True)
