"""Every method x model x operation, in the form of PEFT's own conformance tests.

    models       llama (nn.Linear), gpt2 (Conv1D, biases), opt (nn.Linear, biases)
    methods      adapter_cases.METHODS: every method and fit, on all three models, and five settings
                 with single branches and odd sizes, on llama

    operation                                                                              cases
    test_injection        get_peft_model: model == plan == budget, scopes, printed counts  all
    test_saving           save_pretrained, card, bytes, from_pretrained (is_trainable,
                          low_cpu_mem_usage), load_adapter under another name              all
    test_merging          disable, merge, safe_merge, unmerge, merge_and_unload, unload    all
    test_second_adapter   add, set one or several, mixed batches, delete                   all
    test_training         gradients, checkpointing both ways, ties and loss over steps     all
    test_export           plain LoRA in stock peft, from memory and from the command line  all
    test_copies           .to(), deepcopy, pickling as multiprocessing does, state_dict    llama
    test_spawned_process  logits in a process that multiprocessing has spawned             llama
    test_generating       generate with beams and adapter_names                            llama
    test_half_precision   bfloat16 and float16: logits, gradients, steps; adapter's dtype  llama
    test_wrong_files      the file of another method, bases of other widths and depths     llama
    test_compiling        torch.compile, one graph                                         all roles

PEFT's own suite passes with every layer holding its own copy of a shared tensor, so elements are
counted here: distinct trainable elements == plan == budget == file, whatever was done to the model.
Special cases of one operation are in the other files of this folder.
"""

import copy
import json
import math
import multiprocessing
import pickle
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from adapter_cases import (
    INPUTS,
    METHODS,
    MODELS,
    adapted,
    base_model,
    logits,
    logits_as_lists,
    make_config,
    randomise,
    trainable,
)
from huggingface_hub import ModelCard
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from bslora_kit import SharedLoraConfig
from bslora_kit.adapters import export_lora, parameter_scopes, plan_of_model
from bslora_kit.adapters.__main__ import main
from bslora_kit.budget import budget
from bslora_kit.plan import plan_of
from bslora_kit.shapes import of_model

WEIGHTS = "adapter_model.safetensors"
# Targets of a second adapter: some that the first has, some that it has not.
SECOND = {
    "llama": ["o_proj", "gate_proj", "down_proj"],
    "gpt2": ["mlp.c_proj", "c_fc"],
    "opt": ["out_proj", "fc1"],
}

ON_LLAMA = {"slice_intra", "slice_inter", "gate_inter", "kron_intra", "kron_wider_than_any"}
CASES = [
    (model, method)
    for model in MODELS
    for method in METHODS
    if model == "llama" or method not in ON_LLAMA
]

every_case = pytest.mark.parametrize(("model_name", "method"), CASES)
every_method = pytest.mark.parametrize("method", METHODS)


def close(one, other, tolerance=1e-5):
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def another(method, distance=1):
    """A method further down the list, so that each is met as first and as second."""
    names = list(METHODS)
    return names[(names.index(method) + distance) % len(names)]


def names_in(model):
    return {*dict(model.named_parameters()), *dict(model.named_buffers())}


@every_case
def test_injection(model_name, method, capsys):
    config = make_config(model_name, method)
    shapes = of_model(base_model(model_name))
    model = get_peft_model(base_model(model_name), config)
    made = plan_of_model(model)
    assert made == plan_of(config, shapes)
    assert trainable(model) == made.trainable == budget(config, shapes).trainable
    model.print_trainable_parameters()
    assert f"trainable params: {made.trainable:,} ||" in capsys.readouterr().out
    scopes = parameter_scopes(model)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert scopes.keys() == parameters.keys()
    for scope in ("module", "layer", "type", "model"):
        assert sum(p.numel() for name, p in parameters.items() if scopes[name] == scope) == sum(
            tensor.size for tensor in made.tensors.values() if tensor.trainable and tensor.scope == scope
        )


@every_case
def test_saving(model_name, method, tmp_path):
    model = adapted(model_name, method)
    count = plan_of_model(model).trainable
    model.save_pretrained(tmp_path)
    raw = (tmp_path / WEIGHTS).read_bytes()
    header = int.from_bytes(raw[:8], "little")
    assert len(raw) == 8 + header + 4 * count  # float32
    entries = json.loads(raw[8 : 8 + header])
    shapes = {key: entry["shape"] for key, entry in entries.items() if key != "__metadata__"}
    assert sum(math.prod(shape) for shape in shapes.values()) == count
    assert shapes == {key: list(t.shape) for key, t in get_peft_model_state_dict(model).items()}
    assert ModelCard.load(tmp_path / "README.md").data.library_name == "peft"

    loaded = PeftConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, SharedLoraConfig)
    assert loaded.branches == model.peft_config["default"].branches
    again = PeftModel.from_pretrained(
        base_model(model_name), tmp_path, is_trainable=True, low_cpu_mem_usage=True
    ).eval()
    assert trainable(again) == count
    assert not any(t.is_meta for t in [*again.parameters(), *again.buffers()])
    assert torch.equal(logits(again), logits(model))
    again.load_adapter(tmp_path, "renamed")  # for inference, beside the first
    assert trainable(again) == count
    randomise(again, seed=8)  # the first one: what was loaded has tensors of its own
    again.set_adapter("renamed")
    assert torch.equal(logits(again), logits(model))


@every_case
def test_merging(model_name, method):
    """In float64, where the rounding of a merge is far below an error in it."""
    model = adapted(model_name, method, torch.float64)
    count, out = plan_of_model(model).trainable, logits(model)
    base = logits(base_model(model_name, torch.float64))
    assert (out - base).abs().max() > 1e-3  # the adapter does something
    with model.disable_adapter():
        assert torch.equal(logits(model), base)
    model.merge_adapter(safe_merge=True)
    close(logits(model), out, 1e-11)
    with model.disable_adapter():  # takes the merged update out
        close(logits(model), base, 1e-11)
    close(logits(model), out, 1e-11)
    assert trainable(model) == count
    twin = copy.deepcopy(model)
    merged = model.merge_and_unload(safe_merge=True)
    assert type(merged) is type(base_model(model_name))
    assert not any("shared_lora" in name for name, _ in merged.named_modules())
    close(logits(merged), out, 1e-11)
    close(logits(twin.unload()), base, 1e-11)


@every_case
def test_second_adapter(model_name, method):
    model = adapted(model_name, method)
    out = {"__base__": logits(base_model(model_name)), "default": logits(model)}
    config = METHODS[another(method)](target_modules=SECOND[model_name], scaling=1.5)
    model.add_adapter("second", config)
    one, two = plan_of_model(model), plan_of_model(model, "second")
    assert {linear.kind for linear in two.linears} == {t.rpartition(".")[2] for t in SECOND[model_name]}
    assert trainable(model) == one.trainable  # the new adapter waits, frozen
    assert torch.equal(logits(model), out["default"])
    for name, made in (("default", one), ("second", two)):
        saved = get_peft_model_state_dict(model, adapter_name=name)
        assert sum(tensor.numel() for tensor in saved.values()) == made.trainable

    model.set_adapter("second")
    assert trainable(model) == two.trainable
    out["second"] = logits(randomise(model, seed=3))
    model.base_model.set_adapter(["default", "second"])
    assert trainable(model) == one.trainable + two.trainable
    both = logits(model)
    assert not torch.allclose(both, out["default"]) and not torch.allclose(both, out["second"])
    model.merge_adapter()
    close(logits(model), both)
    model.unmerge_adapter()
    model.set_adapter("default")

    if model_name == "opt":  # its feed-forward part flattens batch and tokens into one dimension
        with pytest.raises(ValueError, match="2 entries for a batch of 24 rows"):
            logits(model, adapter_names=["second", "default"])
    else:
        for rows in (["second", "default"], ["__base__", "second"], ["default", "default"]):
            mixed = logits(model, adapter_names=rows)
            for row, name in enumerate(rows):
                close(mixed[row], out[name][row])
    close(logits(model), out["default"])  # nothing of it sticks

    model.delete_adapter("default")
    assert not [name for name in names_in(model) if "default" in name]
    assert model.active_adapters == ["second"] and trainable(model) == two.trainable
    close(logits(model), out["second"])


@every_case
def test_training(model_name, method):
    model = adapted(model_name, method, torch.float64).train()
    if model_name == "gpt2":
        for module in model.modules():  # its own dropout would hide what is compared
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0

    def gradients():
        model.zero_grad()
        model(INPUTS, labels=INPUTS).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    wanted = gradients()
    assert wanted.keys() == parameter_scopes(model).keys()  # every adapter tensor and nothing else
    assert all(gradient.any() for gradient in wanted.values())
    model.enable_input_require_grads()
    for reentrant in (False, True) if model_name == "llama" else (False,):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        for name, gradient in gradients().items():
            torch.testing.assert_close(gradient, wanted[name], rtol=1e-10, atol=1e-14)
    model.gradient_checkpointing_disable()

    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    count = plan_of_model(model).trainable
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) == count
    before = model(INPUTS, labels=INPUTS).loss.item()
    for _ in range(2):
        gradients()
        optimizer.step()
    assert model(INPUTS, labels=INPUTS).loss.item() < before
    assert trainable(model) == count


@every_method
def test_copies(method):
    model = adapted("llama", method)
    count, out = plan_of_model(model).trainable, logits(model)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    randomised = logits(randomise(adapted("llama", method), seed=5))
    for twin in (copy.deepcopy(model), pickle.loads(ForkingPickler.dumps(copy.deepcopy(model)))):
        assert trainable(twin) == count and torch.equal(logits(twin), out)
        randomise(twin, seed=5)
        assert torch.equal(logits(twin), randomised)  # a copy shares what the original shares
        twin.load_state_dict(state, strict=True)
        assert torch.equal(logits(twin), out)
    assert torch.equal(logits(model), out)  # and nothing with the original
    wide = model.to(torch.float64)
    assert trainable(wide) == count
    close(logits(wide).float(), out)
    assert trainable(model.to(torch.bfloat16)) == count


def test_spawned_process():
    """One process for all methods: its imports take longer than the rest."""
    models = [adapted("llama", method) for method in METHODS]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.map(logits_as_lists, models, chunksize=len(models))
    for method, model, numbers in zip(METHODS, models, found, strict=True):
        assert torch.equal(torch.tensor(numbers), logits(model)), method


STOCK_PEFT = """
import json, pathlib, sys
sys.modules["bslora_kit"] = None  # importing the kit fails
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
root, inputs = pathlib.Path(sys.argv[1]), torch.tensor(json.loads(sys.argv[2]))
found = {}
for plain in sorted(root.glob("*/*/plain")):
    base = AutoModelForCausalLM.from_pretrained(plain.parents[1] / "base")
    model = PeftModel.from_pretrained(base, plain)
    with torch.no_grad():
        found[f"{plain.parents[1].name}-{plain.parent.name}"] = model(inputs).logits
save_file(found, root / "stock.safetensors")
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Every adapter of the matrix exported, and the logits that stock peft gives with it.

    One process for all: importing torch and transformers takes longer than the whole matrix.
    """
    root = tmp_path_factory.mktemp("exported")
    for model_name in MODELS:
        base_model(model_name).save_pretrained(root / model_name / "base")
    for model_name, method in CASES:
        export_lora(adapted(model_name, method), root / model_name / method / "plain")
    arguments = [str(root), json.dumps(INPUTS.tolist())]
    subprocess.run([sys.executable, "-c", STOCK_PEFT, *arguments], check=True, capture_output=True)
    return root, load_file(root / "stock.safetensors")


@every_case
def test_export(model_name, method, exported, tmp_path, capsys):
    root, stock = exported
    plain = root / model_name / method / "plain"
    model = adapted(model_name, method)
    close(stock[f"{model_name}-{method}"], logits(model))
    made = plan_of_model(model)
    elements = sum(tensor.numel() for tensor in load_file(plain / WEIGHTS).values())
    assert elements == sum(made.rank * (x.in_features + x.out_features) for x in made.linears)

    # The same from the saved adapter, with sizes from the base's config alone.
    model.save_pretrained(tmp_path / "adapter")
    config = root / model_name / "base" / "config.json"
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_bytes(config.read_bytes())
    folders = [str(tmp_path / name) for name in ("adapter", "out")]
    assert main(["export", *folders, "--base", str(tmp_path / "base")]) == 0
    assert f"rank {made.rank}, " in capsys.readouterr().out
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (plain / WEIGHTS).read_bytes()
    one, two = (PeftConfig.from_pretrained(folder).to_dict() for folder in (plain, tmp_path / "out"))
    assert one == two


@every_method
def test_generating(method):
    model = adapted("llama", method)
    model.add_adapter("second", METHODS[another(method)](init_weights=False))
    options = {"num_beams": 2, "max_new_tokens": 3, "do_sample": False}
    inputs = {"input_ids": INPUTS, "attention_mask": torch.ones_like(INPUTS)}
    mixed = model.generate(**inputs, **options, adapter_names=["second", "default"])
    for row, name in enumerate(["second", "default"]):
        model.set_adapter(name)
        assert torch.equal(model.generate(**inputs, **options)[row], mixed[row])


@every_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(method, dtype, tmp_path):
    """Against the same numbers computed in float32: a float32 adapter on a base of 11 or 8 bits.

    Logits here are about 1, and a wrong cast shows far above the bounds. Gradients are compared all
    together, and each alone more loosely, since a gate's gradient is a sum that nearly cancels: some
    are a millionth of the others, of which the roundings are left.
    """
    model = adapted("llama", method, dtype)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}

    def gradients():
        model.zero_grad()
        model(INPUTS, labels=INPUTS).loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    out, found = logits(model), gradients()
    assert out.dtype == dtype and {gradient.dtype for gradient in found.values()} == {torch.float32}
    twin = copy.deepcopy(model)
    model.float()
    half = dtype == torch.float16
    torch.testing.assert_close(out.float(), logits(model), rtol=0, atol=0.004 if half else 0.03)
    wanted = gradients()
    error = {name: (found[name] - gradient).norm() for name, gradient in wanted.items()}
    total = sum(gradient.norm() ** 2 for gradient in wanted.values()) ** 0.5
    assert sum(e**2 for e in error.values()) ** 0.5 < (0.02 if half else 0.06) * total
    for name, gradient in wanted.items():
        assert error[name] < (0.06 if half else 0.25) * gradient.norm() + 1e-4 * total, name

    optimizer = torch.optim.AdamW([p for p in twin.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = twin(INPUTS, labels=INPUTS).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]

    kept = adapted("llama", method, dtype, autocast_adapter_dtype=False)
    assert {p.dtype for p in kept.parameters()} == {dtype}
    assert logits(kept).isfinite().all()
    kept.save_pretrained(tmp_path)
    raw = (tmp_path / WEIGHTS).read_bytes()
    assert len(raw) == 8 + int.from_bytes(raw[:8], "little") + 2 * plan_of_model(kept).trainable


@pytest.mark.parametrize("model_name", ["llama", "gpt2"])
@pytest.mark.parametrize("method", ["slice", "gate", "kron", "own_row"])
def test_compiling(model_name, method):
    """Traced only: the graph is run as it is, without a compiler. The methods use every kind of role."""
    base = adapted(model_name, method).get_base_model()
    layer = base.model.layers[0].mlp.up_proj if model_name == "llama" else base.transformer.h[0].mlp.c_fc
    x = torch.randn(3, 24)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    close(compiled(x), layer(x))


@every_method
def test_wrong_files(method, tmp_path):
    model = adapted("llama", method)
    out, active = logits(model), model.active_adapters
    adapted("llama", another(method, 2)).save_pretrained(tmp_path / "other")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="does not fit adapter 'default'.*weights that are here stay"):
        model.load_adapter(tmp_path / "other", "default")
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(logits(model), out) and model.active_adapters == active

    model.save_pretrained(tmp_path / "right")
    changes = ({"hidden_size": 32}, {"num_hidden_layers": 1}, {"num_hidden_layers": 3})
    for change, low in zip(changes, (False, True, False), strict=True):
        sizes = base_model("llama").config.to_dict() | {"head_dim": None} | change
        wrong = LlamaForCausalLM(base_model("llama").config.from_dict(sizes)).eval()
        names, out = set(wrong.state_dict()), logits(wrong)
        with pytest.raises(ValueError, match="does not fit.*it was made for.*this model has"):
            PeftModel.from_pretrained(wrong, tmp_path / "right", low_cpu_mem_usage=low)
        assert set(wrong.state_dict()) == names and torch.equal(logits(wrong), out)
    model = get_peft_model(wrong, make_config("llama", method)).eval()
    names = set(model.state_dict())
    for name in ("default", "second"):
        with pytest.raises(ValueError, match=f"does not fit adapter '{name}'.* it was made for"):
            model.load_adapter(tmp_path / "right", name)
        assert set(model.state_dict()) == names and torch.equal(logits(model), out)
