"""Equal rows are run once, equal adapters are trained once.

    <out>/fair/ss-2-4-16-s0        --all files-->  <out>/similar_budget/ss-2-4-16-s0
                                                   result.json: row, grid, label of its own; taken_from
    <out>/tied_lora/3-8b-tl5-8-s0  --adapter-->    <out>/tied_lora_mmlu/3-8b-tl5-8-s0
                                                   to be scored; result.json: trained_in

Tables share rows: every grid has the untouched base, the published tables repeat each other's. Two runs
are equal if all their parameters are (`parameters.differences`), seed and inputs included. Two that
differ in what they are scored on alone have the same adapter (`parameters.same_training`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bslora_kit.files import write_json
from bslora_kit.grid.rows import Row
from bslora_kit.jobs.lock import RunInUse, RunLock
from bslora_kit.jobs.parameters import NAMES, differences, same_training
from bslora_kit.jobs.result_file import FILE, ORIGIN, read_result

_COPIED = ("adapter", "history.jsonl", "items.parquet", "run.ipynb")
_TRAINED = ("adapter", "history.jsonl")
_LEFT_BEHIND = ("checkpoints", "failed.ipynb", "error.txt", "progress.json")


def equal_runs(rows: Sequence[Row], finished: Sequence[tuple[Path, dict[str, Any]]]) -> dict[str, Path]:
    """The finished runs that missing rows need not repeat.

    Args:
        rows: of one grid.
        finished: from `result_file.finished_runs`, of all grids.

    Returns:
        Row name -> folder of an equal run, which holds its answers (items.parquet).
    """
    whole = [run for run in finished if _is_whole(run[0] / "items.parquet")]
    return _found(rows, whole, lambda run, row: not differences(run, row.resolved))


def trained_runs(
    rows: Sequence[Row], finished: Sequence[tuple[Path, dict[str, Any]]]
) -> dict[str, Path]:
    """The finished runs whose adapter missing rows need only score.

    Args:
        rows: of one grid; those without an equal run.
        finished: from `result_file.finished_runs`, of all grids.

    Returns:
        Row name -> folder of a run with its adapter and history.
    """
    kept = [run for run in finished if all((run[0] / name).exists() for name in _TRAINED)]
    return _found(rows, kept, lambda run, row: same_training(run, row.resolved))


def _found(
    rows: Sequence[Row],
    finished: Sequence[tuple[Path, dict[str, Any]]],
    equal: Callable[[dict[str, Any], Row], bool],
) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for row in rows:
        if row.state != "missing":
            continue
        for folder, run in finished:
            if run["method"] == row.resolved["method"] and equal(run, row):
                found[row.name] = folder
                break
    return found


def _is_whole(items: Path) -> bool:
    """Whether a Parquet file is there and was written to its end."""
    return items.is_file() and items.read_bytes()[-4:] == b"PAR1"


def take_over(row: Row, source: Path) -> bool:
    """Makes a missing row done with the files of an equal run, result.json last.

    Args:
        row: from `equal_runs`.
        source: the equal run's folder.

    Returns:
        False if another process is at the row.
    """
    with _held(row) as held:
        if not held:
            return False
        for name in _COPIED:
            if (source / name).exists():
                _copy(source / name, row.folder / name)
        names = {name: row.resolved[name] for name in NAMES if name in row.resolved}
        result = read_result(source / FILE)
        run = result["run"] | names | {"taken_from": _origin(result["run"], source, "taken_from")}
        write_json(row.folder / "params.json", row.resolved)
        write_json(row.folder / FILE, result | {"run": run})
        # What an interrupted run of this row left goes last: until then it could still go on.
        for name in _LEFT_BEHIND:
            _remove(row.folder / name)
    row.look()
    return True


def take_training(row: Row, source: Path) -> bool:
    """Puts the adapter of another run into a missing row's folder, for its job to score.

    Args:
        row: from `trained_runs`.
        source: the folder of the run that trained it.

    Returns:
        False if another process is at the row, or it has begun to train by itself.
    """
    with _held(row) as held:
        if not held or (row.folder / "checkpoints").exists():
            return False
        for name in _TRAINED:
            _copy(source / name, row.folder / name)
        write_json(row.folder / "params.json", row.resolved)
        result = read_result(source / FILE)
        origin = _origin(result["run"], source, "trained_in", "taken_from")
        note = {"trained_in": origin, "processes": result["train"].get("processes", 1)}
        write_json(row.folder / ORIGIN, note)
    row.look()
    return True


def _origin(run: Mapping[str, Any], source: Path, *names: str) -> str:
    """The run that was made: what a copy says under one of these names, else that of `source`."""
    return next((run[name] for name in names if name in run), "/".join(source.parts[-2:]))


@contextmanager
def _held(row: Row) -> Iterator[bool]:
    """Holds a row's folder; False if another process does."""
    row.folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = RunLock(row.folder)
    except RunInUse:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _copy(source: Path, target: Path) -> None:
    """Copies a file or folder beside its place and moves it there."""
    beside = target.with_name(f"{target.name}.{os.getpid()}.part")
    _remove(beside)
    copy: Any = shutil.copytree if source.is_dir() else shutil.copyfile
    copy(source, beside)
    if source.is_dir():
        _remove(target)
    os.replace(beside, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
