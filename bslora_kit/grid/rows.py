"""The rows of a grid as they stand on disk: done, diverged, missing, or in the way.

The to-do list is what has no result: nothing else is remembered between two calls of the driver. A run
whose training diverged is a result too: its seed makes it diverge every time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bslora_kit.files import read_object
from bslora_kit.jobs.lock import is_locked
from bslora_kit.jobs.parameters import differences, resolve, run_folder_of
from bslora_kit.jobs.result_file import ADVICE, FILE, ORIGIN, read_result
from bslora_kit.paths import ROOT

DIVERGED = "TrainingDiverged"  # the exception of `training`, which would import torch here
State = Literal["missing", "running", "done", "diverged", "failed", "conflict"]


@dataclass
class Row:
    """One job of a grid.

    Attributes:
        asked: its parameters, as the notebook gets them.
        folder: its run folder.
        resolved: its parameters with the profile's; empty where they are not valid, without inputs where
            files are missing.
        state: "conflict" is a folder that holds a run with other parameters, or a file that is none.
        problem: what is wrong in the states "diverged", "failed" and "conflict".
        result: the content of result.json in the state "done".
        seconds: how long this driver took for it.
        trained: whether its folder holds the adapter of another run, so that it is only scored.
    """

    asked: Mapping[str, Any]
    folder: Path
    resolved: dict[str, Any] = field(default_factory=dict)
    state: State = "missing"
    problem: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    trained: bool = False

    @property
    def name(self) -> str:
        """The row and its seed, as its folder is called."""
        return self.folder.name

    def look(self) -> None:
        """Reads from the folder whether the row is done; leaves a failed row as it is."""
        result, noted = self.folder / FILE, self.folder / "params.json"
        self.trained = (self.folder / ORIGIN).is_file()
        source = result if result.exists() else noted if noted.exists() else None
        if source is None or self.state == "failed":
            return
        try:
            content = read_result(source) if source == result else read_object(source, ADVICE)
        except ValueError as error:
            self.state, self.problem = "conflict", str(error)
            return
        different = differences(content["run"] if source == result else content, self.resolved)
        if different:
            self.state, self.problem = "conflict", "; ".join(different)
        elif source == result:
            self.state, self.result = "done", content
        elif ended := _divergence(self.folder):
            self.state, self.problem = "diverged", ended


def _divergence(folder: Path) -> str:
    """How the training of a run without a result diverged; empty if it did not."""
    error = folder / "error.txt"
    if not error.is_file():
        return ""
    first, *_ = error.read_text(encoding="utf-8").splitlines() or [""]
    return first if first.startswith(f"{DIVERGED}:") else ""


def rows_of(jobs: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The rows of `Grid.jobs`; one whose parameters are not valid has failed from the start."""
    rows = []
    for asked in jobs:
        row = Row(asked, ROOT / asked["out_dir"])
        try:
            row.resolved = resolve(asked)
            row.folder = run_folder_of(asked, row.resolved)
        except (ValueError, TypeError, OSError) as error:
            row.state, row.problem = "failed", f"{type(error).__name__}: {error}"
            if isinstance(error, FileNotFoundError):
                with suppress(ValueError, OSError):
                    row.resolved = resolve(asked, with_inputs=False)
        row.look()
        rows.append(row)
    return rows


def again(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """Marks rows that are to run again as missing, and returns them; their folders stay as they are.

    Args:
        rows: from `rows_of`.
        names: row names, with or without "-s<seed>", or "all".

    Raises:
        ValueError: for a name that no row has, or a row that another process is at.
    """
    marked: dict[str, Row] = {}
    for name in names:
        chosen = [row for row in rows if name in ("all", row.name, row.asked["row"])]
        if not chosen:
            known = ", ".join(dict.fromkeys(row.asked["row"] for row in rows))
            raise ValueError(f"--again {name}: no such row; there are {known}, and all")
        for row in chosen:
            if is_locked(row.folder):
                raise ValueError(f"--again {name}: another process is at {row.folder}; end it first")
            marked[row.name] = row
            if row.state != "failed":
                row.state, row.problem, row.result = "missing", "", {}
    return list(marked.values())
