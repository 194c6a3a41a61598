"""How far each row of a grid lies above one of its rows, most often the untouched base.

items.parquet of two runs  --differences-->  gains over one row, paired by item and seed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas

from bslora_kit.tables.answers import Answers, answers_of
from bslora_kit.tables.contrasts import Contrast, contrasts_of
from bslora_kit.tables.results import base_of, names_of, untrained_rows


def differences(
    results: Sequence[Mapping[str, Any]], grid: Mapping[str, Any], against: str | None = None
) -> pandas.DataFrame:
    """Each row's gain in the mean of the eight tasks over one row, paired by item and seed.

    Args:
        results: from `read_results`; their folders hold items.parquet.
        grid: the grid file.
        against: name of the row to compare with; by default the untrained row on the same base model.
            An untrained row serves every seed.

    Returns:
        Columns row, method, against (the row compared with), difference (points), low, high (95 %
        interval as in `contrasts`), p_value, seeds (pairs); rows without a common seed, or without a
        row to compare with, are left out.

    Raises:
        ValueError: if `against` has no result.
    """
    done = {result["run"]["row"] for result in results}
    if against is not None and against not in done:
        raise ValueError(f"row {against!r} has no result to compare with; there are {sorted(done)}")
    answers = answers_of(results, grid)
    return gains_of(answers and answers.counted(), grid, against)


def gains_of(
    answers: Answers | None, grid: Mapping[str, Any], against: str | None = None
) -> pandas.DataFrame:
    """`differences` of answers that were read before, those that count; None where there are none."""
    bases = untrained_rows(grid)
    asked = []
    for row in grid["rows"]:
        other = bases.get(base_of(row)) if against is None else against
        if other is not None and row["row"] != other:
            asked.append(Contrast(row["row"], other, (row["row"],), (other,)))
    found = contrasts_of(answers, asked).rename(columns={"a": "row", "b": "against"})
    methods = names_of(grid["rows"])
    columns = ["row", "method", "against", "difference", "low", "high", "p_value", "seeds"]
    return found.assign(method=found["row"].map(methods))[columns]
