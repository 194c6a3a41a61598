"""Equal rows are run once: a finished run with the same parameters is copied, not made again.

    <out>/fair/ss-2-4-16-s0  --copied-->  <out>/similar_budget/ss-2-4-16-s0
                                          result.json: row, grid and label of its own; taken_from

Tables share rows: every grid has the untouched base, the published tables repeat each other's. Two runs
are equal if all their parameters are (`parameters.differences`), seed and inputs included.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bslora_kit.files import write_json
from bslora_kit.grid.rows import Row
from bslora_kit.jobs.lock import RunInUse, RunLock
from bslora_kit.jobs.parameters import NAMES, differences

_COPIED = ("adapter", "history.jsonl", "items.parquet", "run.ipynb")
_LEFT_BEHIND = ("checkpoints", "failed.ipynb", "error.txt", "progress.json")


def equal_runs(rows: Sequence[Row], out: Path) -> dict[str, Path]:
    """The finished runs that missing rows need not repeat.

    Args:
        rows: of one grid.
        out: folder of all grids.

    Returns:
        Row name -> folder of an equal run, which holds its answers (items.parquet).
    """
    missing = [row for row in rows if row.state == "missing"]
    if not missing:
        return {}
    finished = [
        (path.parent, json.loads(path.read_text(encoding="utf-8"))["run"])
        for path in sorted(out.glob("*/*/result.json"))
        if _is_whole(path.parent / "items.parquet")
    ]
    found: dict[str, Path] = {}
    for row in missing:
        for folder, run in finished:
            if run["method"] == row.resolved["method"] and not differences(run, row.resolved):
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
    row.folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = RunLock(row.folder)
    except RunInUse:
        return False
    try:
        for name in _LEFT_BEHIND:
            _remove(row.folder / name)
        for name in _COPIED:
            if (source / name).exists():
                _copy(source / name, row.folder / name)
        names = {name: row.resolved[name] for name in NAMES if name in row.resolved}
        result = json.loads((source / "result.json").read_text(encoding="utf-8"))
        origin = result["run"].get("taken_from") or "/".join(source.parts[-2:])
        run = result["run"] | names | {"taken_from": origin}
        write_json(row.folder / "params.json", row.resolved)
        write_json(row.folder / "result.json", result | {"run": run})
    finally:
        lock.release()
    row.look()
    return True


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
