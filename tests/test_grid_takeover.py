"""A run that another grid has finished with the same parameters is copied, not made again."""

from __future__ import annotations

import json
import types
from pathlib import Path

import pytest
from grid_files import command, grid_file, rows_in, write_items, write_result

from bslora_kit.grid import command as grid_command
from bslora_kit.grid.file import read_grid
from bslora_kit.grid.rows import rows_of
from bslora_kit.grid.takeover import equal_runs, take_over
from bslora_kit.jobs.lock import RunLock
from bslora_kit.jobs.result_file import finished_runs

OTHER = """
title: Other
rows:
  - {row: untouched, label: Base, method: none}
  - {row: lora-of-two, label: LoRA again, method: lora, ranks: [2]}
  - {row: lora-3, label: LoRA, method: lora, ranks: [3]}
"""


pytestmark = pytest.mark.usefixtures("world")


def finished(tmp_path: Path) -> Path:
    """Both rows of grid "two" as finished runs; returns the folder of all grids."""
    for row in rows_in(tmp_path):
        write_result(row, 0.6)
        write_items(row, 0.6)
        (row.folder / "adapter").mkdir()
        (row.folder / "adapter" / "adapter_model.safetensors").write_bytes(row.name.encode())
        (row.folder / "history.jsonl").write_text('{"step": 1}\n')
    return tmp_path / "runs"


def other_rows(tmp_path: Path, seed: int = 0) -> list:
    (tmp_path / "other.yaml").write_text(OTHER)
    jobs = read_grid(tmp_path / "other.yaml").jobs([seed], str(tmp_path / "runs"), {"profile": "tiny"})
    return rows_of(jobs)


def test_equal_rows_are_found_by_their_parameters_alone(tmp_path):
    out = finished(tmp_path)
    found = equal_runs(other_rows(tmp_path), finished_runs(out))
    assert {name: path.name for name, path in found.items()} == {
        "untouched-s0": "base-s0",
        "lora-of-two-s0": "lora-2-s0",
    }
    assert equal_runs(other_rows(tmp_path, seed=1), finished_runs(out)) == {}
    for path in (out / "two").glob("*/items.parquet"):
        path.write_bytes(path.read_bytes()[:-10])
    assert equal_runs(other_rows(tmp_path), finished_runs(out)) == {}  # written half
    for path in (out / "two").glob("*/items.parquet"):
        path.unlink()
    assert (
        equal_runs(other_rows(tmp_path), finished_runs(out)) == {}
    )  # a result without answers compares with nothing


def test_files_of_other_grids_that_are_no_results_are_named_and_passed_over(tmp_path, capsys):
    out = finished(tmp_path)
    broken = {
        "empty": "",
        "half": '{"run": {',
        "list": "[]",
        "foreign": '{"score": 1}',
        "nameless": '{"run": {"row": "a"}, "budget": {}, "eval": {}}',
    }
    for name, text in broken.items():
        (out / "foreign" / name).mkdir(parents=True)
        (out / "foreign" / name / "result.json").write_text(text)
    assert set(equal_runs(other_rows(tmp_path), finished_runs(out))) == {
        "untouched-s0",
        "lora-of-two-s0",
    }
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[2] for line in lines] == [
        str(out / "foreign" / name / "result.json") for name in sorted(broken)
    ]
    assert "lacks method, seed of its run" in lines[-1]


def test_a_run_that_is_taken_over_is_whole_and_names_its_origin(tmp_path):
    out = finished(tmp_path)
    rows = other_rows(tmp_path)
    row = rows[1]
    # An interrupted run of this row is in the folder.
    (row.folder / "checkpoints" / "step-2").mkdir(parents=True)
    (row.folder / "params.json").write_text(json.dumps(row.resolved))
    (row.folder / "error.txt").write_text("the machine was lost")
    source = out / "two" / "lora-2-s0"
    assert take_over(row, source)
    assert sorted(path.name for path in row.folder.iterdir() if path.name != ".lock") == [
        "adapter",
        "history.jsonl",
        "items.parquet",
        "params.json",
        "result.json",
    ]
    run = json.loads((row.folder / "result.json").read_text())["run"]
    names = [run[name] for name in ("row", "grid", "label", "taken_from")]
    assert names == ["lora-of-two", "other", "LoRA again", "two/lora-2-s0"]
    original = json.loads((source / "result.json").read_text())
    assert original["run"]["row"] == "lora-2" and "taken_from" not in original["run"]
    assert (row.folder / "adapter" / "adapter_model.safetensors").read_bytes() == b"lora-2-s0"
    assert (row.state, row.result["eval"]) == ("done", original["eval"])
    assert [again.state for again in other_rows(tmp_path)] == ["missing", "done", "missing"]


def test_an_origin_is_the_run_that_was_made(tmp_path):
    out = finished(tmp_path)
    row = other_rows(tmp_path)[0]
    take_over(row, out / "two" / "base-s0")
    (third,) = rows_of([row.asked | {"out_dir": str(out / "third" / "base-s0"), "grid": "third"}])
    take_over(third, row.folder)
    run = json.loads((third.folder / "result.json").read_text())["run"]
    assert (run["grid"], run["taken_from"]) == ("third", "two/base-s0")


def test_a_row_that_another_process_is_at_is_left_alone(tmp_path, monkeypatch):
    out = finished(tmp_path)
    row = other_rows(tmp_path)[1]

    class Held(RunLock):
        def __init__(self, folder):
            from bslora_kit.jobs.lock import RunInUse

            raise RunInUse("held")  # a lock of this process would not keep this process out

    monkeypatch.setattr("bslora_kit.grid.takeover.RunLock", Held)
    assert not take_over(row, out / "two" / "lora-2-s0")
    assert not (row.folder / "result.json").exists()


def test_the_command_takes_equal_rows_over_and_runs_the_rest(tmp_path, monkeypatch, capsys):
    finished(tmp_path)
    grid_file(tmp_path, OTHER)  # as grid "two" again, beside the finished runs of the first "two"
    (tmp_path / "two.yaml").rename(tmp_path / "other.yaml")
    arguments = command(tmp_path)
    arguments[0] = str(tmp_path / "other.yaml")
    started = []
    engine = types.SimpleNamespace(side_by_side=1, at_most=1, start=started.append)
    monkeypatch.setattr(grid_command, "_engine", lambda options: engine)

    assert grid_command.main([*arguments, "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert "equal to two/lora-2-s0, which is taken over" in output and "1 of 3 runs to do" in output
    assert not (tmp_path / "runs" / "other").exists()

    ran = []
    monkeypatch.setattr(grid_command, "_run", lambda grid, rows, *rest: ran.extend(rows))
    assert grid_command.main(arguments) == 1  # nobody ran lora-3
    output = capsys.readouterr().out
    assert "lora-of-two-s0 from two/lora-2-s0" in output
    assert [(row.name, row.state) for row in ran] == [
        ("untouched-s0", "done"),
        ("lora-of-two-s0", "done"),
        ("lora-3-s0", "missing"),
    ]
    assert not started
