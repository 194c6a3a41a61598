"""Grid files, and results as a job writes them, for tests that run no job."""

from __future__ import annotations

import json
import time
import types
from collections.abc import Callable
from pathlib import Path

import pandas

from bslora_kit import paths, published
from bslora_kit.grid.engine import End
from bslora_kit.grid.file import read_grid
from bslora_kit.grid.rows import rows_of
from bslora_kit.jobs import profiles
from bslora_kit.jobs.run_job import EXIT_FAILED, record_failure
from bslora_kit.training import TrainingDiverged

ROWS = """
title: Two
rows:
  - {row: base, label: Untouched base, method: none}
  - {row: lora-2, label: LoRA, method: lora, ranks: [2], published_parameters: 1000}
"""


def grid_file(folder: Path, text: str = ROWS) -> Path:
    path = folder / "two.yaml"
    path.write_text(text)
    return path


def command(folder: Path, *more: str) -> list[str]:
    return [str(folder / "two.yaml"), "--profile", "tiny", "--out", str(folder / "runs"), *more]


def write_result(row, mean: float = 0.5, **changes) -> None:
    """A result.json with what the driver and the table read."""
    trained = row.resolved["method"] != "none"
    tasks = {
        f"mini_{task}": {"metric": "acc", "value": mean, "stderr": 0.1, "n": 3, "by_kind": {}}
        for task in published.TASKS
    }
    scored = {"tasks": tasks, "mean": mean, "mean_stderr": 0.04}
    result = {
        "run": row.resolved | changes,
        "budget": {"trainable": 640 if trained else 0, "ratio": 0.01},
        "train": {},
        "eval": scored | {"split": row.resolved["split"], "shots": 0, "limit": None},
    }
    row.folder.mkdir(parents=True, exist_ok=True)
    (row.folder / "result.json").write_text(json.dumps(result))


def write_items(row, mean: float) -> None:
    """Ten items a task, of which `mean` are right."""
    items = [
        {
            "task": f"mini_{task}",
            "doc_id": n,
            "doc_hash": str(n),
            "fact": f"{task}-{n}",
            "correct": float(n < 10 * mean),
        }
        for task in published.TASKS
        for n in range(10)
    ]
    frame = pandas.DataFrame(items).assign(kind="old", subject=None)
    frame.to_parquet(row.folder / "items.parquet")


def rows_in(tmp_path: Path) -> list:
    jobs = read_grid(grid_file(tmp_path)).jobs([0], str(tmp_path / "runs"), {"profile": "tiny"})
    return rows_of(jobs)


def use_world(data: Path, monkeypatch) -> Path:
    """Has grids and jobs read a tiny world in place of the shipped data."""
    monkeypatch.setattr(paths, "DATA", data)
    monkeypatch.setattr(paths, "BASE", data / "base")
    monkeypatch.setattr(profiles, "FOLDER", data / "profiles")
    return data


class WritingEngine:
    """An engine whose jobs end at once, with a result of the mean that a function gives its row.

    A row without a mean leaves what a job leaves whose training diverged.
    """

    side_by_side, at_most = 2, 2

    def __init__(self, mean_of: Callable[..., float | None]):
        self.started: list[str] = []
        self._mean_of = mean_of

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def start(self, row):
        self.started.append(row.name)
        mean = self._mean_of(row)
        if mean is None:
            row.folder.mkdir(parents=True, exist_ok=True)
            (row.folder / "params.json").write_text(json.dumps(row.resolved))
            error = TrainingDiverged("the loss is nan", 3, row.resolved["lr"], None)
            record_failure(row.folder, f"{TrainingDiverged.__name__}: {error}", "Traceback ...")
        else:
            write_result(row, mean)
            write_items(row, mean)
        end = End(EXIT_FAILED if mean is None else 0)
        return types.SimpleNamespace(began=time.monotonic(), poll=lambda: end, stop=lambda: None)
