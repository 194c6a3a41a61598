"""Shapes against the linears that PEFT really adapts, on nine architectures.

Models have two layers of width 32: names, sizes and counts do not depend on width.
"""

import json

import peft
import pytest
import torch
import transformers
from peft.tuners.lora import LoraLayer
from transformers import AutoModel, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from bslora_kit.methods import lora
from bslora_kit.shapes import (
    Linear,
    linear_at,
    llama_1_7b,
    llama_1_13b,
    llama_3_8b,
    of_config,
    of_model,
    refuse_fused,
)

LINEAR_CLASSES = (torch.nn.Linear, Conv1D)
WIDTHS = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
GROUPED = WIDTHS | {"num_key_value_heads": 2}
CONFIGS = {
    "llama": transformers.LlamaConfig(**GROUPED),
    "llama tied": transformers.LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "mistral": transformers.MistralConfig(**GROUPED),
    "qwen2": transformers.Qwen2Config(**GROUPED),
    "gemma": transformers.GemmaConfig(**GROUPED, head_dim=16),
    "mixtral": transformers.MixtralConfig(**GROUPED, num_local_experts=3),
    "gpt2": transformers.GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=16),
    "opt": transformers.OPTConfig(
        vocab_size=61,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        word_embed_proj_dim=16,
        max_position_embeddings=16,
    ),
    "bert": transformers.BertConfig(**WIDTHS, max_position_embeddings=16),
}
# What each architecture's default targets are: the published five, else PEFT's own mapping.
DEFAULTS = {
    "mixtral": {"q_proj", "v_proj"},
    "gpt2": {"c_attn"},
    "opt": {"q_proj", "v_proj"},
    "bert": {"query", "value"},
}
FIVE = {"q_proj", "k_proj", "v_proj", "up_proj", "down_proj"}


def real_model(name):
    factory = AutoModel if name == "bert" else AutoModelForCausalLM
    return factory.from_config(CONFIGS[name])


def adapted_by_peft(model, **options):
    """Name -> (in, out) of the linears that PEFT's own LoRA adapts.

    Of a Mixtral's fused experts and router PEFT adapts parameters, which no linear stands for.
    """
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, **options)).get_base_model()
    return {
        name: (module.in_features, module.out_features)
        for name, module in adapted.named_modules()
        if isinstance(module, LoraLayer) and isinstance(module.get_base_layer(), LINEAR_CLASSES)
    }


def named_sizes(linears):
    return {x.name: (x.in_features, x.out_features) for x in linears}


@pytest.mark.parametrize(
    ("shapes", "parameters", "layers"),
    [
        (llama_1_7b(), 6_738_415_616, 32),
        (llama_3_8b(), 8_030_261_248, 32),
        (llama_1_13b(), 13_015_864_320, 40),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_built_in_llamas(shapes, parameters, layers):
    assert shapes.parameters == parameters
    assert len({x.layer for x in shapes.linears if x.layer}) == layers
    assert len(shapes.linears) == 7 * layers + 1


def test_built_in_llama_3_8b_equals_the_one_of_transformers():
    config = transformers.LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    )
    assert of_config(config, "Llama-3-8B") == llama_3_8b()


@pytest.mark.parametrize("name", CONFIGS)
def test_config_and_model_agree_and_parameters_are_counted_once(name):
    model = real_model(name)
    from_config, from_model = of_config(CONFIGS[name]), of_model(model)
    assert from_config == from_model
    assert from_model.parameters == sum(x.numel() for x in model.parameters())
    assert from_model.model_type == CONFIGS[name].model_type


@pytest.mark.parametrize("name", CONFIGS)
def test_default_targets_are_what_peft_adapts(name):
    targets = DEFAULTS.get(name, FIVE)
    chosen = lora(2).targets_in(of_config(CONFIGS[name]))
    assert named_sizes(chosen) == adapted_by_peft(real_model(name), target_modules=targets)
    assert {x.kind for x in chosen} == targets


@pytest.mark.parametrize("name", CONFIGS)
def test_all_linear_is_what_peft_adapts(name):
    chosen = lora(2, target_modules="all-linear").targets_in(of_config(CONFIGS[name]))
    assert named_sizes(chosen) == adapted_by_peft(real_model(name), target_modules="all-linear")


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": 0},
        {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
        {"target_modules": r".*layers\.1\..*\.(up|down)_proj"},
        {"target_modules": ["model.layers.0.self_attn.k_proj"]},
        {"target_modules": "all-linear", "exclude_modules": ["gate_proj", "o_proj"]},
        {"target_modules": ["q_proj", "lm_head"], "exclude_modules": r".*layers\.0.*"},
        {"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["lm_head"]},
    ],
    ids=str,
)
def test_peft_matching_rules(options):
    chosen = lora(2, **options).targets_in(of_config(CONFIGS["llama"]))
    assert named_sizes(chosen) == adapted_by_peft(real_model("llama"), **options)


def test_all_linear_leaves_a_classifier_head_out_as_peft_does():
    config = transformers.LlamaConfig(**GROUPED)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    options = {"target_modules": "all-linear", "task_type": "SEQ_CLS"}
    chosen = lora(2, **options).targets_in(of_model(model))
    assert "score" in {x.name for x in of_model(model).linears}
    assert named_sizes(chosen) == adapted_by_peft(model, **options)


def test_conv1d_keeps_its_weight_transposed():
    attention = next(x for x in of_config(CONFIGS["gpt2"]).linears if x.kind == "c_attn")
    assert attention == Linear("transformer.h.0.attn.c_attn", "transformer.h.0", "c_attn", 32, 96)


@pytest.mark.parametrize("name", ["llama tied", "gpt2", "bert"])
def test_an_adapted_model_is_read_without_its_adapters(name):
    before = of_model(real_model(name))
    options = {"r": 2, "target_modules": sorted(DEFAULTS.get(name, FIVE))}
    adapted = peft.get_peft_model(real_model(name), peft.LoraConfig(**options))
    assert of_model(adapted) == before
    adapted.add_adapter("wider", peft.LoraConfig(**options | {"r": 4}))
    assert of_model(adapted) == before
    injected = real_model(name)
    peft.inject_adapter_in_model(peft.LoraConfig(**options), injected)
    assert of_model(injected) == before


def test_modules_to_save_are_counted_once():
    before = of_model(real_model("llama"))
    config = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"])
    assert of_model(peft.get_peft_model(real_model("llama"), config)) == before


@pytest.mark.parametrize(
    ("path", "layer", "kind"),
    [
        ("model.layers.11.mlp.up_proj", "model.layers.11", "up_proj"),
        ("model.layers.3.experts.7.w1", "model.layers.3", "w1"),
        ("encoder.block.0.layer.1.DenseReluDense.wi", "encoder.block.0", "wi"),
        ("3.linear", "3", "linear"),
        ("lm_head", "", "lm_head"),
        ("vision2.proj", "", "proj"),
    ],
)
def test_the_layer_ends_with_the_first_number(path, layer, kind):
    assert linear_at(path, 2, 3) == Linear(path, layer, kind, 2, 3)


def test_experts_of_mixtral_cannot_be_adapted():
    shapes = of_config(CONFIGS["mixtral"])
    assert shapes.fused[:2] == (
        "model.layers.0.mlp.experts.gate_up_proj",
        "model.layers.0.mlp.experts.down_proj",
    )
    for targets in (["q_proj", "down_proj"], ["w1"], ["experts"], r".*\.experts\.gate_up_proj"):
        with pytest.raises(ValueError, match="cannot be adapted: transformers keeps all experts of a"):
            lora(2, target_modules=targets).targets_in(shapes)
    refuse_fused(["q_proj", "o_proj"], shapes)
    refuse_fused(["down_proj"], of_config(CONFIGS["llama"]))


def test_a_folder_is_read_from_its_config_alone(tmp_path):
    CONFIGS["qwen2"].save_pretrained(tmp_path / "small-qwen")
    shapes = of_config(tmp_path / "small-qwen")
    assert shapes.name == "small-qwen"
    assert shapes.linears == of_config(CONFIGS["qwen2"]).linears


def test_a_folder_without_config_and_a_model_with_own_code_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no config.json"):
        of_config(str(tmp_path))
    own_code = {
        "model_type": "new",
        "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"},
    }
    (tmp_path / "config.json").write_text(json.dumps(own_code))
    (tmp_path / "code.py").write_text("raise SystemExit('model code was run')")
    with pytest.raises(ValueError, match="which this kit never does"):
        of_config(tmp_path)


def test_other_values_are_refused():
    with pytest.raises(TypeError, match="needs a torch.nn.Module, got LlamaConfig"):
        of_model(CONFIGS["llama"])
    with pytest.raises(ValueError, match="no model for a PreTrainedConfig"):
        of_config(transformers.PreTrainedConfig())


def test_any_module_with_linears_will_do():
    plain = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    shapes = of_model(plain, "two linears")
    assert shapes.linears == (Linear("0", "0", "0", 3, 5), Linear("2", "2", "2", 5, 2))
    assert (shapes.name, shapes.parameters, shapes.head) == ("two linears", 32, "")
