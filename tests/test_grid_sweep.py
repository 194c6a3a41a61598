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
from grid_files import WritingEngine, command, grid_file
from tiny_world import make_world, write_profile

from bslora_kit import paths
from bslora_kit.grid import command as grid_command
from bslora_kit.grid.file import read_grid
from bslora_kit.jobs import profiles
from bslora_kit.jobs.parameters import resolve
from bslora_kit.jobs.rates import origin_of, rate_key, rate_of, share_size_of
from bslora_kit.tables.rates_used import rates_in_words

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
# The rate at which each method scores best here; LoRA's lies between those that are tried first, and at
# rank 2 it is the smallest of those.
PEAKS = {"lora": 0.005, "tied_lora_tl5": 0.02, "tied_lora_tl6": 1.0}


def known_mean(row) -> float:
    """A score that falls with the distance of a row's rate from the peak of its method and rank."""
    peak = PEAKS[rate_key(row.resolved)] / (
        2 if row.asked["method"] == "lora" and row.asked["ranks"] == [2] else 1
    )
    distance = abs(math.log2(row.resolved["lr"] / peak))
    return 0.9 - 0.05 * min(distance, 16)


pytestmark = pytest.mark.usefixtures("world")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = make_world(tmp_path_factory.mktemp("data"))
    shutil.copy(SHIPPED / "paper.yaml", root / "profiles")
    return root


@pytest.fixture
def engine(monkeypatch) -> WritingEngine:
    known = WritingEngine(known_mean)
    monkeypatch.setattr(grid_command, "_engine", lambda options: known)
    return known


def outcome(path: Path, **bases) -> str:
    """Writes the outcome of a sweep: base -> method -> rate, or rank -> rate."""

    def entries(rates) -> list[dict]:
        return [
            {"rank": rank, "lr": lr}
            for rank, lr in (rates if isinstance(rates, dict) else {8: rates}).items()
        ]

    found = {
        f"data/{name}": {key: entries(x) for key, x in methods.items()}
        for name, methods in bases.items()
    }
    path.write_text(yaml.safe_dump({"bases": found}))
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


def test_a_place_has_a_rate_of_its_own():
    def key(*targets: str) -> str:
        return rate_key({"method": "bslora", "fit": "slice", "ranks": [2, 4, 16], "targets": targets})

    assert [key("q_proj", "v_proj"), key("up_proj"), key("v_proj", "up_proj"), key()] == [
        "bslora_slice_attention",
        "bslora_slice_mlp",
        "bslora_slice",
        "bslora_slice",
    ]


def test_a_place_that_was_not_tried_takes_the_rate_of_its_method(tmp_path):
    file = outcome(tmp_path / "rates.yaml", base={"lora": 0.01, "lora_mlp": 0.03, "vera": 0.1})
    given = {"method": "lora", "ranks": [8], "lr": file, "base_model": "data/base"}
    rates = [
        rate_of({**given, "targets": targets}, None)[0]
        for targets in (["q_proj"], ["down_proj"], ["q_proj", "down_proj"], None)
    ]
    assert rates == [0.01, 0.03, 0.01, 0.01]


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


def test_an_adapter_takes_the_rate_of_the_nearest_rank_by_ratio(tmp_path):
    file = outcome(
        tmp_path / "found.yaml", base={"lora": {2: 0.2, 8: 0.8, 32: 0.32}, "bslora_kron": 0.9}
    )

    def rate(*ranks: int, **options) -> float:
        return resolve(
            {"profile": "tiny", "lr": file, "method": "lora", "ranks": list(ranks), **options}
        )["lr"]

    # Rank 4 is a factor of two from 2 and from 8: the smaller counts. Rank 17 is nearer to 32.
    assert [rate(rank) for rank in (1, 4, 5, 15, 17, 999)] == [0.2, 0.2, 0.8, 0.8, 0.32, 0.32]
    assert rate(4, 0, 0, method="bslora", fit="slice") == 0.2  # a local pair alone is LoRA
    assert rate(1, 1, 1, method="bslora", fit="kron") == 0.9


def test_of_rates_at_one_rank_that_of_the_nearest_share_size_counts(tmp_path):
    tried = [(22, 8, 0.8), (22, 32, 0.32), (52, 32, 0.52), (52, None, 0.5)]
    entries = [
        {"rank": rank, "lr": lr, **({"share_size": size} if size else {})} for rank, size, lr in tried
    ]
    gate = {"data/base": {"bslora_gate": entries[:3], "bslora_kron": entries[3:]}}
    file = tmp_path / "found.yaml"
    file.write_text(yaml.safe_dump({"bases": gate}))

    def rate(*ranks: int, fit: str = "gate", **size: int) -> float:
        asked = {"profile": "tiny", "method": "bslora", "fit": fit, "lr": str(file)}
        return resolve({**asked, "ranks": list(ranks), **size})["lr"]

    # Gates 1 and 15 are nearer to 8, by ratio, and 16 is as near to both: the smaller counts.
    sizes = (1, 8, 15, 16, 17, 1024)
    assert [rate(2, 4, 16, gate_size=x) for x in sizes] == [0.8, 0.8, 0.8, 0.8, 0.32, 0.32]
    assert rate(4, 16, 32, gate_size=8) == 0.52  # the rank comes first
    assert rate(1, 1, 1, fit="kron", kron_size=4) == 0.5  # an outcome that names no size has one for all
    gate["data/base"]["bslora_gate"].insert(0, {"rank": 22, "lr": 0.1})
    file.write_text(yaml.safe_dump({"bases": gate}))
    assert rate(2, 4, 16, gate_size=32) == 0.32  # of this size before one of any


def test_a_local_pair_alone_has_no_share_size():
    run = {"method": "bslora", "fit": "gate", "gate_size": 8, "kron_size": None}
    assert share_size_of({**run, "ranks": [8, 0, 1]}) == 8
    assert share_size_of({**run, "ranks": [8, 0, 0]}) is None
    assert share_size_of({**run, "ranks": [1, 1, 1], "fit": "slice"}) is None


def test_a_run_of_a_search_was_given_its_rate():
    demo = profiles.load_profile("tiny")
    run = {"method": "lora", "ranks": [1], "profile": "tiny", "base_model": "data/base"}
    run["lr"] = demo.learning_rate
    assert origin_of({**run, "split": "test"}) == "profile"
    assert origin_of({**run, "split": demo.sweep["split"]}) == "given"


@pytest.mark.parametrize(
    "entries",
    [
        {"lr": 0.1},
        [],
        [{"lr": 0.1}],
        [{"rank": 8}],
        [{"rank": 8, "lr": "fast"}],
        [{"rank": 0, "lr": 1}],
        [{"rank": True, "lr": 1}],
        [{"rank": 8, "share_size": 0, "lr": 1}],
        [{"rank": 8, "share_size": None, "lr": 1}],
        [{"rank": 8, "lr": math.inf}],
        [0.1],
    ],
    ids=str,
)
def test_an_entry_of_an_outcome_that_is_none_is_named(tmp_path, entries):
    path = tmp_path / "found.yaml"
    path.write_text(yaml.safe_dump({"bases": {"data/base": {"vera": entries}}}))
    with pytest.raises(ValueError, match=r"found\.yaml: bases: data/base: vera: .*expected a list"):
        resolve({"profile": "tiny", "method": "lora", "ranks": [2], "lr": str(path)})


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
    # LoRA: 0.0025, 0.005, 0.01 around the profile's rate, at rank 2 0.00125 too. TL5: 0.02 beyond those,
    # then 0.04 to have it inside. TL6: its own two and three further, the factor 3 apart; 1.0 is never
    # reached.
    assert {
        key: {entry["rank"]: entry["lr"] for entry in entries} for key, entries in found.items()
    } == {
        "lora": {1: 0.005, 2: 0.0025},
        "tied_lora_tl5": {2: 0.02},
        "tied_lora_tl6": {2: 0.81},
    }
    by_row = {entry["row"]: entry for entries in found.values() for entry in entries}
    assert {row: len(entry["scores"]) for row, entry in by_row.items()} == {
        "lora-1": 3,
        "lora-2": 4,
        "tl5-2": 5,
        "tl6-2": 5,
    }
    assert [row for row, entry in by_row.items() if not entry["inside"]] == ["tl6-2"]
    assert by_row["tl6-2"]["scores"].keys() == {0.01, 0.03, 0.09, 0.27, 0.81}
    assert (written["split"], written["seeds"]) == ("validation", [0])
    runs = [json.loads(path.read_text())["run"] for path in folder.glob("*/result.json")]
    assert {run["split"] for run in runs} == {"validation"} and len(runs) == 17
    assert {len(run["tasks"]) for run in runs} == {8}  # the profile's, where a mean is defined
    assert "3 rates each: lora-1\n" in output and "5 rates each: tl6-2, tl5-2" in output
    assert "tl6-2: its best rate 0.81 is the largest that was tried" in output

    engine.started.clear()
    assert grid_command.main(command(tmp_path, "--sweep")) == 0
    assert engine.started == []

    file = folder / "learning_rates.yaml"
    grid_file(tmp_path, ROWS.replace(", vary: {lr: [0.01, 0.03]}", "").replace("mini_mmlu", "mini_piqa"))
    options = parser_of(tmp_path, "--lr", str(file))
    rows = grid_command._rows(*options)
    assert [row.resolved["lr"] for row in rows] == [None, 0.005, 0.0025, 0.02, 0.81]
    assert rows[1].resolved["lr_from"] == "tuned on data/base, learning_rates.yaml"
    assert rows[1].resolved["split"] == "test"


def test_a_rate_that_diverged_has_been_tried(tmp_path, monkeypatch, capsys):
    """TL6 scores the better the larger its rate, and diverges from 0.05 on; TL5 always diverges."""

    def mean(row) -> float | None:
        rate, key = row.resolved["lr"], rate_key(row.resolved)
        diverges = key == "tied_lora_tl5" or (key == "tied_lora_tl6" and rate > 0.05)
        return None if diverges else known_mean(row)

    engine = WritingEngine(mean)
    monkeypatch.setattr(grid_command, "_engine", lambda options: engine)
    grid_file(tmp_path, ROWS)
    assert grid_command.main(command(tmp_path, "--sweep")) == 0
    output = capsys.readouterr().out
    assert "tl6-2: training diverged at 0.09\n" in output and "runs failed" not in output
    assert "tl5-2: every rate diverged, so it has none" in output
    file = tmp_path / "runs" / "two_rates" / "learning_rates.yaml"
    found = yaml.safe_load(file.read_text())["bases"]["data/base"]
    assert "tied_lora_tl5" not in found
    (tl6,) = found["tied_lora_tl6"]
    assert (tl6["lr"], tl6["diverged"], tl6["inside"]) == (0.03, [0.09], True)
    # Three smaller ones were tried for TL5 in vain, and none a second time by the same command.
    assert sum(name.startswith("tl5") for name in engine.started) == 6
    engine.started.clear()
    assert grid_command.main(command(tmp_path, "--sweep")) == 0 and engine.started == []


def test_a_sweep_of_which_all_diverged_has_failed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(grid_command, "_engine", lambda options: WritingEngine(lambda row: None))
    grid_file(tmp_path, "rows: [{row: lora-2, method: lora, ranks: [2]}]")
    assert grid_command.main(command(tmp_path, "--sweep")) == 1
    assert "6 of 6 runs diverged" in capsys.readouterr().out
    assert not (tmp_path / "runs" / "two_rates" / "learning_rates.yaml").exists()


def test_a_row_that_diverged_is_a_hole_in_its_table(tmp_path, monkeypatch, capsys):
    engine = WritingEngine(lambda row: None if row.asked["method"] == "tied_lora" else 0.5)
    monkeypatch.setattr(grid_command, "_engine", lambda options: engine)
    grid_file(tmp_path, ROWS.replace(", vary: {lr: [0.01, 0.03]}", ""))
    assert grid_command.main(command(tmp_path)) == 1
    assert "2 of 5 runs diverged" in capsys.readouterr().out
    engine.started.clear()
    assert grid_command.main(command(tmp_path)) == 1 and engine.started == []
    assert grid_command.main(command(tmp_path, "--again", "tl5-2")) == 1
    assert engine.started == ["tl5-2-s0"]
    # With other rates it is another run: its folder is refused, as any run's with other parameters.
    assert grid_command.main(command(tmp_path, "--lr", "published")) == 2


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


def test_a_method_is_swept_by_one_row_a_rank(tmp_path, capsys, engine):
    row = "{row: %s, method: lora, ranks: [%s], vary: {lr: [0.1, 0.2]}}"
    grid_file(tmp_path, f"rows: [{row % ('a', 2)}, {row % ('b', 4)}, {row % ('c', 4)}]")
    assert grid_command.main(command(tmp_path, "--sweep")) == 2
    assert "rows b and c both vary the rate of lora at rank 4" in capsys.readouterr().err


def test_each_share_size_of_a_method_is_swept(tmp_path, monkeypatch, capsys):
    engine = WritingEngine(lambda row: 0.5 - abs(row.resolved["lr"] - 0.005))
    monkeypatch.setattr(grid_command, "_engine", lambda options: engine)
    row = "{row: gt-%s, method: bslora, fit: gate, ranks: [1, 1, 1], gate_size: %s}"
    grid_file(tmp_path, f"rows: [{row % (2, 2)}, {row % (4, 4)}]")
    assert grid_command.main(command(tmp_path, "--sweep")) == 0
    file = tmp_path / "runs" / "two_rates" / "learning_rates.yaml"
    (found,) = yaml.safe_load(file.read_text())["bases"]["data/base"].values()
    told = [(entry["rank"], entry["share_size"], entry["lr"], entry["row"]) for entry in found]
    assert told == [(3, 2, 0.005, "gt-2"), (3, 4, 0.005, "gt-4")]
    varied = row.replace("}", ", vary: {lr: [0.1, 0.2]}}")
    grid_file(tmp_path, f"rows: [{varied % (2, 2)}, {varied % (4, 2)}]")
    assert grid_command.main(command(tmp_path, "--sweep")) == 2
    assert "of bslora_gate at rank 3 and share size 2 on" in capsys.readouterr().err


def test_a_rate_that_is_no_number_is_not_swept(tmp_path, capsys, engine):
    grid_file(tmp_path, "rows: [{row: a, method: lora, ranks: [1], vary: {lr: [published, 0.003]}}]")
    assert grid_command.main(command(tmp_path, "--sweep")) == 2
    assert "a varies its rate by 'published', which is no number" in capsys.readouterr().err
    assert not engine.started


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


def test_a_table_says_where_its_rates_come_from():
    def run(row: str, **values) -> dict:
        shared = {"method": "lora", "ranks": [1], "profile": "tiny", "base_model": "data/base"}
        return {"run": {**shared, "row": row, **values}}

    published = [run("lora-1", lr=1e-4, lr_from="published"), run("base", method="none")]
    of_the_paper = "Learning rate of lora-1: the published one for all methods; 0.0001."
    assert rates_in_words(published) == [of_the_paper]
    # Runs that do not say it: the profile's rate is 0.005.
    older = [run(f"lora-{n}", lr=0.005) for n in range(2, 6)] + [run("tl5-2", lr=0.25)]
    assert rates_in_words(published + older) == [
        of_the_paper,
        "Learning rate of 4 rows: one rate of the profile for all methods; 0.005.",
        "Learning rate of tl5-2: given with the row or on the command line; 0.25.",
    ]
    assert rates_in_words(published[1:]) == []


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
    scores: dict[tuple[str, str, int, int | None], dict[float, float]] = {}
    for path in RATES.glob("*/result.json"):
        result = json.loads(path.read_text())
        run = result["run"]
        assert (run["split"], run["seed"], run["steps"]) == ("validation", 0, found["steps"])
        size = {"gate": run["gate_size"], "kron": run["kron_size"]}.get(run["fit"])
        tried = scores.setdefault((run["base_model"], rate_key(run), sum(run["ranks"]), size), {})
        tried[run["lr"]] = 100 * result["eval"]["mean"]
    assert scores
    entries = {
        (base, key, entry["rank"], entry.get("share_size")): entry
        for base, methods in found["bases"].items()
        for key, ranks in methods.items()
        for entry in ranks
    }
    assert set(entries) == set(scores)
    for method, tried in scores.items():
        assert entries[method]["lr"] == max(tried, key=tried.__getitem__)
        assert entries[method]["scores"] == pytest.approx(tried, abs=0.0051)  # two decimals
