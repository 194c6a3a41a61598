"""Each tensor exists once: model == plan == budget == file, whatever is done to the model.

PEFT's own conformance tests pass with every layer holding its own copy, so counts are compared here.
"""

import copy
import io

import pytest
import torch
from adapter_cases import (
    INPUTS,
    METHODS,
    MODELS,
    adapted,
    base_model,
    logits,
    make_config,
    randomise,
    trainable,
)
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import safe_open

from bslora_kit.adapters import parameter_scopes, plan_of_model
from bslora_kit.budget import budget
from bslora_kit.plan import plan_of
from bslora_kit.shapes import of_model


def on_every_case(test):
    """Every method on every model."""
    test = pytest.mark.parametrize("method", METHODS)(test)
    return pytest.mark.parametrize("model_name", MODELS)(test)


def elements_in(folder):
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        return sum(file.get_tensor(key).numel() for key in file.keys())


@on_every_case
def test_model_plan_and_budget_agree(model_name, method):
    config = make_config(model_name, method)
    shapes = of_model(base_model(model_name))
    model = get_peft_model(base_model(model_name), config)
    made = plan_of_model(model)
    assert made == plan_of(config, shapes)
    assert trainable(model) == made.trainable == budget(config, shapes).trainable
    assert model.get_nb_trainable_parameters()[0] == made.trainable
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    scopes = parameter_scopes(model)
    assert set(scopes) == names
    sizes = dict(model.named_parameters())
    for scope in ("module", "layer", "type", "model"):
        assert sum(sizes[name].numel() for name in names if scopes[name] == scope) == sum(
            tensor.size for tensor in made.tensors.values() if tensor.trainable and tensor.scope == scope
        )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model_name", ["llama", "gpt2"])
def test_count_survives_what_is_done_to_a_model(model_name, method, tmp_path):
    model = adapted(model_name, method)
    count = plan_of_model(model).trainable
    reference = logits(model)

    assert trainable(model.to(torch.bfloat16)) == count
    model = adapted(model_name, method)
    twin = copy.deepcopy(model)
    assert trainable(twin) == count
    assert torch.equal(logits(twin), reference)
    randomise(twin, seed=5)  # the copy reads its own tensors, the original is untouched
    assert not torch.equal(logits(twin), reference) and torch.equal(logits(model), reference)
    model.merge_adapter()
    model.unmerge_adapter()
    assert trainable(model) == count

    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) == count
    for _ in range(2):
        model(INPUTS).logits.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert trainable(model) == count

    model.save_pretrained(tmp_path)
    assert elements_in(tmp_path) == count
    for low in (False, True):
        again = PeftModel.from_pretrained(
            base_model(model_name), tmp_path, is_trainable=True, low_cpu_mem_usage=low
        ).eval()
        assert trainable(again) == count
        torch.testing.assert_close(logits(again), logits(model), rtol=1e-5, atol=1e-5)
        assert not any(t.is_meta for t in [*again.parameters(), *again.buffers()])


@pytest.mark.parametrize("method", METHODS)
def test_file_holds_elements_times_four_bytes_and_a_header(method, tmp_path):
    model = adapted("llama", method)
    model.save_pretrained(tmp_path)
    raw = (tmp_path / "adapter_model.safetensors").read_bytes()
    header = int.from_bytes(raw[:8], "little")
    assert len(raw) == 8 + header + 4 * plan_of_model(model).trainable


@pytest.mark.parametrize("first", ["lora", "slice", "vera", "tl6"])
@pytest.mark.parametrize("second", ["gate", "kron", "share_b", "vera"])
def test_two_adapters_of_other_methods_ranks_and_targets(first, second):
    model = adapted("llama", first)
    model.add_adapter("wider", METHODS[second](target_modules=["o_proj", "gate_proj", "down_proj"]))
    one, two = plan_of_model(model), plan_of_model(model, "wider")
    assert {linear.kind for linear in two.linears} == {"o_proj", "gate_proj", "down_proj"}
    assert trainable(model) == one.trainable  # the new adapter waits, frozen
    sizes = {
        name: sum(t.numel() for t in get_peft_model_state_dict(model, adapter_name=name).values())
        for name in ("default", "wider")
    }
    assert sizes == {"default": one.trainable, "wider": two.trainable}
    model.set_adapter("wider")
    assert trainable(model) == two.trainable
    model.delete_adapter("default")
    assert not [
        n for n in [*dict(model.named_parameters()), *dict(model.named_buffers())] if "default" in n
    ]
    assert trainable(model) == two.trainable


@pytest.mark.parametrize("method", METHODS)
def test_torch_save_keeps_the_sharing(method):
    """multiprocessing pickles models; a copy made so must share what the original shares."""
    model = adapted("llama", method)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    again = torch.load(buffer, weights_only=False)  # our own bytes
    assert trainable(again) == trainable(model)
    randomise(again, seed=7), randomise(model, seed=7)
    assert torch.equal(logits(again), logits(model))
