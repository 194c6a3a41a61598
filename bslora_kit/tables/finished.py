"""The finished runs of a grid with everything that is computed from them, once.

results --Finished.of--> table, cells, pairs, gains, seeds and sentences --> page, files, notebook
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas

from bslora_kit.tables.answers import Answers, answers_of, scores_by_row
from bslora_kit.tables.cells import cells, with_errors
from bslora_kit.tables.contrasts import Contrast, contrasts_of
from bslora_kit.tables.gains import gains_of
from bslora_kit.tables.notes import about
from bslora_kit.tables.pairs import comparisons_of, in_words, seed_scores, with_places
from bslora_kit.tables.results import runs_by_row, table


@dataclass(frozen=True, eq=False)
class Finished:
    """The runs of a grid that are done.

    Attributes:
        title: of the grid.
        grid: {"rows": ...} as `results.table` takes it.
        results: from `results.read_results`, those of the grid's rows.
        table: from `results.table`; with errors that are clustered by fact and the places of
            `pairs.with_places` where rows could be compared.
        cells: from `cells.cells`, errors as in the table.
        seeds: from `pairs.seed_scores`.
        answers: from `answers.answers_of`, those that count.
        pairs, gains: from `pairs.comparisons` and `gains.differences`. These and answers are None where
            rows could not be compared.
        problem: why they could not; "" where they could.
    """

    title: str
    grid: Mapping[str, Any]
    results: Sequence[Mapping[str, Any]]
    table: pandas.DataFrame
    cells: pandas.DataFrame
    seeds: pandas.DataFrame
    answers: Answers | None = None
    pairs: pandas.DataFrame | None = None
    gains: pandas.DataFrame | None = None
    problem: str = ""

    @classmethod
    def of(cls, title: str, grid: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> Finished:
        """Computes all of it.

        Raises:
            ValueError: if the results do not belong into one table.
        """
        results = [x for runs in runs_by_row(results, grid).values() for x in runs]
        frame, seeds = table(results, grid), seed_scores(results, grid)
        try:
            answers = answers_of(results, grid)
            if answers is None:
                raise ValueError("no run is done")
            counted, scores = answers.counted(), scores_by_row(answers)
            pairs, gains = comparisons_of(counted, grid), gains_of(counted, grid)
        except ValueError as error:  # too few items for an interval, or none beside a result
            bare = cells(results, grid)
            return cls(title, grid, results, frame, bare, seeds, problem=str(error))
        frame = with_places(with_errors(frame, scores), pairs)
        found = cells(results, grid, scores)
        return cls(title, grid, results, frame, found, seeds, counted, pairs, gains)

    def contrasts(self, asked: Sequence[Contrast]) -> pandas.DataFrame:
        """`contrasts.contrasts` of these runs, which could be compared."""
        return contrasts_of(self.answers, asked)

    @cached_property
    def notes(self) -> list[str]:
        """What a reader must know of the table."""
        return about(self.results, self.table, clustered=self.answers is not None)

    @cached_property
    def lines(self) -> list[str]:
        """The notes, and what the comparisons of the table say."""
        compared = [] if self.pairs is None else in_words(self.table, self.pairs)
        missing = [f"No paired differences: {self.problem.rstrip('.')}."] if self.problem else []
        return self.notes + compared + missing
