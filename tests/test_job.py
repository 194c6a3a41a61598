"""A job: parameters checked and completed, a run folder that is whole, resumed and never mixed up.

On a random Llama of width 32 with four steps and three items a task: scores do not matter here.
"""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from tiny_world import ITEMS, make_world, write_profile
from transformers import AutoModelForCausalLM

from bslora_kit import bslora, lora, paths, share_lora, tied_lora, vera
from bslora_kit.jobs import profiles
from bslora_kit.jobs.job import Job, ParametersDiffer, config_of
from bslora_kit.jobs.lock import RunInUse, RunLock, is_locked
from bslora_kit.jobs.notebook import kept_out
from bslora_kit.jobs.parameters import DEFAULTS, differences, resolve, scaled_size
from bslora_kit.jobs.processes import VARIABLE, processes_of_a_job
from bslora_kit.training import TrainingSettings, settings


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_world(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def world(data, monkeypatch) -> Path:
    monkeypatch.setattr(paths, "DATA", data)
    monkeypatch.setattr(paths, "BASE", data / "base")
    return data


@pytest.fixture
def asked(world, tmp_path) -> dict:
    return {
        "profile": str(world / "profiles" / "tiny.yaml"),
        "method": "bslora",
        "fit": "gate",
        "ranks": [1, 2, 4],
        "out_dir": str(tmp_path / "run"),
        "row": "gt-1-2-4",
    }


def run(asked: dict) -> Job:
    job = Job.open(asked)
    job.train()
    job.evaluate()
    job.finish()
    return job


# ---- parameters --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"method": "bslroa"}, ["'bslroa'", "bslora", "share_lora"]),
        ({"methods": "lora"}, ["'methods'", "method"]),
        ({"profile": "demmo"}, ["'demmo'", "demo, paper"]),
        ({"fit": "slices"}, ["'slices'", "slice"]),
        ({"ranks": "(2, 4, 16)"}, ["(2, 4, 16)", "list", "[2, 4, 16]"]),
        ({"ranks": [8]}, ["[8]", "local, intra, inter"]),
        ({"ranks": [0, 0, 0]}, ["[0, 0, 0]", "above 0"]),
        ({"ranks": [1, -2, 4]}, ["-2", ">= 0"]),
        ({"ranks": [1, 2.5, 4]}, ["2.5", "whole number"]),
        ({"gate_size": 0}, ["gate", "0", "at least 1"]),
        ({"method": "share_lora", "ranks": [4], "share": "C"}, ["'C'", "A, B, AB"]),
        ({"method": "tied_lora", "ranks": [4], "variant": "tl9"}, ["'tl9'", "tl6"]),
        ({"lr": "1e-3"}, ["'1e-3'", "1.0e-3"]),
        ({"lr": 0}, ["lr is 0", "above 0"]),
        ({"steps": 0}, ["steps is 0", "at least 1"]),
        ({"seed": None}, ["seed is None", "whole number"]),
        ({"tasks": ["mini_pica"]}, ["'mini_pica'", "mini_piqa"]),
        ({"split": "dev"}, ["'dev'", "validation"]),
        ({"limit": 0}, ["limit is 0", "at least 1"]),
        ({"seed": 2**32}, ["seed is 4294967296", "at most 4294967295"]),
        ({"precision": "fp8"}, ["precision is 'fp8'", "auto, fp32, bf16, fp16"]),
    ],
)
def test_wrong_parameters_are_named_with_the_remedy(asked, wrong, words):
    with pytest.raises(ValueError) as error:
        Job.open(asked | wrong)
    assert [word for word in words if word not in str(error.value)] == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"method": "lora", "ranks": [8]}, lora(8)),
        ({"method": "share_lora", "ranks": [4], "share": "B"}, share_lora(4, share="B")),
        ({"method": "tied_lora", "ranks": [4], "variant": "tl5"}, tied_lora(4, variant="tl5")),
        ({"method": "vera", "ranks": [16]}, vera(16)),
        ({"fit": "slice", "ranks": [2, 1, 2]}, bslora(2, 1, 2)),
        # Sizes of the published 4096 wide model, at the 32 of this one.
        ({"fit": "gate", "ranks": [0, 4, 8]}, bslora(0, 4, 8, fit="gate", gate_size=8)),
        ({"fit": "kron", "ranks": [2, 8, 32]}, bslora(2, 8, 32, fit="kron", kron_size=2)),
        (
            {"fit": "kron", "ranks": [2, 8, 32], "kron_size": 5},
            bslora(2, 8, 32, fit="kron", kron_size=5),
        ),
    ],
)
def test_config_is_that_of_the_constructor(asked, given, expected):
    config = config_of(resolve(asked | given))
    assert (config.branches, config.method) == (expected.branches, expected.method)
    assert config.target_modules == {"q_proj", "k_proj", "v_proj", "up_proj", "down_proj"}


def test_the_untouched_base_has_no_config(asked):
    resolved = resolve(asked | {"method": "none"})
    assert config_of(resolved) is None
    assert (resolved["steps"], resolved["lr"], resolved["ranks"], resolved["fit"]) == (0, None, [], None)


def test_share_sizes_scale_with_the_hidden_size():
    assert [scaled_size(1024, hidden) for hidden in (4096, 128, 5120)] == [1024, 32, 1280]
    assert [scaled_size(256, hidden) for hidden in (4096, 128, 8)] == [256, 8, 1]


def test_rates_come_from_the_profile_and_a_rows_own_wins(asked):
    assert [resolve(asked)[name] for name in ("lr", "lr_from")] == [0.005, "profile"]
    given = resolve(asked | {"lr": 0.5})
    assert (given["lr"], given["lr_from"]) == (0.5, "given")
    assert differences(given | {"lr_from": "elsewhere"}, given) == []


def test_warm_up_keeps_its_share_of_the_steps(asked):
    assert [resolve(asked | {"steps": steps})["warmup_steps"] for steps in (4, 8, 1)] == [2, 4, 0]


def test_other_files_are_another_run(asked, world):
    first = resolve(asked)
    file = world / "instructions" / "train.jsonl"
    text = file.read_text()
    try:
        file.write_text(text.replace("lamp", "lump", 1))
        assert [part.split(":")[0] for part in differences(first, resolve(asked))] == ["inputs"]
    finally:
        file.write_text(text)
    assert differences(first, resolve(asked | {"label": "other", "row": "other"})) == []


def test_missing_base_and_data_say_what_to_do(asked, world, monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json.*save_pretrained"):
        Job.open(asked | {"base_model": str(tmp_path)})
    with pytest.raises(FileNotFoundError, match="base-1-13b.*make demo"):
        Job.open(asked | {"base_model": "data/base-1-13b"})
    monkeypatch.setattr(paths, "BASE", tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="make demo"):
        Job.open(asked)


def test_a_row_may_call_its_base_by_the_profiles_name(asked, world):
    profile = write_profile(world / "profiles" / "named.yaml", bases={"small": "data/base"})
    plain = resolve(asked | {"profile": str(profile)})
    named = resolve(asked | {"profile": str(profile), "base_model": "small"})
    assert named["base_model"] == "data/base" and named["inputs"]["base"]
    assert differences(plain, named) == []


# ---- profiles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["demo", "paper"])
def test_profiles_are_complete(name):
    profile = profiles.load_profile(name)
    settings = TrainingSettings(**profile.training, lr=profile.learning_rate)
    assert settings.warmup_steps < settings.steps
    assert set(profile.quick) <= set(DEFAULTS)
    speeds = {"start_seconds", "tokens_per_step", "tokens_per_second", "items_per_second"}
    assert set(profile.measured) in (speeds, set())  # none is better than one that is guessed


def test_the_paper_profile_is_the_published_protocol():
    profile = profiles.load_profile("paper")
    published = {"steps": 800, "batch_size": 64, "micro_batch_size": 4, "warmup_steps": 100}
    published |= {"schedule": "linear", "max_length": 256, "precision": "fp16"}
    assert profile.training.items() >= published.items()
    assert profile.held_out == {"count": 2000, "seed": 42}
    assert (profile.learning_rate, profile.learning_rates) == (1e-4, None)
    assert (profile.dropout, profile.scaling, profile.share_sizes) == (0.05, 2.0, "published")
    assert profile.instructions == "alpaca-cleaned"
    assert profile.tasks == ["commonsense", "mmlu"]


def test_a_profile_with_a_wrong_key_is_refused(world):
    path = write_profile(world / "profiles" / "wrong.yaml", droput=0.1)
    with pytest.raises(ValueError, match=r"unknown keys \['droput'\]"):
        profiles.load_profile(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"measured": {"start_seconds": 3}},
            "measured is .*expected a value each of .*items_per_second",
        ),
        ({"measured": None}, "measured is None"),
        ({"assumed": {"tokens": 1}}, "assumed is .*operations_per_second"),
        ({"training": {"steps": 4}}, "training is .*micro_batch_size"),
        ({"learning_rate": "1e-3"}, "learning_rate is '1e-3'.*1.0e-3"),
        ({"held_out": {"count": 3}}, "held_out is .*{count, seed}"),
        ({"tasks": "mini_piqa"}, "tasks is 'mini_piqa', expected a list"),
        ({"targets": [1]}, r"targets is \[1\]"),
        ({"bases": ["data/base"]}, "bases is "),
        ({"quick": ["steps"]}, "quick is "),
        ({"limit": 0.5}, "limit is 0.5, expected a whole number above 0, or null"),
        ({"scaling": 0}, "scaling is 0, expected a finite number other than 0"),
        ({"dropout": 1.0}, "dropout is 1.0, expected a number in"),
        ({"share_sizes": "small"}, "share_sizes is 'small', expected one of scaled, published"),
    ],
)
def test_a_profile_with_a_wrong_value_names_file_and_key(world, tmp_path, changes, words):
    text = yaml.safe_load((world / "profiles" / "tiny.yaml").read_text())
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(text | changes))
    with pytest.raises(ValueError, match=f"profile {tmp_path / 'wrong.yaml'}: {words}"):
        profiles.load_profile(tmp_path / "wrong.yaml")


@pytest.mark.parametrize(
    ("part", "name", "value", "words"),
    [
        ("measured", "items_per_second", 0, "expected a number .* above 0"),
        ("training", "steps", 0, "expected a whole number above 0"),
        ("training", "batch_size", True, "expected a whole number above 0"),
        ("training", "weight_decay", "1e-2", "expected a number .*1.0e-3"),
        ("training", "schedule", "square", "expected one of linear, cosine"),
        ("training", "precision", "fp8", "expected one of auto, fp32, bf16, fp16"),
    ],
)
def test_a_wrong_value_in_a_part_of_a_profile_is_named(world, tmp_path, part, name, value, words):
    text = yaml.safe_load((world / "profiles" / "tiny.yaml").read_text())
    text[part][name] = value
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(text))
    with pytest.raises(ValueError, match=f"wrong.yaml: {part}: {name} is {value!r}, {words}"):
        profiles.load_profile(tmp_path / "wrong.yaml")


def test_profiles_allow_what_training_allows():
    assert (profiles.PRECISIONS, profiles.SCHEDULES) == (settings.PRECISIONS, settings.SCHEDULES)


@pytest.mark.parametrize("name", ["result.json", "params.json"])
def test_a_broken_file_of_the_folder_is_named(asked, name):
    file = Path(asked["out_dir"]) / name
    file.parent.mkdir()
    file.write_text("{")
    with pytest.raises(ValueError, match=f"{file} is not JSON .*; remove it and run the row again"):
        Job.open(asked)
    file.unlink()
    file.mkdir()
    with pytest.raises(ValueError, match=f"{file} is a folder, expected a file; remove it"):
        Job.open(asked)


def test_a_base_that_is_cut_short_is_named(asked, world, tmp_path):
    shutil.copytree(world / "base", tmp_path / "base")
    weights = tmp_path / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(FileNotFoundError, match=f"base_model '{tmp_path / 'base'}' cannot be loaded"):
        Job.open(asked | {"base_model": str(tmp_path / "base")})
    config = tmp_path / "base" / "config.json"
    for text, words in (("{", "config.json is not JSON"), ('{"n_embd": 8}', "set gate_size")):
        config.write_text(text)
        with pytest.raises(ValueError, match=words):
            Job.open(asked | {"base_model": str(tmp_path / "base")})


def test_a_file_in_place_of_the_folder_is_named(asked):
    Path(asked["out_dir"]).write_text("")
    for out in (asked["out_dir"], f"{asked['out_dir']}/below"):
        with pytest.raises(ValueError, match=f"out_dir {out}: {asked['out_dir']} is a file"):
            Job.open(asked | {"out_dir": out})


# ---- runs --------------------------------------------------------------------------------------------


def test_a_run_leaves_a_whole_folder_and_is_not_made_again(asked):
    job = run(asked)
    result = json.loads((job.folder / "result.json").read_text())
    assert result == job.result
    trained = [p.numel() for p in job.model.parameters() if p.requires_grad]
    assert result["budget"]["trainable"] == sum(trained)
    assert result["train"]["status"] == "done"
    assert [entry["step"] for entry in job.history] == [1, 2, 3, 4]
    assert result["train"]["loss_last"] == job.history[-1]["loss"]
    tasks = result["eval"]["tasks"]
    assert len(tasks) == 8 and all(task["n"] == ITEMS for task in tasks.values())
    assert result["eval"]["mean"] == pytest.approx(sum(t["value"] for t in tasks.values()) / 8)
    items = pandas.read_parquet(job.folder / "items.parquet")
    assert items.groupby("task")["correct"].mean().to_dict() == pytest.approx(
        {task: entry["value"] for task, entry in tasks.items()}
    )
    hashes = list(job.evaluation.items["doc_hash"])
    assert list(items["doc_hash"]) == [digits[:12] for digits in hashes]
    assert items["doc_hash"].nunique() == len(set(hashes))
    assert set(result["run"]["versions"]) >= {"bslora_kit", "torch", "peft", "lm_eval"}
    assert set(result["machine"]) >= {"cpu", "cores", "threads", "gpu", "os"}
    on_disk = load_file(job.folder / "adapter" / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in on_disk.values()) == sum(trained)
    base = AutoModelForCausalLM.from_pretrained(paths.BASE)
    loaded = PeftModel.from_pretrained(base, job.folder / "adapter").state_dict()
    assert all(
        (loaded[name] == tensor).all()
        for name, tensor in job.model.state_dict().items()
        if "lora" in name
    )
    assert {path.name for path in job.folder.iterdir()} == {
        ".lock",
        "adapter",
        "history.jsonl",
        "items.parquet",
        "params.json",
        "progress.json",
        "result.json",
    }

    written = (job.folder / "result.json").stat().st_mtime_ns
    again = run(asked)
    assert again.done and again.model is None
    assert again.budget.trainable == result["budget"]["trainable"]
    assert (job.folder / "result.json").stat().st_mtime_ns == written
    with pytest.raises(ParametersDiffer, match=r"lr: 0.005 there, 0.5 asked.*--again"):
        Job.open(asked | {"lr": 0.5})


def test_a_seed_fixes_the_run_and_an_interrupted_one_ends_the_same(asked, tmp_path):
    def adapter(job: Job) -> dict:
        tensors = load_file(job.folder / "adapter" / "adapter_model.safetensors")
        return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}

    few = {"tasks": ["mini_boolq"], "limit": 1}
    whole = run(asked | few)
    other = run(asked | few | {"seed": 1, "out_dir": str(tmp_path / "other")})
    assert adapter(other) != adapter(whole)

    halves = asked | few | {"out_dir": str(tmp_path / "halves")}
    job = Job.open(halves)
    stopped = RuntimeError("stopped after the checkpoint of step 2")

    def stop(step: int, loss: float) -> None:
        if step == 3:
            raise stopped

    job._progress.step = stop
    with pytest.raises(RuntimeError, match="stopped after"):
        job.train()
    resumed = run(halves)
    assert adapter(resumed) == adapter(whole)
    assert [entry["step"] for entry in resumed.history] == [1, 2, 3, 4]
    assert not (resumed.folder / "checkpoints").exists()


@pytest.mark.parametrize(
    ("precision", "rounding", "least"), [("fp32", 1e-4, 1e-5), ("bf16", 5e-3, 2e-2)]
)
def test_two_processes_train_a_job_as_one_does(
    asked, world, tmp_path, monkeypatch, capsys, precision, rounding, least
):
    # Masks of dropout differ between processes; without them only the order of sums does.
    profile = write_profile(world / "profiles" / "whole.yaml", dropout=0.0)
    given = asked | {"profile": str(profile), "limit": 1, "precision": precision}
    one = run(given | {"out_dir": str(tmp_path / "one")})
    capsys.readouterr()
    monkeypatch.setenv(VARIABLE, "2")
    two = run(given | {"out_dir": str(tmp_path / "two")})

    said = capsys.readouterr().out.splitlines()
    assert (
        sum(line.startswith("step 4/4") for line in said) == 1
    )  # one of the two speaks, to the notebook
    assert [job.result["train"]["processes"] for job in (one, two)] == [1, 2]
    assert [job.result["train"]["precision"] for job in (one, two)] == [precision, precision]
    for name in ("loss", "eval_loss", "grad_norm", "lr", "tokens"):
        values = [[entry[name] for entry in job.history if name in entry] for job in (one, two)]
        assert values[1] == pytest.approx(values[0], rel=rounding), name
    adapters = [load_file(job.folder / "adapter" / "adapter_model.safetensors") for job in (one, two)]
    assert adapters[0].keys() == adapters[1].keys()
    for name, tensor in adapters[0].items():
        torch.testing.assert_close(adapters[1][name], tensor, rtol=10 * rounding, atol=least)
        assert (adapters[1][name] - tensor).norm() <= 10 * rounding * tensor.norm(), name
    scores = [pandas.read_parquet(job.folder / "items.parquet")["log_likelihoods"] for job in (one, two)]
    for ours, theirs in zip(*scores, strict=True):
        assert ours == pytest.approx(theirs, rel=10 * rounding)
    assert {path.name for path in one.folder.iterdir()} == {path.name for path in two.folder.iterdir()}


@pytest.mark.parametrize("count", ["two", "0", "-1", ""])
def test_how_many_processes_train_has_to_be_a_number(monkeypatch, count):
    monkeypatch.setenv(VARIABLE, count)
    with pytest.raises(ValueError, match=f"{VARIABLE} is '{count}', expected how many"):
        processes_of_a_job()


def test_the_untouched_base_is_scored_and_not_trained(asked):
    job = run(asked | {"method": "none", "tasks": ["mini_boolq"]})
    assert job.result["train"] == {"status": "untrained", "steps": 0}
    assert job.result["budget"]["trainable"] == 0
    assert job.result["eval"]["mean"] is None  # one task is not the eight
    assert not (job.folder / "adapter").exists()


def test_finish_needs_a_trained_and_scored_model(asked):
    job = Job.open(asked)
    with pytest.raises(RuntimeError, match="after train"):
        job.finish()


def test_the_paper_profile_runs_on_local_copies(asked, world):
    shipped = Path(__file__).parent.parent / "data" / "profiles" / "paper.yaml"
    # The CPU has no fp16, and 24 records hold 4 out instead of 2,000; tasks with a local copy only.
    text = shipped.read_text().replace("fp16", "fp32").replace("count: 2000", "count: 4")
    text = text.replace("alpaca-cleaned", str(world / "instructions" / "alpaca_data_cleaned.json"))
    (world / "profiles" / "paper.yaml").write_text(text)
    small = {"steps": 1, "limit": 1, "tasks": ["commonsense"], "base_model": str(paths.BASE)}
    profile = str(world / "profiles" / "paper.yaml")
    job = run(asked | small | {"profile": profile, "fit": "slice"})
    assert list(job.result["eval"]["tasks"])[0] == "openbookqa"
    assert job.result["run"]["batch_size"] == 64
    assert job.result["train"]["tokens"] > 64 * 100  # bytes are tokens here; every prompt has 150


# ---- the lock ----------------------------------------------------------------------------------------


def test_a_run_that_another_process_is_at_is_left_alone(asked, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    code = (
        "import sys; from pathlib import Path; from bslora_kit.jobs.lock import RunLock\n"
        f"lock = RunLock(Path({str(folder)!r})); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        assert is_locked(folder)
        with pytest.raises(RunInUse, match="in use by another process"):
            Job.open(asked)
        holder.kill()
    assert not is_locked(folder)


def test_a_process_may_take_its_own_run_again(tmp_path):
    first = RunLock(tmp_path)
    RunLock(tmp_path).release()
    first.release()
    assert not is_locked(tmp_path)


def test_a_module_that_is_kept_out_can_be_imported_afterwards(monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with kept_out("colorsys"):
        with pytest.raises(ImportError):
            importlib.import_module("colorsys")
    assert importlib.import_module("colorsys").rgb_to_hsv(1, 0, 0) == (0, 1, 1)
    with kept_out("colorsys"):
        assert importlib.import_module("colorsys").rgb_to_hsv(1, 0, 0) == (0, 1, 1)
