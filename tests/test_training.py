"""The training loop against plain PyTorch, real kills and two real processes.

Sizes are tiny (2 layers, hidden 32, 40 tokens of vocabulary): what is tested is arithmetic and
files, and a killed run has to be repeated a dozen times.
"""

import copy
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from bslora_kit import progress
from bslora_kit.data import Example, batch_indices
from bslora_kit.device import precision_for
from bslora_kit.training import TrainingDiverged, TrainingSettings, checkpoint, loop, train
from bslora_kit.training.checkpoint import CheckpointMismatch, all_checkpoints, frozen_fingerprint
from bslora_kit.training.objective import learning_rate

VOCABULARY = 40
SETTINGS = TrainingSettings(
    steps=8, lr=1e-2, batch_size=6, micro_batch_size=4, warmup_steps=2, checkpoint_every=3, seed=1
)


def make_examples(count=20, seed=0):
    rng = np.random.default_rng(seed)
    examples = []
    for _ in range(count):
        prompt, answer = rng.integers(1, 9), rng.integers(1, 6)
        ids = rng.integers(1, VOCABULARY, prompt + answer).tolist()
        examples.append(Example(ids, [-100] * int(prompt) + ids[prompt:]))
    return examples


def make_model(dropout=0.0, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = get_peft_model(
        LlamaForCausalLM(config),
        LoraConfig(r=4, lora_dropout=dropout, target_modules=["q_proj", "up_proj"]),
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at the start: a first gradient would see half of the arithmetic
            torch.nn.init.normal_(parameter, std=0.1)
    return model.to(dtype)


def trained(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def mean_answer_loss(model, examples):
    """Naive: one example at a time, no padding, no cut, log-softmax picked by hand."""
    total, tokens = 0.0, 0
    for example in examples:
        logits = model(input_ids=torch.tensor([example.input_ids])).logits[0]
        for position, label in enumerate(example.labels[1:]):
            if label != -100:
                total = total - torch.log_softmax(logits[position], dim=-1)[label]
                tokens += 1
    return total / tokens


def history_of(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def untimed(history):
    timed = ("seconds", "tokens_per_s", "peak_memory_bytes")
    return [{key: value for key, value in e.items() if key not in timed} for e in history]


# ---- the arithmetic of a step


@pytest.mark.parametrize("micro_batch_size", [1, 4, 32])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_gradient_is_that_of_the_whole_batch(tmp_path, micro_batch_size, dtype, tolerance):
    model, examples = make_model(dtype=dtype), make_examples()
    reference = copy.deepcopy(model)
    settings = TrainingSettings(steps=1, lr=1.0, batch_size=10, micro_batch_size=micro_batch_size)
    chosen = [examples[i] for i in batch_indices(20, 10, seed=0, step=0)]
    loss = mean_answer_loss(reference, chosen)
    loss.backward()
    accumulated = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(
                lambda p, name=name: accumulated.__setitem__(name, p.grad.clone())
            )
    result = train(model, examples, settings, tmp_path, pad_id=0)
    expected = {n: p.grad for n, p in reference.named_parameters() if p.requires_grad}
    assert accumulated.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(accumulated[name], expected[name], rtol=0, atol=tolerance)
    assert result.loss == pytest.approx(loss.item(), abs=1e-5)
    norm = math.sqrt(sum(g.square().sum().item() for g in expected.values()))
    assert result.history[0]["grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert result.tokens == sum(map(len, chosen))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_weights_equal_a_plain_pytorch_loop(tmp_path, schedule):
    settings = replace(SETTINGS, schedule=schedule, weight_decay=0.1, max_grad_norm=0.2)
    model, examples = make_model(dtype=torch.float64), make_examples()
    reference = copy.deepcopy(model)
    train(model, examples, settings, tmp_path, pad_id=0)

    parameters = [p for p in reference.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=0.1)
    make = {"linear": get_linear_schedule_with_warmup, "cosine": get_cosine_schedule_with_warmup}
    scheduler = make[schedule](optimizer, settings.warmup_steps, settings.steps)
    for step in range(settings.steps):
        chosen = [examples[i] for i in batch_indices(20, 6, settings.seed, step)]
        mean_answer_loss(reference, chosen).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.2)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    expected = trained(reference)
    for name, parameter in trained(model).items():
        torch.testing.assert_close(parameter, expected[name], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("schedule", "make"),
    [("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)],
)
@pytest.mark.parametrize("warmup_steps", [0, 1, 7])
def test_learning_rates_are_those_of_transformers(schedule, make, warmup_steps):
    settings = TrainingSettings(steps=20, lr=3e-3, warmup_steps=warmup_steps, schedule=schedule)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-3)
    scheduler = make(optimizer, warmup_steps, 20)
    for step in range(20):
        assert learning_rate(settings, step) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-15)
        optimizer.step()
        scheduler.step()


def test_gradient_norm_per_scope(tmp_path):
    model, examples = make_model(), make_examples()
    reference = copy.deepcopy(model)
    scopes = {n: "layer" if "lora_A" in n else "model" for n, _ in model.named_parameters()}
    settings = TrainingSettings(steps=1, lr=1e-3, batch_size=20)
    (entry,) = train(model, examples, settings, tmp_path, pad_id=0, scopes=scopes).history
    mean_answer_loss(reference, examples).backward()
    for scope in ("layer", "model"):
        norms = [
            p.grad.norm()
            for n, p in reference.named_parameters()
            if scopes[n] == scope and p.requires_grad
        ]
        expected = torch.stack(norms).norm().item()
        assert entry[f"grad_norm_{scope}"] == pytest.approx(expected, rel=1e-5)
    assert entry["grad_norm"] == pytest.approx(
        math.hypot(entry["grad_norm_layer"], entry["grad_norm_model"])
    )
    with pytest.raises(ValueError, match="no scope for 8 of 8 trained parameters"):
        train(model, examples, settings, tmp_path, pad_id=0, scopes={})


def test_held_out_loss_is_taken_without_dropout_and_changes_nothing(tmp_path):
    examples, held_out = make_examples(), make_examples(7, seed=5)
    settings = replace(SETTINGS, evaluate_every=3)
    plain, evaluated = make_model(dropout=0.3), make_model(dropout=0.3)
    train(plain, examples, SETTINGS, tmp_path / "a", pad_id=0)
    result = train(evaluated, examples, settings, tmp_path / "b", pad_id=0, held_out=held_out)
    assert [e["step"] for e in result.history if "eval_loss" in e] == [3, 6, 8]
    with torch.no_grad():
        expected = mean_answer_loss(evaluated.eval(), held_out).item()
    assert result.eval_loss == pytest.approx(expected, abs=1e-5)
    for name, parameter in trained(plain).items():
        assert torch.equal(parameter, trained(evaluated)[name])


def test_a_model_that_computes_all_logits_trains_too(tmp_path, monkeypatch):
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
    model = GPT2LMHeadModel(GPT2Config(**sizes, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0))
    settings = TrainingSettings(steps=1, lr=1e-3, batch_size=20)
    examples = make_examples()
    expected = mean_answer_loss(model, examples).item()

    class AllLogits(GPT2LMHeadModel):
        def forward(self, input_ids=None, attention_mask=None, use_cache=None):
            return super().forward(input_ids, attention_mask=attention_mask, use_cache=use_cache)

    model.__class__ = AllLogits
    result = train(model, examples, settings, tmp_path, pad_id=0)
    assert result.loss == pytest.approx(expected, abs=1e-5)


def test_a_whole_model_learns_its_examples_by_heart(tmp_path):
    model = make_model().unload()
    model.requires_grad_(True)
    settings = TrainingSettings(steps=60, lr=1e-2, batch_size=8, schedule="cosine")
    history = train(model, make_examples(8), settings, tmp_path, pad_id=0).history
    assert history[0]["loss"] == pytest.approx(math.log(VOCABULARY), abs=0.2)  # knows nothing yet
    assert history[-1]["loss"] < 0.5


def test_gradient_checkpointing_changes_no_number(tmp_path):
    # Dropout on: the recomputed forward pass has to draw the same mask.
    results = []
    for on in (False, True):
        model = make_model(dropout=0.3)
        settings = replace(SETTINGS, gradient_checkpointing=on)
        train(model, make_examples(), settings, tmp_path / str(on), pad_id=0)
        assert not model.base_model.model.model.gradient_checkpointing
        results.append(trained(model))
    for name in results[0]:
        torch.testing.assert_close(results[0][name], results[1][name], rtol=0, atol=1e-6)


def test_model_is_handed_back_as_it_came(tmp_path):
    model = make_model(dropout=0.3).eval()
    before = set(model.__dict__)
    examples = make_examples()
    settings = TrainingSettings(steps=2, lr=1e-3, precision="bf16")
    result = train(model, examples, settings, tmp_path / "bf16", pad_id=0)
    assert set(model.__dict__) == before
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
    ids = torch.tensor([examples[0].input_ids])
    assert model(input_ids=ids).logits.dtype == torch.float32
    assert math.isfinite(result.loss)
    # bf16 has 8 bits of mantissa: equal to about 1 % of fp32, and not to all digits
    fp32 = train(
        make_model(), examples, replace(settings, precision="fp32"), tmp_path / "b", pad_id=0
    )
    assert result.history[0]["loss"] == pytest.approx(fp32.history[0]["loss"], rel=0.02)


# ---- killed and started again


def run_once(folder, kill_at=None, moment="step"):
    """One process's whole life: train, or be killed on the way."""
    torch.set_num_threads(1)

    def report(entry):
        if moment == "step" and entry["step"] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    rename = os.rename

    def killing_rename(source, target):
        if moment == "before rename" and target.name.endswith(f"{kill_at:08}"):
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)
        if moment == "after rename" and target.name.endswith(f"{kill_at:08}"):
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.os = type("os", (), {**vars(os), "rename": staticmethod(killing_rename)})
    model = make_model(dropout=0.3)
    result = train(
        model,
        make_examples(),
        SETTINGS,
        folder,
        pad_id=0,
        held_out=make_examples(3, 9),
        report=report,
    )
    torch.save(trained(model), folder / "trained.pt")
    assert len(result.history) == SETTINGS.steps


@pytest.fixture(scope="module")
def in_new_process():
    """Runs `run_once` in a process of its own and returns its exit code."""
    # The server imports this module once; its path goes by the environment.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(paths + [before] * bool(before))
    forkserver.ensure_running()
    os.environ.pop("PYTHONPATH")
    if before:
        os.environ["PYTHONPATH"] = before

    def run(*arguments):
        process = context.Process(target=run_once, args=arguments)
        process.start()
        process.join(600)
        process.kill()  # it has ended, or it has hung
        process.join()
        return process.exitcode

    return run


@pytest.fixture(scope="module")
def undisturbed(in_new_process, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert in_new_process(folder) == 0
    return folder


@pytest.mark.parametrize(
    ("kills", "moment"),
    [
        ([1], "step"),
        ([3], "step"),
        ([5], "step"),
        ([8], "step"),
        ([2, 4, 5, 7], "step"),
        ([3], "before rename"),
        ([6], "before rename"),
        ([6], "after rename"),
        ([8], "after rename"),
    ],
)
def test_a_killed_run_ends_as_an_undisturbed_one(
    tmp_path, in_new_process, undisturbed, kills, moment
):
    for kill_at in kills:
        assert in_new_process(tmp_path, kill_at, moment) == -signal.SIGKILL
    assert in_new_process(tmp_path) == 0
    expected = torch.load(undisturbed / "trained.pt", weights_only=True)
    resumed = torch.load(tmp_path / "trained.pt", weights_only=True)
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
    assert untimed(history_of(tmp_path)) == untimed(history_of(undisturbed))
    assert [path.name for path in all_checkpoints(tmp_path)] == ["step-00000006", "step-00000008"]


def test_a_finished_run_is_not_trained_again(tmp_path):
    model = make_model()
    first = train(model, make_examples(), SETTINGS, tmp_path, pad_id=0)
    again = make_model()
    second = train(again, make_examples(), SETTINGS, tmp_path, pad_id=0)
    assert second == first
    assert all(torch.equal(p, trained(again)[name]) for name, p in trained(model).items())


def test_stop_and_go_on(tmp_path):
    whole = make_model(dropout=0.3)
    train(whole, make_examples(), SETTINGS, tmp_path / "whole", pad_id=0)
    answers = iter([False] * 4 + [True])
    stopped = train(
        make_model(dropout=0.3),
        make_examples(),
        SETTINGS,
        tmp_path / "cut",
        pad_id=0,
        should_stop=lambda: next(answers),
    )
    assert (stopped.stopped, stopped.steps) == (True, 5)
    model = make_model(dropout=0.3)
    result = train(model, make_examples(), SETTINGS, tmp_path / "cut", pad_id=0)
    assert (result.stopped, result.steps) == (False, 8)
    assert all(torch.equal(p, trained(model)[name]) for name, p in trained(whole).items())


def test_checkpoint_holds_the_trained_parameters_only_and_no_pickle(tmp_path):
    model = make_model()
    train(model, make_examples(), SETTINGS, tmp_path, pad_id=0)
    newest = all_checkpoints(tmp_path)[-1]
    names = {path.name for path in newest.iterdir()}
    assert names == {"trainable.safetensors", "optimizer.safetensors", "state.json"}
    with safe_open(newest / "trainable.safetensors", "pt") as file:
        assert set(file.keys()) == trained(model).keys()
    assert {path.name for path in tmp_path.iterdir()} == {"history.jsonl", "checkpoints"}


def another_run(change):
    """A model, examples and settings, one thing different from the run that wrote the folder."""
    model, examples, settings = make_model(), make_examples(), SETTINGS
    if change == "lr":
        settings = replace(settings, lr=2e-2)
    elif change == "examples":
        examples = examples[::-1]
    elif change == "base":
        model = make_model(seed=3)
    elif change == "rank":
        config = LoraConfig(r=2, target_modules=["q_proj", "up_proj"])
        model = get_peft_model(make_model().unload(), config)
    return model, examples, settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("lr", r"settings.lr is 0.01 there and 0.02 here"),
        ("examples", "examples is '"),
        ("base", "frozen weights is '"),
        ("rank", r"parameters.*\[4, 32\]' there and .*\[2, 32\]' here.* more"),
    ],
)
def test_checkpoint_of_another_run_is_refused(tmp_path, change, message):
    train(make_model(), make_examples(), SETTINGS, tmp_path, pad_id=0)
    before = (tmp_path / "history.jsonl").read_bytes()
    model, examples, settings = another_run(change)
    with pytest.raises(CheckpointMismatch, match=f"belongs to another run: .*{message}.*remove"):
        train(model, examples, settings, tmp_path, pad_id=0)
    assert (tmp_path / "history.jsonl").read_bytes() == before


def test_checkpoints_may_be_written_more_or_less_often_after_a_resume(tmp_path):
    stopper = iter([False, False, False, True])
    train(
        make_model(),
        make_examples(),
        SETTINGS,
        tmp_path,
        pad_id=0,
        should_stop=lambda: next(stopper),
    )
    settings = replace(SETTINGS, checkpoint_every=1)
    assert train(make_model(), make_examples(), settings, tmp_path, pad_id=0).steps == 8


def test_lost_history_is_said(tmp_path):
    train(make_model(), make_examples(), SETTINGS, tmp_path, pad_id=0)
    (tmp_path / "history.jsonl").write_text("")
    with pytest.raises(ValueError, match="has 0 lines, its checkpoint is of step 8"):
        train(make_model(), make_examples(), SETTINGS, tmp_path, pad_id=0)


def test_fingerprint_tells_bases_apart_and_ignores_what_is_trained():
    model, same, other = make_model(), make_model(), make_model(seed=3)
    with torch.no_grad():
        next(p for p in same.parameters() if p.requires_grad).add_(1)
    assert frozen_fingerprint(model) == frozen_fingerprint(same) != frozen_fingerprint(other)


# ---- divergence and bad input


def test_divergence_names_step_rate_and_the_last_good_checkpoint(tmp_path):
    model, examples = make_model(), make_examples()
    settings = replace(SETTINGS, warmup_steps=0, checkpoint_every=2)

    def poison(entry):
        if entry["step"] == 4:  # the checkpoint of step 4 holds the poison, that of step 2 does not
            with torch.no_grad():
                next(p for p in model.parameters() if p.requires_grad).fill_(float("nan"))

    with pytest.raises(TrainingDiverged) as caught:
        train(model, examples, settings, tmp_path, pad_id=0, report=poison)
    assert caught.value.step == 5
    assert caught.value.checkpoint == tmp_path / "checkpoints" / "step-00000002"
    assert "step 5, learning rate 0.005: loss nan" in str(caught.value)
    assert "step-00000002" in str(caught.value)
    assert [entry["step"] for entry in history_of(tmp_path)] == [1, 2, 3, 4]


def test_too_high_a_rate_diverges_with_a_message(tmp_path):
    settings = TrainingSettings(steps=20, lr=1e25)
    with pytest.raises(TrainingDiverged, match=r"no good checkpoint.*Lower lr"):
        train(make_model(), make_examples(), settings, tmp_path, pad_id=0)


def test_an_overflow_that_the_loss_scaler_skips_is_not_divergence(tmp_path):
    run = loop.RunFolder(tmp_path, {}, torch.optim.SGD([torch.zeros(1)]), None, {})
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    loop._check_finite(1.0, math.inf, 0.1, scaler, run)
    with pytest.raises(TrainingDiverged, match="loss nan"):
        loop._check_finite(math.nan, math.inf, 0.1, scaler, run)
    with pytest.raises(TrainingDiverged, match="gradient norm inf"):
        loop._check_finite(1.0, math.inf, 0.1, None, run)
    with pytest.raises(TrainingDiverged, match="even at a loss scale of"):
        loop._check_finite(1.0, math.inf, 0.1, torch.amp.GradScaler("cpu", 2.0**-11), run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0, expected more than 0"),
        ({"steps": 2.5}, "steps is 2.5, expected a whole number"),
        ({"lr": 0.0}, "lr is 0.0, expected more than 0"),
        ({"lr": math.inf}, "lr is inf, expected a finite number"),
        ({"lr": math.nan}, "lr is nan, expected more than 0"),
        ({"lr": "1e-4"}, "lr is '1e-4', expected a number"),
        ({"micro_batch_size": -1}, "micro_batch_size is -1"),
        ({"seed": -1}, "seed is -1, expected 0 or more"),
        ({"warmup_steps": 8}, "warmup_steps is 8, expected fewer than the 8 steps"),
        ({"schedule": "constant"}, "schedule is 'constant', expected one of linear, cosine"),
        ({"precision": "fp8"}, "precision is 'fp8', expected one of auto, fp32, bf16, fp16"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **change)


def test_bad_arguments_are_named(tmp_path):
    model, examples = make_model(), make_examples()

    def attempt(model=model, examples=examples, settings=SETTINGS, **more):
        train(model, examples, settings, tmp_path, **{"pad_id": 0} | more)

    with pytest.raises(ValueError, match="no training examples"):
        attempt(examples=[])
    with pytest.raises(ValueError, match="pad_id is None, expected a token id"):
        attempt(pad_id=None)
    with pytest.raises(ValueError, match="training example 20 has no answer token"):
        attempt(examples=[*examples, Example([3, 4], [-100, -100])])
    with pytest.raises(ValueError, match="held-out example 0 has 300 tokens.*max_length=256"):
        attempt(held_out=[Example([1] * 300, [1] * 300)])
    with pytest.raises(ValueError, match="no parameter of the model requires a gradient"):
        attempt(model=make_model().requires_grad_(False))
    with pytest.raises(ValueError, match="gradient_checkpointing: Linear does not offer it"):
        attempt(
            model=torch.nn.Linear(1, 1), settings=replace(SETTINGS, gradient_checkpointing=True)
        )
    assert not (tmp_path / "history.jsonl").exists()


def test_precision_follows_the_device(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda:0")
    assert precision_for(cpu) == "fp32"
    assert precision_for(cpu, "bf16") == "bf16"
    with pytest.raises(ValueError, match="precision fp16 needs a CUDA device, here is cpu"):
        precision_for(cpu, "fp16")
    for supported, automatic in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, s=supported: s
        )
        assert precision_for(gpu) == automatic
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(ValueError, match="Tesla T4 has no bf16: use fp16 or fp32"):
        precision_for(gpu, "bf16")


# ---- progress


def test_progress_lines_are_few_and_never_far_apart(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    lines, times = progress.ProgressLines(100), []
    for step in range(1, 101):  # 100 steps of a quarter of a second
        now[0] += 0.25
        lines.update(step, loss=2.0, tokens_per_s=4210.0)
        times += [now[0]] * len(capsys.readouterr().out.splitlines())
    assert len(times) <= 7
    assert max(np.diff([0, *times])) <= 10


def test_progress_line_tells_step_loss_speed_and_time_left(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    lines = progress.ProgressLines(100, done=10)
    now[0] = 6.0
    lines.keep_alive()
    now[0] = 60.0
    lines.update(20, loss=1.2345, tokens_per_s=4210.4)
    now[0] = 67.0
    lines.keep_alive("held-out loss")
    now[0] = 4000.0
    lines.update(100, loss=0.5, tokens_per_s=10.0)
    assert capsys.readouterr().out.splitlines() == [
        "step 10/100",
        "step 20/100  loss 1.234  4,210 tokens/s  8:00 left",
        "step 20/100  loss 1.234  4,210 tokens/s  held-out loss",
        "step 100/100  loss 0.500  10 tokens/s  in 1:06:40",
    ]


# ---- two processes


def test_two_processes_train_as_one(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            from pathlib import Path
            sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
            import torch
            from test_training import SETTINGS, make_examples, make_model, trained
            from bslora_kit.training import train
            folder = Path({str(tmp_path / "two")!r})
            torch.set_num_threads(1)
            model = make_model()
            result = train(model, make_examples(), SETTINGS, folder, pad_id=0,
                           held_out=make_examples(3, 9), report=lambda entry: print(entry["step"]))
            rank = torch.distributed.get_rank()
            assert torch.distributed.get_world_size() == 2
            assert torch.distributed.get_backend() == "gloo"
            outcome = (trained(model), result.loss, result.eval_loss)
            torch.save(outcome, f"{{folder}}/rank{{rank}}.pt")
            torch.distributed.destroy_process_group()
            """
        )
    )
    # Of accelerate's launchers, --multi_gpu is the one that starts several processes; without a
    # GPU they talk by gloo.
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    launch += ["--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    finished = subprocess.run(
        [*launch, "--main_process_port", "0", str(script)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    lines = finished.stdout.splitlines()  # one process reports and shows progress
    assert [line for line in lines if line.isdigit()] == [str(step) for step in range(1, 9)]
    assert sum(line.startswith("step 8/8") for line in lines) == 1

    model = make_model()
    result = train(
        model, make_examples(), SETTINGS, tmp_path / "one", pad_id=0, held_out=make_examples(3, 9)
    )
    expected = trained(model)
    for rank in (0, 1):
        weights, loss, eval_loss = torch.load(
            tmp_path / "two" / f"rank{rank}.pt", weights_only=True
        )
        for name in expected:
            torch.testing.assert_close(weights[name], expected[name], rtol=0, atol=1e-6)
        assert loss == pytest.approx(result.loss, abs=1e-6)
        assert eval_loss == pytest.approx(result.eval_loss, abs=1e-6)
    one, two = history_of(tmp_path / "one"), history_of(tmp_path / "two")
    assert [e["step"] for e in two] == [e["step"] for e in one]
    assert [e["tokens"] for e in two] == [e["tokens"] for e in one]
    assert len(all_checkpoints(tmp_path / "two")) == 2
