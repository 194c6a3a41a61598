"""What the runs of a grid answered, item by item: the ground of all comparisons.

items.parquet of each run  --answers_of-->  [items, runs], matched by item
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas

from bslora_kit.jobs.parameters import UNTRAINED
from bslora_kit.statistics import matched
from bslora_kit.tables.results import base_of, items_of

ANY = -1  # the seed of an untrained row


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
        ValueError: if runs did not answer the same items.
    """
    order = [row["row"] for row in grid["rows"]]
    used = sorted(
        (x for x in results if x["run"]["row"] in order), key=lambda x: order.index(x["run"]["row"])
    )
    if not used:
        return None
    items, correct = matched(
        {f"run {x['run']['row']}, seed {x['run']['seed']}": items_of(x) for x in used}
    )
    names = [
        (x["run"]["row"], ANY if x["run"]["method"] == UNTRAINED else x["run"]["seed"]) for x in used
    ]
    runs = pandas.DataFrame(correct, columns=pandas.MultiIndex.from_tuples(names))
    return Answers(items, runs, {row["row"]: base_of(row) for row in grid["rows"]})
