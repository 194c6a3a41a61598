"""`make tables`: the committed reference run is whole, and a row that is removed comes back alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from grid_files import ROWS, WritingEngine, use_world
from tiny_world import make_world

import bslora_kit.data  # noqa: F401  reads where data lie, before a test points that elsewhere
from bslora_kit.grid import command as grid_command
from bslora_kit.grid import reference, reference_page
from bslora_kit.jobs import profiles


@pytest.mark.parametrize("command", reference.listed(), ids=lambda command: Path(command[0]).stem)
def test_the_reference_run_has_nothing_to_do(command):
    options = grid_command.parser().parse_args([*command, "--out", str(reference.REFERENCE)])
    grid, common = grid_command._grid(options, profiles.load_profile(options.profile))
    rows = grid_command._rows(grid, options, common)
    assert {row.name: row.problem for row in rows if row.state != "done"} == {}
    assert rows
    committed = {path.parent.name for path in rows[0].folder.parent.glob("*/result.json")}
    further = {name for name in committed if "-lr-" in name} if options.sweep else set()
    assert committed - further <= {row.name for row in rows}  # each comes back if it is removed


def test_a_removed_row_comes_back_and_the_others_are_left_alone(tmp_path, monkeypatch):
    published = profiles.FOLDER / "paper.yaml"  # the page has it beside what was run
    use_world(make_world(tmp_path / "data"), monkeypatch)
    shutil.copy(published, tmp_path / "data" / "profiles")
    monkeypatch.setattr(reference, "RUNS", tmp_path)
    monkeypatch.delattr(reference_page, "read_finished")  # the tables have been computed just before
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids" / "two.yaml").write_text(ROWS)
    folder = tmp_path / "reference"
    folder.mkdir()
    (folder / "runs.yaml").write_text("two: {seeds: [3, 4]}")
    engine = WritingEngine(lambda row: 0.6)
    monkeypatch.setattr(grid_command, "_engine", lambda options: engine)
    assert reference.resume(["--profile", "tiny"], folder) == 0
    assert engine.started == ["base-s3", "lora-2-s3", "lora-2-s4"]
    engine.started.clear()
    shutil.rmtree(folder / "two" / "lora-2-s4")
    (folder / "two" / "table.md").unlink()
    (folder / "tables.html").unlink()
    assert reference.resume(["--profile", "tiny", "--dry-run"], folder) == 0
    assert not (folder / "tables.html").exists()
    assert reference.resume(["--profile", "tiny"], folder) == 0
    assert engine.started == ["lora-2-s4"]
    table = (folder / "two" / "table.md").read_text()
    assert "Learning rate of lora-2: one rate of the profile for all methods" in table
    assert '<div id="two">' in (folder / "tables.html").read_text()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("none: {seeds: [0]}", "no grid none"),
        ("{}", "names no grid"),
        ("range: [0]", "expected seeds"),
        (None, "no file"),
    ],
)
def test_a_wrong_list_is_refused(tmp_path, capsys, text, words):
    if text is not None:
        (tmp_path / "runs.yaml").write_text(text)
    assert reference.resume([], tmp_path) == 2
    assert words in capsys.readouterr().err
