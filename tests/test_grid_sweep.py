"""Learning rates: where a job's comes from, and the sweep that finds it.

No job runs: an engine writes results whose scores peak at rates that the tests know.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from grid_files import WritingEngine, command, grid_file, use_world
from tiny_world import make_world, write_profile

from bslora_kit import paths
from bslora_kit.grid import command as grid_command
from bslora_kit.grid.file import read_grid
from bslora_kit.grid.report import rate_lines
from bslora_kit.jobs import profiles
from bslora_kit.jobs.parameters import resolve
from bslora_kit.jobs.rates import rate_key

GRIDS = Path(__file__).parent.parent / "papermill_runs" / "grids"
SHIPPED = GRIDS.parent.parent / "data" / "profiles"
RATES = paths.RUNS / "reference" / "rates"
ROWS = """
title: Some methods
parameters: {tasks: [mini_mmlu]}
rows:
  - {row: base, label: Untouched base, method: none}
  - {row: lora-1, label: LoRA, method: lora, ranks: [1]}
  - {row: lora-2, label: LoRA, method: lora, ranks: [2]}
  - {row: tl5-2, label: TL5, method: tied_lora, variant: tl5, ranks: [2]}
  - {row: tl6-2, label: TL6, method: tied_lora, variant: tl6, ranks: [2], vary: {lr: [0.01, 0.03]}}
"""
# The rate at which each method scores best here; LoRA's lies between those that are tried first.
PEAKS = {"lora": 0.005, "tied_lora_tl5": 0.02, "tied_lora_tl6": 1.0}


def known_mean(row) -> float:
    """A score that falls with the distance of a row's rate from the peak of its method."""
    distance = abs(math.log2(row.resolved["lr"] / PEAKS[rate_key(row.resolved)]))
    return 0.9 - 0.05 * min(distance, 16)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = make_world(tmp_path_factory.mktemp("data"))
    shutil.copy(SHIPPED / "paper.yaml", root / "profiles")
    return root


@pytest.fixture(autouse=True)
def world(data, monkeypatch) -> Path:
    return use_world(data, monkeypatch)


@pytest.fixture
def engine(monkeypatch) -> WritingEngine:
    known = WritingEngine(known_mean)
    monkeypatch.setattr(grid_command, "_engine", lambda options: known)
    return known


def outcome(path: Path, **bases) -> str:
    entries = {base: {key: {"lr": lr} for key, lr in rates.items()} for base, rates in bases.items()}
    path.write_text(yaml.safe_dump({"bases": {f"data/{name}": x for name, x in entries.items()}}))
    return str(path)


# ---- where a rate comes from -------------------------------------------------------------------------


def test_methods_with_a_rate_of_their_own():
    def key(method: str, *ranks: int, **options: str) -> str:
        return rate_key({"method": method, "ranks": list(ranks), **options})

    assert [key("share_lora", 8, share="A"), key("share_lora", 8, share="B")] == [
        "share_lora_a",
        "share_lora_b",
    ]
    assert [key("tied_lora", 8, variant=x) for x in ("tl5", "tl6")] == ["tied_lora_tl5", "tied_lora_tl6"]
    assert [key("lora", 8), key("vera", 8), key("bslora", 4, 0, 0, fit="slice")] == [
        "lora",
        "vera",
        "lora",
    ]
    assert key("bslora", 2, 4, 0, fit="gate") == key("bslora", 2, 4, 16, fit="gate") == "bslora_gate"
    alone = [key("bslora", 0, *ranks, fit="kron") for ranks in ((4, 8), (4, 0), (0, 8))]
    assert alone == ["bslora_kron_no_local", "bslora_kron_intra", "bslora_kron_inter"]


def test_the_published_rate_is_that_of_the_paper_for_every_method():
    demo = {"profile": "tiny", "ranks": [2], "lr": "published"}
    for method in ("lora", "share_lora", "tied_lora", "vera"):
        given = resolve(demo | {"method": method})
        assert (given["lr"], given["lr_from"]) == (1e-4, "published")


def test_a_profile_takes_the_rates_of_a_sweep(world, tmp_path):
    file = outcome(tmp_path / "found.yaml", base={"lora": 0.25}, other={"lora": 0.5, "vera": 0.75})
    profile = str(write_profile(world / "profiles" / "swept.yaml", learning_rates=file))
    asked = {"profile": profile, "method": "lora", "ranks": [2]}
    tuned = resolve(asked)
    assert (tuned["lr"], tuned["lr_from"]) == (0.25, "tuned on data/base, found.yaml")
    missing = resolve(asked | {"method": "vera"})
    assert (missing["lr"], missing["lr_from"]) == (0.005, "profile")
    assert resolve(asked | {"lr": 1.0})["lr"] == 1.0


def test_a_base_without_rates_takes_those_of_the_profiles_base(world, tmp_path):
    file = outcome(tmp_path / "found.yaml", base={"lora": 0.25})
    profile = str(write_profile(world / "profiles" / "swept.yaml", learning_rates=file))
    asked = {"profile": profile, "method": "lora", "ranks": [2], "base_model": str(world / "base")}
    found = resolve(asked)
    assert (found["lr"], found["lr_from"]) == (0.25, "tuned on data/base, found.yaml")
    with pytest.raises(ValueError, match=r"no rate of lora on .*base; sweep"):
        resolve(asked | {"lr": file})


@pytest.mark.parametrize(
    ("rate", "words"),
    [("none.yaml", "no file none.yaml; .*--sweep"), ("1e-3", "1.0e-3"), ("fast", "published")],
)
def test_a_rate_that_is_none_is_refused(rate, words):
    with pytest.raises(ValueError, match=words):
        resolve({"profile": "tiny", "method": "lora", "ranks": [2], "lr": rate})


def test_a_file_that_is_no_outcome_is_refused(tmp_path):
    (tmp_path / "other.yaml").write_text("rows: []")
    with pytest.raises(ValueError, match="not the outcome of a sweep"):
        resolve({"profile": "tiny", "method": "lora", "ranks": [2], "lr": str(tmp_path / "other.yaml")})


# ---- the sweep ---------------------------------------------------------------------------------------


def test_a_sweep_finds_the_known_rates_and_a_grid_uses_them(tmp_path, engine, capsys):
    grid_file(tmp_path, ROWS)
    assert grid_command.main(command(tmp_path, "--sweep")) == 0
    output = capsys.readouterr().out
    folder = tmp_path / "runs" / "two_rates"
    written = yaml.safe_load((folder / "learning_rates.yaml").read_text())
    found = written["bases"]["data/base"]
    # LoRA: 0.0025, 0.005, 0.01 around the profile's rate. TL5: 0.02 beyond those, then 0.04 to have it
    # inside. TL6: its own two and three further, the factor 3 apart; 1.0 is never reached.
    assert {key: entry["lr"] for key, entry in found.items()} == {
        "lora": 0.005,
        "tied_lora_tl5": 0.02,
        "tied_lora_tl6": 0.81,
    }
    assert {key: len(entry["scores"]) for key, entry in found.items()} == {
        "lora": 3,
        "tied_lora_tl5": 5,
        "tied_lora_tl6": 5,
    }
    assert [key for key, entry in found.items() if not entry["inside"]] == ["tied_lora_tl6"]
    assert found["tied_lora_tl6"]["scores"].keys() == {0.01, 0.03, 0.09, 0.27, 0.81}
    assert (written["split"], written["seeds"], found["lora"]["row"]) == ("validation", [0], "lora-1")
    runs = [json.loads(path.read_text())["run"] for path in folder.glob("*/result.json")]
    assert {run["split"] for run in runs} == {"validation"} and len(runs) == 13
    assert {len(run["tasks"]) for run in runs} == {8}  # the profile's, where a mean is defined
    assert "3 rates each: lora-1" in output and "5 rates each: tl6-2, tl5-2" in output
    assert "tl6-2: its best rate 0.81 is the largest that was tried" in output

    engine.started.clear()
    assert grid_command.main(command(tmp_path, "--sweep")) == 0
    assert engine.started == []

    file = folder / "learning_rates.yaml"
    grid_file(tmp_path, ROWS.replace(", vary: {lr: [0.01, 0.03]}", "").replace("mini_mmlu", "mini_piqa"))
    options = parser_of(tmp_path, "--lr", str(file))
    rows = grid_command._rows(*options)
    assert [row.resolved["lr"] for row in rows] == [None, 0.005, 0.005, 0.02, 0.81]
    assert rows[1].resolved["lr_from"] == "tuned on data/base, learning_rates.yaml"
    assert rows[1].resolved["split"] == "test"


def parser_of(folder: Path, *more: str):
    options = grid_command.parser().parse_args(command(folder, *more))
    grid, common = grid_command._grid(options, profiles.load_profile("tiny"))
    return grid, options, common


def test_published_rates_are_for_all_rows(tmp_path):
    grid_file(tmp_path, ROWS)
    rows = grid_command._rows(*parser_of(tmp_path, "--lr", "published"))
    assert [row.resolved["lr"] for row in rows] == [None, *[1e-4] * 5]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sweep", "--lr", "published"], "--sweep looks for learning rates"),
        (["--sweep", "--set", "lr=0.1"], "--sweep looks for learning rates"),
        (["--lr", "gone.yaml"], "no file"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path, capsys, engine, arguments, words):
    grid_file(tmp_path, ROWS)
    assert grid_command.main(command(tmp_path, *arguments)) == 2
    assert words in capsys.readouterr().err and not engine.started


def test_one_method_is_swept_by_one_row(tmp_path, capsys, engine):
    row = "{row: lora-%s, method: lora, ranks: [%s], vary: {lr: [0.1, 0.2]}}"
    grid_file(tmp_path, f"rows: [{row % (2, 2)}, {row % (4, 4)}]")
    assert grid_command.main(command(tmp_path, "--sweep")) == 2
    assert "rows lora-2 and lora-4 both vary the rate of lora" in capsys.readouterr().err


def test_a_profile_that_names_no_split_is_not_swept(tmp_path, capsys, engine, monkeypatch):
    profile = replace(profiles.load_profile("tiny"), sweep={})
    monkeypatch.setattr(grid_command, "load_profile", lambda name: profile)
    grid_file(tmp_path, ROWS)
    assert grid_command.main(command(tmp_path, "--sweep")) == 2
    assert "does not say on which split" in capsys.readouterr().err and not engine.started


def test_a_grid_without_methods_cannot_be_swept(tmp_path, capsys, engine):
    grid_file(tmp_path, "rows: [{row: base, method: none}]")
    assert grid_command.main(command(tmp_path, "--sweep")) == 2
    assert "no row of two is trained" in capsys.readouterr().err


def test_a_table_says_where_its_rates_come_from(tmp_path):
    grid_file(tmp_path, ROWS)
    grid = read_grid(tmp_path / "two.yaml")

    def run(row: str, **values) -> dict:
        shared = {"method": "lora", "ranks": [1], "profile": "tiny", "base_model": "data/base"}
        return {"run": {**shared, "row": row, **values}}

    published = [run("lora-1", lr=1e-4, lr_from="published"), run("base", method="none")]
    assert rate_lines(grid, published) == ["Learning rates: published."]
    # Runs that do not say it: the profile's rate is 0.005.
    older = [run("lora-2", lr=0.005), run("tl5-2", lr=0.25), run("elsewhere", lr=0.1)]
    assert rate_lines(grid, published + older) == [
        "Learning rates: published (lora-1); profile (lora-2); given (tl5-2)."
    ]
    assert rate_lines(grid, published[1:]) == []


# ---- the demo's rates --------------------------------------------------------------------------------


def test_rates_are_tried_on_the_validation_split_for_every_method_of_the_grids():
    rates = read_grid(GRIDS / "rates.yaml")
    assert {job["split"] for job in rates.jobs([0], "papermill_runs", {})} == {"validation"}
    tried = {rate_key(row) for row in rates.rows}
    used = {
        rate_key(row)
        for path in GRIDS.glob("*.yaml")
        for row in read_grid(path).rows
        if row["method"] != "none"
    }
    assert used <= tried and "vera" in tried
    counts = [sum(row["varied"]["of"] == of for row in rates.rows) for of in {
        row["varied"]["of"] for row in rates.rows
    }]  # fmt: skip
    assert set(counts) == {3}


@pytest.mark.skipif(not RATES.is_dir(), reason="no committed run of the learning-rate grid")
def test_the_demos_rates_are_the_best_of_the_committed_runs():
    shipped = yaml.safe_load((SHIPPED / "demo.yaml").read_text())
    file = paths.ROOT / shipped["learning_rates"]
    assert file.parent == RATES
    found = yaml.safe_load(file.read_text())
    scores: dict[tuple[str, str], dict[float, float]] = {}
    for path in RATES.glob("*/result.json"):
        result = json.loads(path.read_text())
        run = result["run"]
        assert (run["split"], run["seed"], run["steps"]) == ("validation", 0, found["steps"])
        method = (run["base_model"], rate_key(run))
        scores.setdefault(method, {})[run["lr"]] = 100 * result["eval"]["mean"]
    assert scores
    entries = {(base, key): x for base, rates in found["bases"].items() for key, x in rates.items()}
    assert set(entries) == set(scores)
    for method, tried in scores.items():
        assert entries[method]["lr"] == max(tried, key=tried.__getitem__)
        assert entries[method]["scores"] == pytest.approx(tried, abs=0.0051)  # two decimals
