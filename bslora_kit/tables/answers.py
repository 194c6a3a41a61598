"""What the runs of a grid answered, item by item: the ground of all comparisons.

items.parquet of each run  --answers_of-->  [items, runs], matched by item
                       --scores_by_row-->  what each row scored on each task, with its errors
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy
import pandas

from bslora_kit.jobs.parameters import UNTRAINED
from bslora_kit.published import TASKS
from bslora_kit.statistics import errors_of, influence_of, matched
from bslora_kit.tables.results import Score, base_of, items_of, runs_by_row

ANY = -1  # the seed of an untrained row
ALL = "all eight"  # in place of a task: what rows are compared by


class Answers(NamedTuple):
    """What all runs of a grid answered, item by item.

    Attributes:
        items: task and fact of each item.
        runs: [items, runs] 1 where a run has an item right; columns are (row, seed), seed -1 for an
            untrained row, which serves every seed.
        bases: row -> base model, as the grid names it.
    """

    items: pandas.DataFrame
    runs: pandas.DataFrame
    bases: dict[str, str]

    def counted(self) -> Answers:
        """Those that rows are compared by: of the eight tasks, or all where none of these is there."""
        eight = self.items["task"].str.removeprefix("mini_").isin(TASKS).to_numpy()
        if eight.all() or not eight.any():
            return self
        kept = self.items[eight].reset_index(drop=True), self.runs[eight].reset_index(drop=True)
        return self._replace(items=kept[0], runs=kept[1])

    def untrained(self, row: str) -> bool:
        """Whether a row has no seed of its own."""
        return (row, ANY) in self.runs

    def run(self, row: str, seed: int) -> tuple[str, int]:
        """The column of a row with a seed."""
        return (row, ANY if self.untrained(row) else seed)

    def common_seeds(self, *rows: str) -> list[int]:
        """Seeds that all rows have; none if one has not run, [-1] if all are untrained."""
        seeds = {row: {seed for name, seed in self.runs.columns if name == row} for row in rows}
        trained = [found for found in seeds.values() if found != {ANY}]
        return sorted(set.intersection(*trained)) if trained else [ANY]


def answers_of(results: Sequence[Mapping[str, Any]], grid: Mapping[str, Any]) -> Answers | None:
    """The answers of all runs of a grid in the grid's order; None where there is no run.

    Raises:
        ValueError: if runs did not answer the same items, or one is there twice.
    """
    used = [x for runs in runs_by_row(results, grid).values() for x in runs]
    if not used:
        return None
    items, correct = matched(
        {f"run {x['run']['row']}, seed {x['run']['seed']}": items_of(x["folder"]) for x in used}
    )
    names = [
        (x["run"]["row"], ANY if x["run"]["method"] == UNTRAINED else x["run"]["seed"]) for x in used
    ]
    runs = pandas.DataFrame(correct, columns=pandas.MultiIndex.from_tuples(names))
    return Answers(items, runs, {row["row"]: base_of(row) for row in grid["rows"]})


def scores_by_row(answers: Answers) -> dict[tuple[str, str], Score]:
    """What each row scored on each task, and on those that count (`ALL`), with its errors.

    Items that ask for one fact stand or fall together, over tasks too, so that a fact counts once.

    Args:
        answers: of all tasks.

    Returns:
        (row, task) -> score in percent; errors are NaN where a task has too few facts for one.
    """
    counted = answers.counted()
    parts = {ALL: counted}
    for task in answers.items["task"].unique():
        chosen = (answers.items["task"] == task).to_numpy()
        parts[task] = answers._replace(items=answers.items[chosen], runs=answers.runs[chosen])
    return {(row, task): score for task, part in parts.items() for row, score in _scores(part).items()}


def _scores(answers: Answers) -> dict[str, Score]:
    """The score of each row on all of some answers."""
    runs, items = answers.runs, answers.items
    rows = runs.columns.get_level_values(0)
    try:
        influence = influence_of(runs.to_numpy(), items["fact"], items["task"])
    except ValueError:  # fewer facts than an error takes
        means = 100 * runs.groupby(items["task"].to_numpy()).mean().mean()
        return {row: Score(means[row].mean(), *[math.nan] * 3) for row in dict.fromkeys(rows)}
    found = {}
    for row in dict.fromkeys(rows):
        part = influence.weighted(numpy.eye(len(rows))[:, rows == row])
        errors = errors_of(part)
        found[row] = Score(100 * float(part.means.mean()), *(100 * error for error in errors))
    return found
