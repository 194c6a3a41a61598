"""Which modules are adapted, and what is said where none can be."""

import re

import pytest
import torch
from adapter_cases import INPUTS, base_model, bert, gpt2, llama, logits, opt, randomise, trainable
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM

from bslora_kit import bslora, lora, share_lora, tied_lora
from bslora_kit.adapters import plan_of_model


def adapted_names(model):
    return [linear.name for linear in plan_of_model(model).linears]


def wrapped_names(model):
    base = model.get_base_model()
    return [name for name, module in base.named_modules() if hasattr(module, "shared_lora_reading")]


@pytest.mark.parametrize(
    ("make", "options", "count"),
    [
        (llama, {}, 10),
        (llama, {"target_modules": ["q_proj"]}, 2),
        (llama, {"target_modules": "all-linear"}, 14),
        (llama, {"target_modules": r".*layers\.1\..*(q|o)_proj"}, 2),
        (llama, {"target_modules": r"model\.layers\.0\.mlp\.down_proj"}, 1),
        (llama, {"layers_to_transform": [1]}, 5),
        (llama, {"layers_to_transform": 0, "layers_pattern": "layers"}, 5),
        (llama, {"target_modules": "all-linear", "exclude_modules": ["k_proj", "lm_head"]}, 12),
        (llama, {"target_modules": ["q_proj", "lm_head"]}, 3),
        (gpt2, {"target_modules": ["c_attn", "c_proj", "c_fc"]}, 8),
        (opt, {"target_modules": "all-linear"}, 12),
        (bert, {"target_modules": ["query", "dense"]}, 9),
    ],
)
def test_targets(make, options, count):
    torch.manual_seed(0)
    model = get_peft_model(make(), bslora(1, 2, 3, **options))
    assert adapted_names(model) == wrapped_names(model)
    assert len(adapted_names(model)) == count
    assert trainable(model) == plan_of_model(model).trainable
    # The same modules as stock PEFT adapts.
    named = {"target_modules": ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"], **options}
    stock = get_peft_model(make(), LoraConfig(r=1, **named)).get_base_model()
    assert adapted_names(model) == [n for n, m in stock.named_modules() if hasattr(m, "lora_A")]


def test_layers_are_grouped_by_their_first_number():
    model = get_peft_model(llama(), bslora(0, 2, 0))
    owners = {tensor.owner for tensor in plan_of_model(model).tensors.values()}
    assert owners == {"model.layers.0", "model.layers.1"}


def test_a_linear_outside_the_layers_is_its_own_layer():
    model = get_peft_model(llama(), bslora(0, 2, 0, target_modules=["q_proj", "lm_head"]))
    assert "lm_head" in {tensor.owner for tensor in plan_of_model(model).tensors.values()}


class TwoTowers(nn.Module):
    """Stacks of modules outside transformers, one inside the other, used twice in a forward pass."""

    def __init__(self):
        super().__init__()
        self.left = nn.ModuleList(nn.ModuleList(nn.Linear(6, 6) for _ in range(2)) for _ in range(2))
        self.head = nn.Linear(6, 3, bias=False)

    def forward(self, x):
        for stack in [*self.left, *self.left]:
            for linear in stack:
                x = linear(x).tanh()
        return self.head(x)


def test_a_module_outside_transformers():
    model = get_peft_model(TwoTowers(), bslora(1, 2, 3, target_modules=r"left\.\d+\.\d+|head"))
    owners = {t.owner for t in plan_of_model(model).tensors.values() if t.branch == "intra"}
    assert owners == {"left.0", "left.1", "head"}
    x = torch.randn(4, 6)
    randomise(model).eval()
    out = model(x)
    torch.testing.assert_close(model.merge_and_unload()(x), out)


def refused(match, make, config):
    torch.manual_seed(0)
    base = make().eval()
    state = {name: value.clone() for name, value in base.state_dict().items()}
    with pytest.raises(ValueError, match=match):
        get_peft_model(base, config)
    assert state.keys() == base.state_dict().keys()
    assert not any(hasattr(module, "base_layer") for module in base.modules())


@pytest.mark.parametrize(
    ("match", "make", "options"),
    [
        (
            "'nothing'.* match no linear of llama",
            llama,
            {"target_modules": ["nothing"]},
        ),
        ("match no linear", llama, {"layers_to_transform": [7]}),
        (
            "'model.embed_tokens' of type Embedding; only nn.Linear",
            llama,
            {"target_modules": ["q_proj", "embed_tokens"]},
        ),
        ("of type LlamaMLP", llama, {"target_modules": r".*layers\.0\.mlp.*"}),
        (
            "name them with target_modules",
            TwoTowers,
            {},
        ),
    ],
)
def test_targets_that_cannot_be_adapted(match, make, options):
    refused(match, make, bslora(1, 1, 1, **options))


def test_type_sharing_over_different_sizes_needs_a_fit():
    options = {"target_modules": ["query", "dense"]}
    refused("'dense' is shared by linears of different sizes", bert, tied_lora(2, **options))
    refused("different sizes", gpt2, share_lora(2, target_modules=["c_proj"]))


def test_fused_experts_are_named():
    def mixtral():
        return MixtralForCausalLM(
            MixtralConfig(
                vocab_size=40,
                hidden_size=24,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=4,
                num_key_value_heads=2,
                num_local_experts=2,
            )
        )

    refused(
        "one 3-D parameter .*experts", mixtral, bslora(1, 1, 1, target_modules=["q_proj", "down_proj"])
    )
    model = get_peft_model(mixtral(), bslora(1, 1, 1))
    assert {name.rpartition(".")[2] for name in adapted_names(model)} <= {"q_proj", "v_proj", "k_proj"}


def test_multihead_attention_is_refused():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2)

    refused("reads its weight without calling it", Attention, lora(1, target_modules=["out_proj"]))


def test_another_method_on_the_same_linear_is_refused():
    base = llama()
    get_peft_model(base, LoraConfig(r=1, target_modules=["q_proj"]))
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="adapter of another method"):
        get_peft_model(base, lora(1))


def test_a_refused_second_adapter_leaves_the_first():
    model = randomise(get_peft_model(base_model("llama"), bslora(1, 2, 3))).eval()
    out, names = logits(model), set(model.state_dict())
    for config, match in (
        (lora(1, target_modules=["nothing"]), "match no linear"),
        (lora(1, bias="all"), None),
        (share_lora(1, target_modules=["q_proj", "embed_tokens"]), "Embedding"),
    ):
        if match:
            with pytest.raises(ValueError, match=match):
                model.add_adapter("second", config)
            assert list(model.peft_config) == ["default"]
            assert set(model.state_dict()) == names
            assert torch.equal(logits(model), out)
    with pytest.raises(ValueError, match="'second' does not exist"):
        model.base_model.set_adapter("second")
    assert torch.equal(model(INPUTS).logits.detach(), out)


def test_two_adapters_with_biases_are_refused():
    model = get_peft_model(opt(), lora(1, target_modules=["q_proj"], bias="all"))
    names = set(model.state_dict())
    with pytest.raises(ValueError, match="only 1 adapter with bias"):
        model.add_adapter("second", lora(1, target_modules=["v_proj"], bias="all"))
    assert set(model.state_dict()) == names and list(model.base_model.shared_lora_plans) == ["default"]


def test_messages_are_one_sentence_without_paths():
    with pytest.raises(ValueError) as error:
        get_peft_model(llama(), lora(1, target_modules=["embed_tokens", "q_proj"]))
    assert "\n" not in str(error.value) and not re.search(r"/\w+/", str(error.value))
