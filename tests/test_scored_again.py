"""An adapter that another run has trained with the same settings is scored, not trained again.

Real jobs of four steps on a random Llama: the scores must be those of a job that trains by itself.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny_world import write_profile

from bslora_kit.grid import estimate
from bslora_kit.grid.rows import Row, rows_of
from bslora_kit.grid.takeover import equal_runs, take_over, take_training, trained_runs
from bslora_kit.jobs.job import Job
from bslora_kit.jobs.profiles import load_profile
from bslora_kit.jobs.result_file import finished_runs

pytestmark = pytest.mark.usefixtures("world")


def row(out: Path, grid: str, **changes) -> Row:
    asked = {"profile": "tiny", "method": "vera", "ranks": [4], "row": "vera-4", "tasks": ["mini_boolq"]}
    (made,) = rows_of([asked | {"grid": grid, "out_dir": str(out / grid / "vera-4-s0")} | changes])
    return made


def run(row: Row) -> Job:
    job = Job.open(row.asked)
    job.train()
    job.evaluate()
    job.finish()
    row.look()
    return job


def adapter(row: Row) -> dict[str, bytes]:
    tensors = load_file(row.folder / "adapter" / "adapter_model.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def test_what_is_scored_otherwise_has_the_same_adapter_and_nothing_else_has(tmp_path, world):
    first = row(tmp_path, "first")
    run(first)
    others = {
        "tasks": {"tasks": ["mini_piqa"]},
        "shots": {"shots": 1},
        "split": {"split": "validation"},
        "limit": {"limit": 1},
        "seed": {"seed": 1},
        "rate": {"lr": 0.5},
        "ranks": {"ranks": [2]},
        "steps": {"steps": 3},
        "method": {"method": "lora"},
    }
    rows = {name: row(tmp_path, name, **changes) for name, changes in others.items()}
    found = {name for name, other in rows.items() if trained_runs([other], finished_runs(tmp_path))}
    assert found == {"tasks", "shots", "split", "limit"}
    write_profile(world / "profiles" / "slower.yaml", scaling=4.0)
    assert not trained_runs([row(tmp_path, "scaling", profile="slower")], finished_runs(tmp_path))
    (first.folder / "history.jsonl").unlink()
    assert not trained_runs(list(rows.values()), finished_runs(tmp_path))


def test_a_taken_adapter_scores_as_one_that_is_trained_in_place(tmp_path):
    source, taken = row(tmp_path / "a", "first"), row(tmp_path / "a", "second", tasks=["mini_piqa"])
    run(source)
    assert not equal_runs([taken], finished_runs(tmp_path / "a"))
    found = trained_runs([taken], finished_runs(tmp_path / "a"))
    assert take_training(taken, found[taken.name])
    assert (taken.state, taken.trained) == ("missing", True)
    assert not (taken.folder / "items.parquet").exists()
    profile = load_profile("tiny")
    assert estimate.expected_seconds(taken, profile).training == 0

    in_place = row(tmp_path / "b", "second", tasks=["mini_piqa"])
    trained, scored = run(in_place), run(taken)
    assert adapter(taken) == adapter(in_place) == adapter(source)
    assert taken.result["eval"] == in_place.result["eval"]
    assert trained.evaluation.items.equals(scored.evaluation.items)
    assert taken.result["train"] == source.result["train"]  # the seconds of the run that trained
    assert taken.result["run"]["trained_in"] == "first/vera-4-s0"
    assert "trained_in" not in in_place.result["run"]

    third = row(tmp_path / "a", "third", tasks=["mini_piqa"])
    assert take_over(third, taken.folder)
    fourth = row(tmp_path / "a", "fourth", tasks=["mini_arc_easy"])
    assert take_training(fourth, third.folder)
    origin = json.loads((fourth.folder / "trained_in.json").read_text())
    assert origin == {"trained_in": "first/vera-4-s0", "processes": 1}


def test_how_many_processes_trained_an_adapter_stays_with_it(tmp_path):
    source, taken = row(tmp_path, "first"), row(tmp_path, "second", tasks=["mini_piqa"])
    run(source)
    result = json.loads((source.folder / "result.json").read_text())
    result["train"]["processes"] = 2
    (source.folder / "result.json").write_text(json.dumps(result))
    assert take_training(taken, source.folder)
    run(taken)
    assert taken.result["train"] == result["train"]
    assert "processes" not in taken.result["run"]


def test_an_adapter_that_was_altered_on_the_way_is_refused(tmp_path):
    source, taken = row(tmp_path, "first"), row(tmp_path, "second", tasks=["mini_piqa"])
    run(source)
    take_training(taken, source.folder)
    file = taken.folder / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(file).items()}, file)
    with pytest.raises(ValueError, match="adapter_model.safetensors"):
        run(taken)


def test_a_row_that_has_begun_to_train_goes_on_by_itself(tmp_path):
    source, begun = row(tmp_path, "first"), row(tmp_path, "second", tasks=["mini_piqa"])
    run(source)
    (begun.folder / "checkpoints").mkdir(parents=True)
    assert not take_training(begun, source.folder)
    assert not (begun.folder / "adapter").exists()


def test_a_folder_with_a_taken_adapter_is_no_other_row(tmp_path):
    source, taken = row(tmp_path, "first"), row(tmp_path, "second", tasks=["mini_piqa"])
    run(source)
    take_training(taken, source.folder)
    changed = row(tmp_path, "second", tasks=["mini_piqa"], steps=2)
    assert changed.state == "conflict" and "steps: 4 there, 2 asked" in changed.problem
