"""The finished runs of a grid with everything that is computed from them, once.

results --Finished.of--> table, cells, pairs, gains, seeds and sentences --> page, files, notebook
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas

from bslora_kit.tables.cells import cells
from bslora_kit.tables.gains import differences
from bslora_kit.tables.notes import about
from bslora_kit.tables.pairs import comparisons, in_words, seed_scores, with_places
from bslora_kit.tables.results import table


@dataclass(frozen=True)
class Finished:
    """The runs of a grid that are done.

    Attributes:
        title: of the grid.
        grid: {"rows": ...} as `results.table` takes it.
        results: from `results.read_results`.
        table: from `results.table`; with the places of `pairs.with_places` where rows could be compared.
        cells: from `cells.cells`.
        seeds: from `pairs.seed_scores`.
        pairs, gains: from `pairs.comparisons` and `gains.differences`; None where rows could not be
            compared.
        problem: why they could not; "" where they could.
    """

    title: str
    grid: Mapping[str, Any]
    results: Sequence[Mapping[str, Any]]
    table: pandas.DataFrame
    cells: pandas.DataFrame
    seeds: pandas.DataFrame
    pairs: pandas.DataFrame | None
    gains: pandas.DataFrame | None
    problem: str

    @classmethod
    def of(cls, title: str, grid: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> Finished:
        """Computes all of it.

        Raises:
            ValueError: if the results do not belong into one table.
        """
        frame, pairs, gains, problem = table(results, grid), None, None, ""
        try:
            pairs = comparisons(results, grid)
            gains = differences(results, grid)
            frame = with_places(frame, pairs)
        except ValueError as error:  # too few items for an interval, or none beside a result
            pairs, problem = None, str(error)
        return cls(
            title,
            grid,
            results,
            frame,
            cells(results, grid),
            seed_scores(results, grid),
            pairs,
            gains,
            problem,
        )

    @property
    def lines(self) -> list[str]:
        """What a reader must know of the table, and what its comparisons say."""
        compared = [] if self.pairs is None else in_words(self.table, self.pairs)
        missing = [f"No paired differences: {self.problem}."] if self.problem else []
        return about(self.results, self.table) + compared + missing
