"""Every cell of a table with its errors: the mean over seeds, and what items and seeds leave open.

    results --cells--> one row a grid row and task: score, standard errors of items and of seeds, counts

The wide table has no room for them beside each score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas

from bslora_kit.published import TASKS
from bslora_kit.tables.forms import texts
from bslora_kit.tables.long_forms import LongTable
from bslora_kit.tables.results import (
    Score,
    base_of,
    over_seeds,
    row_label,
    runs_by_row,
    score_of,
    score_on,
)

ALL = "all eight"  # in place of a task
_NOTE = (
    "Scores in percent, mean over seeds. ± of items: standard error that the choice of items leaves a "
    "run; ± of seeds: that of the mean over so many seeds, empty where there is one; ±: both together."
)
_COUNTS = ["seeds", "items"]


def cells(results: Sequence[Mapping[str, Any]], grid: Mapping[str, Any]) -> pandas.DataFrame:
    """One row for each row of the grid that has run and each task, the eight together last.

    Args:
        results: from `results.read_results`, of one table.
        grid: the grid file.

    Returns:
        Columns row, base, method (with ranks), task (or "all eight"), those of `results.Score`, seeds,
        and items: how many a run answered.
    """
    runs = runs_by_row(results, grid)
    found = [cell for row in grid["rows"] for cell in _cells_of(row, runs[row["row"]])]
    columns = ["row", "base", "method", "task", *Score._fields, *_COUNTS]
    return pandas.DataFrame(found, columns=columns).astype(dict.fromkeys(_COUNTS, "Int64"))


def cells_printed(cells: pandas.DataFrame) -> LongTable:
    """The columns that people read, as text, and what a reader must know of them.

    Args:
        cells: from `cells`.
    """
    several = cells["base"].nunique() > 1
    view = pandas.DataFrame(
        {
            "row": cells["method"],
            **({"base": cells["base"]} if several else {}),
            "task": cells["task"],
            "mean": texts(cells["mean"], "{:.2f}"),
            "±": texts(cells["stderr"], "{:.2f}"),
            "± of items": texts(cells["stderr_items"], "{:.2f}"),
            "± of seeds": texts(cells["stderr_seeds"], "{:.2f}"),
            "seeds": texts(cells["seeds"], "{}"),
            "items": texts(cells["items"], "{:,}"),
        }
    )
    return LongTable("every score with its errors", [_NOTE], view, left=3 if several else 2)


def _cells_of(row: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The cells of one row; tasks that only some of its runs have answered are left out."""
    tasks = [task for task in (runs[0]["eval"]["tasks"] if runs else ()) if _all_have(task, runs)]
    scores = {task: over_seeds([score_on(task, x["eval"]) for x in runs]) for task in tasks}
    items = {task: runs[0]["eval"]["tasks"][task]["n"] for task in tasks}
    together = over_seeds([score_of(x["eval"]) for x in runs])
    if len(tasks) > 1 and not math.isnan(together.mean):
        scores[ALL] = together
        items[ALL] = sum(n for task, n in items.items() if task.removeprefix("mini_") in TASKS)
    named = {"row": row["row"], "base": base_of(row), "method": row_label(row), "seeds": len(runs)}
    return [
        {**named, "task": task, **score._asdict(), "items": items[task]}
        for task, score in scores.items()
    ]


def _all_have(task: str, runs: Sequence[Mapping[str, Any]]) -> bool:
    return all(task in x["eval"]["tasks"] for x in runs)
