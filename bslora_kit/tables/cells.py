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
from bslora_kit.tables.answers import ALL
from bslora_kit.tables.forms import texts
from bslora_kit.tables.long_forms import LongTable
from bslora_kit.tables.results import (
    Score,
    base_of,
    names_of,
    over_seeds,
    runs_by_row,
    score_of,
    score_on,
)

_NOTE = (
    "Scores in percent, mean over seeds. ± of items: standard error that the choice of items "
    "leaves{items}; ± of seeds: that of the mean over so many seeds, empty where there is one; ±: both "
    "together{both}."
)
_CLUSTERED = {
    "items": ", where items that ask for one fact stand or fall together",
    "both": ", what they do together counted once",
}
_BINOMIAL = {
    "items": " a run, as if each were independent of all others, which it is not",
    "both": "",
}
_COUNTS = ["seeds", "items"]


def cells(
    results: Sequence[Mapping[str, Any]],
    grid: Mapping[str, Any],
    scores: Mapping[tuple[str, str], Score] | None = None,
) -> pandas.DataFrame:
    """One row for each row of the grid that has run and each task, the eight together last.

    Args:
        results: from `results.read_results`, of one table.
        grid: the grid file.
        scores: from `answers.scores_by_row`; without them errors take items as independent.

    Returns:
        Columns row, base, method (with ranks), task (or "all eight"), those of `results.Score`, seeds,
        and items: how many a run answered.
    """
    runs, names = runs_by_row(results, grid), names_of(grid["rows"])
    found = [
        cell | {"base": base_of(row), "method": names[row["row"]]}
        for row in grid["rows"]
        for cell in _cells_of(row["row"], runs[row["row"]], scores or {})
    ]
    columns = ["row", "base", "method", "task", *Score._fields, *_COUNTS]
    return pandas.DataFrame(found, columns=columns).astype(dict.fromkeys(_COUNTS, "Int64"))


def with_errors(table: pandas.DataFrame, scores: Mapping[tuple[str, str], Score]) -> pandas.DataFrame:
    """A table whose errors of the mean are clustered by fact.

    Args:
        table: from `results.table`.
        scores: from `answers.scores_by_row`.
    """
    rows = table.loc[table["mean"].notna(), "row"]
    known = {row: scores[row, ALL] for row in rows if (row, ALL) in scores}
    errors = pandas.DataFrame.from_dict(known, orient="index", columns=Score._fields)
    errors = errors.reindex(table["row"])[list(Score._fields[1:])]
    return table.assign(**{name: errors[name].to_numpy() for name in errors})


def cells_printed(cells: pandas.DataFrame, clustered: bool) -> LongTable:
    """The columns that people read, as text, and what a reader must know of them.

    Args:
        cells: from `cells`.
        clustered: whether its errors are.
    """
    several = cells["base"].nunique() > 1
    note = _NOTE.format(**(_CLUSTERED if clustered else _BINOMIAL))
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
    return LongTable("every score with its errors", [note], view, left=3 if several else 2)


def _cells_of(
    row: str, runs: Sequence[Mapping[str, Any]], scores: Mapping[tuple[str, str], Score]
) -> list[dict[str, Any]]:
    """The cells of one row."""
    tasks = runs[0]["eval"]["tasks"] if runs else {}
    found = {task: over_seeds([score_on(task, x["eval"]) for x in runs]) for task in tasks}
    items = {task: scored["n"] for task, scored in tasks.items()}
    together = over_seeds([score_of(x["eval"]) for x in runs])
    if len(tasks) > 1 and not math.isnan(together.mean):
        found[ALL] = together
        items[ALL] = sum(n for task, n in items.items() if task.removeprefix("mini_") in TASKS)
    return [
        {"row": row, "task": task, **scores.get((row, task), score)._asdict()}
        | {"seeds": len(runs), "items": items[task]}
        for task, score in found.items()
    ]
