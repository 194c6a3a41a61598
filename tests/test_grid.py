"""Grid files, the state of rows on disk, and what the driver says; without running a job.

The data folder is a tiny one (see tiny_world); results are written as files where a test needs them.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import time
import types
from pathlib import Path

import pytest
from grid_files import ROWS, command, grid_file, rows_in, write_items, write_result
from tiny_world import write_profile

from bslora_kit import paths, published, shapes
from bslora_kit.budget import budget
from bslora_kit.grid import command as grid_command
from bslora_kit.grid import report as grid_report
from bslora_kit.grid.driver import run_rows
from bslora_kit.grid.engine import End
from bslora_kit.grid.estimate import Expected, expected_seconds
from bslora_kit.grid.file import read_grid
from bslora_kit.grid.options import assignment, parser
from bslora_kit.grid.rows import again, rows_of
from bslora_kit.grid.status_lines import StatusLines, describe
from bslora_kit.jobs import profiles
from bslora_kit.jobs.parameters import DEFAULTS, METHODS, branches_of, resolve
from bslora_kit.methods import SharedLoraConfig
from bslora_kit.published.scores import published_score

GRIDS = Path(__file__).parent.parent / "papermill_runs" / "grids"


pytestmark = pytest.mark.usefixtures("world")


# ---- grid files --------------------------------------------------------------------------------------


def test_the_similar_budget_grid_is_the_published_table():
    rows = read_grid(GRIDS / "similar_budget.yaml").rows
    table = published.similar_budget()
    assert [row["row"] for row in rows if row["method"] == "none"] == ["base"]
    rows = [row for row in rows if row["method"] != "none"]
    short = {"ShareLoRA": "share-b", "BSLoRA (SS)": "ss", "BSLoRA (GT)": "gt", "BSLoRA (KE)": "ke"}
    assert [row["label"] for row in rows] == list(table["method"])
    assert [",".join(map(str, row["ranks"])) for row in rows] == list(table["ranks"])
    assert [row["published_parameters"] for row in rows] == list(table["parameters"])
    assert [row["published_ratio"] for row in rows] == list(table["ratio"])
    names = [
        f"{short[method]}-{ranks.replace(',', '-')}"
        for method, ranks in zip(table["method"], table["ranks"], strict=True)
    ]
    assert [row["row"] for row in rows] == names
    fits = {"ShareLoRA": None, "BSLoRA (SS)": "slice", "BSLoRA (GT)": "gate", "BSLoRA (KE)": "kron"}
    assert [row.get("fit") for row in rows] == [fits[row["label"]] for row in rows]
    assert {row["share"] for row in rows if row["method"] == "share_lora"} == {"B"}


@pytest.mark.parametrize("name", sorted(path.stem for path in GRIDS.glob("*.yaml")))
def test_the_grids_of_the_kit_hold_valid_rows(name, tmp_path):
    jobs = read_grid(GRIDS / f"{name}.yaml").jobs([0], str(tmp_path), {"profile": "tiny"})
    assert [row.problem for row in rows_of(jobs)] == [""] * len(jobs)
    assert all(set(job) == set(DEFAULTS) and job["method"] in METHODS for job in jobs)
    json.dumps(jobs)  # plain types only, or papermill changes them


def count_of(row: dict, base: shapes.Shapes) -> int:
    """Trainable parameters of a grid row with published share sizes."""
    sizes = {"gate_size": row.get("gate_size", 1024), "kron_size": row.get("kron_size", 256)}
    options = {"fit": None, "share": None, "variant": None, **row, **sizes}
    targets = row.get("targets", ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"])
    made = SharedLoraConfig(branches=branches_of(options), target_modules=targets)
    return budget(made, base).trainable


def test_the_placement_grid_repeats_the_published_rows():
    rows = [row for row in read_grid(GRIDS / "placement.yaml").rows if row["method"] != "none"]
    table = published.placement()
    runs = table[table["method"] != "(group mean)"]
    assert [row["label"].split(", ")[1].replace(" ", "") for row in rows] == list(runs["method"])
    attention, mlp = ["q_proj", "k_proj", "v_proj"], ["up_proj", "down_proj"]
    targets = {
        "Share Attention": attention,
        "Share MLP": mlp,
        "Share Attention & MLP": attention + mlp,
    }
    assert [row["targets"] for row in rows] == [targets[place] for place in runs["placement"]]
    # The ranks are not printed: they are those of the similar-budget rows with the same scores.
    known = published.similar_budget().set_index("method")
    for row, (_, printed) in zip(rows[6:], runs[6:].iterrows(), strict=True):
        same = known.loc[row["label"].split(", ")[1]]
        same = same[(same["hellaswag"] == printed["hellaswag"]) & (same["boolq"] == printed["boolq"])]
        assert list(same["ranks"]) == [",".join(map(str, row["ranks"]))]
    assert [row["ranks"] for row in rows] == 3 * [row["ranks"] for row in rows[6:]]


@pytest.mark.parametrize(
    ("name", "shots"), [("tied_lora", None), ("tied_lora_mmlu", 0), ("tied_lora_mmlu_5_shot", 5)]
)
def test_the_tied_grids_have_the_published_counts(name, shots):
    printed = getattr(published, name.removesuffix("_5_shot"))()
    rows = read_grid(GRIDS / f"{name}.yaml").rows
    assert [row["row"] for row in rows[:3]] == ["1-7b-base", "1-7b-tl5-8", "1-7b-tl6-8"]
    llamas = (shapes.llama_1_7b(), shapes.llama_3_8b(), shapes.llama_1_13b())
    trained = [row for row in rows if row["method"] != "none"]
    for row, same in zip(trained, printed.itertuples(), strict=True):
        llama = llamas[same.Index // 2]
        assert row["base_model"] == same.model.lower().replace(" ", "-")
        assert row["label"].startswith(same.model.removeprefix("Llama "))
        assert f"Tied_lora ({row['variant']})" == same.method and row["ranks"] == [same.rank]
        assert (row["published_parameters"], row["published_ratio"]) == (same.parameters, same.ratio)
        assert count_of(row, llama) == same.parameters
        scores = [f"mmlu_{shots}_shot"] if "mmlu" in name else ["mean"]
        assert published_score(row).score == getattr(same, *scores)
    assert {row.get("shots") for row in rows} == {shots}
    bases = [row["base_model"] for row in rows if row["method"] == "none"]
    assert bases == ["llama-1-7b", "llama-3-8b", "llama-1-13b"]


@pytest.mark.parametrize("name", ["demo", "paper"])
def test_every_profile_of_the_kit_has_a_model_for_each_block_of_the_tied_grids(name):
    named = {row["base_model"] for row in read_grid(GRIDS / "tied_lora.yaml").rows}
    profile = profiles.load_profile(paths.ROOT / "data" / "profiles" / f"{name}.yaml")
    assert set(profile.bases) == named and len(set(profile.bases.values())) == len(named)
    assert profile.bases["llama-3-8b"] == profile.base_model


@pytest.mark.parametrize("base", [shapes.llama_3_8b(), shapes.of_config(paths.ROOT / "data" / "base")])
def test_fair_rows_have_the_budgets_that_the_grid_file_claims(base):
    shipped = base.name != shapes.llama_3_8b().name
    scaled = {"gate_size": 32, "kron_size": 8} if shipped else {}

    def counts(name: str) -> dict[str, int]:
        rows = [row for row in read_grid(GRIDS / f"{name}.yaml").rows if row["method"] != "none"]
        return {row["row"]: count_of({**scaled, **row}, base) for row in rows}

    similar, fair = list(counts("similar_budget").values()), counts("fair")
    for block, ranks in enumerate([(2, 3), (4, 5), (8, 10), (18, 18)]):
        spent = similar[4 * block : 4 * block + 4]
        least, most = (fair[f"lora-{rank}"] for rank in ranks)
        assert least <= max(spent) and most >= min(spent)
    for first, second in [("share-a-5", "share-b-4"), ("share-a-10", "share-b-8")]:
        assert fair[first] == pytest.approx(fair[second], rel=0.07)
    inter = "ss-0-0-48" if shipped else "ss-0-0-256"
    assert fair["ss-0-8-0"] == fair[inter]
    assert fair["ke-4-8-32"] < fair["gt-2-4-16"] < fair["ke-5-8-32"]


def test_vary_makes_one_row_of_each_value(tmp_path):
    text = "rows: [{row: lora-2, method: lora, ranks: [2], vary: {lr: [0.1, 0.2], steps: [3]}}]"
    rows = read_grid(grid_file(tmp_path, text)).rows
    assert [row["row"] for row in rows] == ["lora-2-lr-0.1-steps-3", "lora-2-lr-0.2-steps-3"]
    assert [(row["lr"], row["steps"]) for row in rows] == [(0.1, 3), (0.2, 3)]


def test_jobs_go_seed_by_seed_and_score_the_base_once(tmp_path):
    jobs = read_grid(grid_file(tmp_path)).jobs([3, 5], "out", {"steps": 7})
    names = [Path(job["out_dir"]).as_posix() for job in jobs]
    assert names == ["out/two/base-s3", "out/two/lora-2-s3", "out/two/lora-2-s5"]
    assert {job["steps"] for job in jobs} == {7}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rows: [{row: a, method: lora, rank: [2]}]", "'rank'.*ranks"),
        ("rows: [{row: a, method: lora}, {row: a, method: none}]", "'a'.*twice"),
        ("rows: [{method: lora}]", "needs at least `row`"),
        ("rows: []", "no rows"),
        ("row: []", "'row'"),
        ("rows: [{row: a, method: lora, vary: {rates: [1]}}]", "'rates'"),
        ("parameters: {speed: 1}\nrows: [{row: a, method: none}]", "'speed'"),
        ("rows: [", "not YAML"),
        ("rows: abc", "rows is 'abc', expected a list"),
        ("title: [a]\nrows: [{row: a, method: none}]", "title is .*quotes"),
        ("parameters: {row: a}\nrows: [{row: a, method: none}]", "parameters: unknown 'row'"),
        ("rows: [{row: ../a, method: none}]", "'../a': the name becomes that of a folder"),
        ("rows: [{row: '', method: none}]", "'': the name becomes that of a folder"),
        ("rows: [{row: 3, method: none}]", "row 3: the name becomes that of a folder"),
        ("rows: [{row: a, label: null, method: none}]", "label is None, expected text"),
        ("rows: [{row: a, method: none, published_parameters: many}]", "is 'many', expected a whole"),
        (
            "rows: [{row: a, method: none, published_ratio: 0.1}]",
            "published_ratio is 0.1, expected text",
        ),
        ("rows: [{row: a, method: lora, vary: null}]", "vary: expected names and values"),
        ("rows: [{row: a, method: lora, vary: {lr: 0.1}}]", "vary: lr is 0.1, expected a list"),
        ("rows: [{row: a, method: lora, vary: {lr: []}}]", r"vary: lr is \[\], expected a list"),
        ("rows: [{row: a, method: lora, seed: 3}]", "--seeds or --seed-list says 'seed'"),
        ("rows: [{row: a, method: lora, out_dir: x}]", "--out says 'out_dir'"),
    ],
)
def test_a_wrong_grid_file_is_refused(tmp_path, text, words):
    with pytest.raises(ValueError, match=f"two.yaml.*{words}"):
        read_grid(grid_file(tmp_path, text))


def test_a_grid_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "two.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="two.yaml is not YAML"):
        read_grid(tmp_path / "two.yaml")


def test_a_varied_name_with_a_slash_stays_one_folder(tmp_path):
    text = "rows: [{row: a, method: none, vary: {base_model: [data/base, some/llama]}}]"
    jobs = read_grid(grid_file(tmp_path, text)).jobs([0], "out", {})
    assert [Path(job["out_dir"]).as_posix() for job in jobs] == [
        "out/two/a-base_model-data-base-s0",
        "out/two/a-base_model-some-llama-s0",
    ]


# ---- rows on disk ------------------------------------------------------------------------------------


def test_only_a_result_with_the_same_parameters_is_done(tmp_path, capsys):
    base, lora = rows_in(tmp_path)
    assert (base.state, lora.state) == ("missing", "missing")
    write_result(base)
    lora.folder.mkdir(parents=True)
    (lora.folder / "run.ipynb").write_text("{}")  # a notebook alone counts for nothing
    assert [row.state for row in rows_in(tmp_path)] == ["done", "missing"]

    write_result(lora, lr=0.25)
    found = rows_in(tmp_path)[1]
    assert (found.state, found.problem) == ("conflict", "lr: 0.25 there, 0.005 asked")
    assert grid_command.main(command(tmp_path)) == 2
    error = capsys.readouterr().err
    assert "lora-2-s0: lr: 0.25 there, 0.005 asked" in error
    assert "--again lora-2-s0" in error and "--out" in error
    assert (lora.folder / "result.json").is_file()


@pytest.mark.parametrize("name", ["result.json", "params.json"])
def test_a_broken_file_of_a_row_is_named_and_the_row_can_run_again(tmp_path, capsys, name):
    row = rows_in(tmp_path)[1]
    row.folder.mkdir(parents=True)
    (row.folder / name).write_text("")
    assert grid_command.main(command(tmp_path)) == 2
    error = capsys.readouterr().err
    assert f"{row.folder / name} is empty" in error and "--again lora-2-s0" in error
    assert grid_command.main(command(tmp_path, "--again", "lora-2", "--dry-run")) == 0
    (row.folder / name).unlink()
    (row.folder / name).mkdir()
    assert grid_command.main(command(tmp_path)) == 2
    assert f"{row.folder / name} is a folder, expected a file" in capsys.readouterr().err


def test_a_broken_result_of_another_seed_is_named_before_anything_runs(tmp_path, capsys):
    grid_file(tmp_path)
    other = tmp_path / "runs" / "two" / "lora-2-s7" / "result.json"
    other.parent.mkdir(parents=True)
    other.write_text('{"run": 1}')
    assert grid_command.main(command(tmp_path, "--dry-run")) == 2
    assert f"{other} lacks run, budget or eval; remove it" in capsys.readouterr().err


def test_seeds_of_a_row_with_other_parameters_are_named_before_anything_runs(tmp_path, capsys):
    write_result(rows_in(tmp_path)[1])
    seven = command(tmp_path, "--dry-run", "--seed-list", "7")
    assert grid_command.main(seven) == 0
    assert grid_command.main([*seven, "--set", "lr=0.25"]) == 2
    error = capsys.readouterr().err
    assert "lora-2-s0: lr: 0.005 there, 0.25 asked" in error and "--out FOLDER" in error


def test_again_marks_the_rows_that_it_names(tmp_path):
    for row in rows_in(tmp_path):
        write_result(row)
    rows = rows_in(tmp_path)
    with pytest.raises(ValueError, match="lora-3.*base, lora-2, and all"):
        again(rows, ["lora-3"])
    assert again(rows, ["lora-2"]) == [rows[1]]
    assert [row.state for row in rows] == ["done", "missing"]
    assert again(rows, ["all"]) == rows
    assert [row.state for row in rows] == ["missing", "missing"]


def test_again_removes_nothing_before_the_grid_runs(tmp_path):
    grid_file(tmp_path, ROWS)
    for row in rows_in(tmp_path):
        write_result(row)
    assert grid_command.main(command(tmp_path, "--again", "all", "--dry-run")) == 0
    assert all((row.folder / "result.json").is_file() for row in rows_in(tmp_path))


@pytest.mark.parametrize("text", ["seed=3", "row=x", "profile=paper", "out_dir=x", "base_model=x"])
def test_set_refuses_what_another_option_says(tmp_path, capsys, text):
    grid_file(tmp_path, ROWS)
    assert grid_command.main(command(tmp_path, "--set", text)) == 2
    assert f"--set {text}: " in capsys.readouterr().err


def test_a_misspelt_method_fails_alone_and_a_finished_grid_ends_with_its_table(tmp_path, capsys):
    text = ROWS + "  - {row: wrong, label: Wrong, method: lroa, ranks: [2]}\n"
    grid_file(tmp_path, text)
    jobs = read_grid(tmp_path / "two.yaml").jobs([0], str(tmp_path / "runs"), {"profile": "tiny"})
    for row, mean in zip(rows_of(jobs)[:2], (0.4, 0.6), strict=True):
        write_result(row, mean)
        write_items(row, mean)
    assert grid_command.main(command(tmp_path)) == 1
    output = capsys.readouterr().out
    wrong = tmp_path / "runs" / "two" / "wrong-s0" / "error.txt"
    assert str(wrong) in output
    assert "'lroa'" in output and "tied_lora" in wrong.read_text()
    assert "60.0" in output and "Missing: 1 of 3 rows: wrong." in output
    for ending in ("md", "csv", "html"):
        assert (tmp_path / "runs" / "two" / f"table.{ending}").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "rate=1"], "--set rate=1"),
        (["--jobs", "0"], "--jobs"),
        (["--retries", "-1"], "--retries -1"),
        (["--address", "auto"], "--address: of a Ray cluster"),
        (["--profile", "big"], "'big'"),
        (["--again", "gt"], "--again gt"),
        (["--set", "tasks=[a"], "--set tasks=[a: '[a' is not YAML"),
        (["--seed-list", "1", "1"], "--seed-list 1 1: expected each once"),
        (["--seed-list", "-1"], "--seed-list -1: "),
        (["--out", "two.yaml"], "two.yaml is a file, expected a folder"),
        (["--out", "two.yaml/below"], "two.yaml is a file, expected a folder"),
    ],
)
def test_wrong_options_are_refused(tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    grid_file(tmp_path)
    assert grid_command.main(command(tmp_path, *arguments)) == 2
    assert words in capsys.readouterr().err


def test_a_file_in_place_of_a_run_folder_is_named(tmp_path, capsys):
    grid_file(tmp_path)
    for row in rows_in(tmp_path):
        row.folder.parent.mkdir(parents=True, exist_ok=True)
        row.folder.write_text("")
    assert grid_command.main(command(tmp_path)) == 2
    assert "base-s0': name another folder with --out" in capsys.readouterr().err


def test_the_names_in_a_profiles_quick_and_sweep_are_checked(tmp_path, world, capsys):
    grid_file(tmp_path)
    wrong = {"quick": {"stepz": 1}, "sweep": {"split": "validation", "limits": 1}}
    profile = write_profile(world / "profiles" / "wrong.yaml", **wrong)
    arguments = command(tmp_path, "--profile", str(profile))
    for name, words in (("quick", "'stepz'"), ("sweep", "'limits'")):
        assert grid_command.main([*arguments, f"--{name}"]) == 2
        assert f"profile wrong, {name}: unknown {words}; known are" in capsys.readouterr().err


def test_a_profile_of_the_current_folder_reaches_the_jobs_from_anywhere(tmp_path, world, monkeypatch):
    grid_file(tmp_path)
    (tmp_path / "own.yaml").write_bytes((world / "profiles" / "tiny.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    options = parser().parse_args([*command(tmp_path), "--profile", "own.yaml"])
    _, common = grid_command._grid(options, profiles.load_profile(options.profile))
    assert common["profile"] == str(tmp_path / "own.yaml")


def test_one_base_model_for_every_row(tmp_path, world, monkeypatch, capsys):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "llama").symlink_to(world / "base")
    monkeypatch.chdir(tmp_path / "elsewhere")
    grid_file(tmp_path)
    for given, wanted in (("llama", str(world / "base")), ("someone/llama", "someone/llama")):
        options = parser().parse_args(command(tmp_path, "--base-model", given))
        _, common = grid_command._grid(options, profiles.load_profile("tiny"))
        assert common["base_model"] == wanted
    grid_file(tmp_path, ROWS.replace("method: lora", "method: lora, base_model: llama-1-7b"))
    assert grid_command.main(command(tmp_path, "--base-model", "llama")) == 2
    said = capsys.readouterr().err
    assert "the rows of two name theirs (llama-1-7b)" in said and "`bases` of a profile" in said


def test_targets_that_the_base_lacks_fail_their_row_before_an_estimate(tmp_path, capsys):
    text = ROWS + "  - {row: wrong, label: Wrong, method: lora, ranks: [2], targets: [quary]}\n"
    grid_file(tmp_path, text)
    assert grid_command.main(command(tmp_path, "--dry-run")) == 0
    output = capsys.readouterr().out
    assert "1 cannot run: targets ['quary']: no linear to adapt" in output and "it has q_proj" in output
    assert "2 of 3 runs to do" in output


def test_set_takes_numbers_and_lists(tmp_path):
    assert assignment("lr=1e-3") == ("lr", 0.001)
    assert assignment("tasks=[mmlu]") == ("tasks", ["mmlu"])
    assert assignment("precision=bf16") == ("precision", "bf16")


# ---- lost machines -----------------------------------------------------------------------------------


class BrittleEngine:
    """Jobs that end as a list says: with a reason for a loss, or with None for a result."""

    side_by_side, at_most = 1, 1

    def __init__(self, ends: dict[str, list[str | None]]):
        self.ends, self.starts = ends, []

    def start(self, row):
        self.starts.append(row.name)
        reason = self.ends[row.name].pop(0)
        if reason is None:
            write_result(row)
        end = End(0) if reason is None else End(None, reason)
        return types.SimpleNamespace(began=time.monotonic(), poll=lambda: end, stop=lambda: None)


def test_a_lost_job_is_started_again_until_its_retries_are_used_up(tmp_path):
    rows = rows_in(tmp_path)
    engine = BrittleEngine({"base-s0": ["node gone", None], "lora-2-s0": ["node gone", "worker gone"]})
    stream = io.StringIO()
    status = StatusLines(rows, 1, {row.name: Expected() for row in rows}, stream)
    run_rows(rows, engine, status, retries=1)
    assert engine.starts == ["base-s0", "base-s0", "lora-2-s0", "lora-2-s0"]
    assert [row.state for row in rows] == ["done", "failed"]
    assert (rows[1].folder / "error.txt").read_text() == "worker gone\n"
    assert stream.getvalue().count("is started again: node gone") == 2
    assert "failed: worker gone" in stream.getvalue()


@pytest.mark.parametrize("killed_with", ["its driver", "its machine"])
def test_a_row_killed_behind_its_result_keeps_no_checkpoints(tmp_path, killed_with):
    rows = rows_in(tmp_path)
    base, lora = rows
    engine = BrittleEngine({"base-s0": [None], "lora-2-s0": ["node gone"]})
    for row in rows:
        (row.folder / "checkpoints" / "step-2").mkdir(parents=True)
    if killed_with == "its driver":
        write_result(base)
        base.look()
    status = StatusLines(rows, 1, {row.name: Expected() for row in rows}, io.StringIO())
    run_rows(rows, engine, status, retries=0)
    assert engine.starts == [row.name for row in rows][killed_with == "its driver" :]
    assert base.state == "done" and not (base.folder / "checkpoints").exists()
    assert lora.state == "failed" and (lora.folder / "checkpoints" / "step-2").is_dir()


def test_checkpoints_that_cannot_be_removed_hinder_no_other_row(tmp_path):
    base, lora = rows_in(tmp_path)
    write_result(base)
    base.look()
    (tmp_path / "elsewhere").mkdir()
    (base.folder / "checkpoints").symlink_to(tmp_path / "elsewhere")
    status = StatusLines([base, lora], 1, {row.name: Expected() for row in (base, lora)}, io.StringIO())
    run_rows([base, lora], BrittleEngine({"lora-2-s0": [None]}), status, retries=0)
    assert lora.state == "done" and (tmp_path / "elsewhere").is_dir()


# ---- what it says ------------------------------------------------------------------------------------


def test_dry_run_names_rows_parameters_and_time(tmp_path, capsys):
    grid_file(tmp_path)
    write_result(rows_in(tmp_path)[0])
    assert grid_command.main(command(tmp_path, "--dry-run")) == 0
    output = capsys.readouterr().out
    # LoRA of rank 2: 2 layers x 2 x sum(in + out) of q 32,32; k, v 32,8; up 32,112; down 112,32.
    assert f"{2 * 2 * (64 + 2 * 40 + 2 * 144):,}" in output
    assert "1,000" in output and "done: " in output
    assert "1 of 2 runs to do\n" in output
    assert re.search(r"Estimate: about \d+ seconds, 2 at a time; from the speeds", output)
    assert not (tmp_path / "runs" / "two" / "lora-2-s0").exists()


def test_the_estimate_adds_start_training_and_scoring(tmp_path):
    row = rows_in(tmp_path)[1]
    profile = profiles.load_profile("tiny")
    speeds = profile.measured
    expected = expected_seconds(row, profile)
    assert expected.start == speeds["start_seconds"]
    training = 4 * speeds["tokens_per_step"] / speeds["tokens_per_second"]
    assert expected.training == pytest.approx(training)
    assert expected.scoring == pytest.approx(8 * 3 / speeds["items_per_second"])


def test_a_log_gets_a_line_now_and_then_and_one_for_each_row(tmp_path, monkeypatch):
    rows = rows_in(tmp_path)
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    expected = {row.name: Expected(10, 100, 20) for row in rows}
    status = StatusLines(rows, 2, expected, stream)
    running = {rows[1].name: (rows[1], 5.0)}
    progress = {"stage": "training", "step": 30, "steps": 120, "loss": 1.5, "seconds_left": 60.0}
    rows[1].folder.mkdir(parents=True)
    (rows[1].folder / "progress.json").write_text(json.dumps(progress | {"time": time.time()}))
    for _ in range(200):  # a minute of polling
        status.tell(running, [])
        clock[0] += 0.3
    lines = stream.getvalue().splitlines()
    assert 6 <= len(lines) <= 8
    assert "about 1:20 left" in lines[0]  # 60 s that training reports, 20 s of scoring
    assert "lora-2-s0 step 30/120, loss 1.50" in lines[0]
    rows[1].state, rows[1].seconds = "done", 65.0
    rows[1].result = {
        "eval": {"mean": 0.5, "mean_stderr": 0.01, "tasks": {}},
        "budget": {"trainable": 1234},
    }
    write_items(rows[1], 0.5)
    status.finished(rows[1])
    error = 100 * math.sqrt(0.25 / 10 / 8 * 80 / (80 - 8))  # of 80 facts in 8 tasks
    assert stream.getvalue().splitlines()[-1].split() == (
        f"1/2 lora-2-s0 50.00 ± {error:.2f} % 1,234 parameters 65 s".split()
    )
    (rows[1].folder / "items.parquet").unlink()
    assert describe(rows[1]).split() == "50.00 % 1,234 parameters 65 s".split()
    mmlu = {"mini_mmlu": {"value": 0.25, "stderr": 0.02}}
    rows[1].result["eval"] = {"mean": None, "mean_stderr": None, "tasks": mmlu}
    assert describe(rows[1]).split() == "25.00 % 1,234 parameters 65 s".split()


def test_best_values_are_those_of_the_highest_mean(tmp_path):
    text = "rows: [{row: lora-2, method: lora, ranks: [2], vary: {lr: [0.1, 0.2, 0.3]}}]"
    made = read_grid(grid_file(tmp_path, text))
    scores = {0.1: (0.5, 0.6), 0.2: (0.7, 0.6), 0.3: (0.2, 0.9)}  # two seeds each
    results = [
        {"run": {"row": f"lora-2-lr-{lr}"}, "eval": {"mean": mean}}
        for lr, means in scores.items()
        for mean in means
    ]
    best = grid_report.best_values(made, results)["lora-2"]
    assert [values["lr"] for _, values in best] == [0.2, 0.1, 0.3] or best[0][1] == {"lr": 0.2}
    assert "lora-2  lr 0.2 (65.00 %)" in "\n".join(grid_report.best_lines(made, results))


def test_best_values_of_other_tasks_than_the_eight_go_by_their_mean(tmp_path):
    text = "rows: [{row: lora-2, method: lora, ranks: [2], vary: {lr: [0.1, 0.2]}}]"
    made = read_grid(grid_file(tmp_path, text))
    results = [
        {
            "run": {"row": f"lora-2-lr-{lr}"},
            "eval": {"mean": None, "tasks": {"mini_mmlu": {"value": x}, "mini_piqa": {"value": 0.5}}},
        }
        for lr, x in ((0.1, 0.25), (0.2, 0.75))
    ]
    assert grid_report.best_values(made, results) == {
        "lora-2": [(0.625, {"lr": 0.2}), (0.375, {"lr": 0.1})]
    }


def test_rows_that_no_table_holds_end_with_the_reason_and_the_best_values(tmp_path, capsys):
    text = "rows: [{row: lora-2, label: LoRA, method: lora, ranks: [2], vary: {steps: [2, 4]}}]"
    made = read_grid(grid_file(tmp_path, text))
    rows = rows_of(made.jobs([0], str(tmp_path / "runs"), {"profile": "tiny"}))
    for row, mean in zip(rows, (0.4, 0.6), strict=True):
        write_result(row, mean)
    assert grid_command.main(command(tmp_path)) == 1
    output = capsys.readouterr().out
    assert "no table: results differ in steps: 2 (lora-2-steps-2), 4 (lora-2-steps-4)" in output
    assert "lora-2  steps 4 (60.00 %); then steps 2 (40.00 %)" in output


def test_relative_places_are_those_of_the_checkout(tmp_path, monkeypatch):
    def rows(*out: str) -> list:
        options = parser().parse_args([*command(tmp_path)[:3], *out])
        grid, common = grid_command._grid(options, profiles.load_profile("tiny"))
        return grid_command._rows(grid, options, common)

    grid_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert rows("--out", "here")[0].folder == tmp_path / "here" / "two" / "base-s0"
    first = rows()[0]
    assert first.asked["out_dir"] == os.path.join("papermill_runs", "two", "base-s0")
    assert resolve(first.asked)["row"] == "base"
