"""How far each row of a grid lies above one of its rows, most often the untouched base.

items.parquet of two runs  --differences-->  gains over one row, paired by item and seed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas

from bslora_kit.statistics import paired_over_seeds
from bslora_kit.tables.results import base_of, items_of, row_label, untrained_rows


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
        interval, clustered by fact), p_value, seeds (pairs); rows without a common seed, or without a
        row to compare with, are left out.

    Raises:
        ValueError: if `against` has no result.
    """
    runs: dict[str, dict[int, Mapping[str, Any]]] = {}
    for result in results:
        runs.setdefault(result["run"]["row"], {})[result["run"]["seed"]] = result
    if against is not None and against not in runs:
        raise ValueError(f"row {against!r} has no result to compare with; there are {sorted(runs)}")
    bases = untrained_rows(grid)
    rows = []
    for row in grid["rows"]:
        other = bases.get(base_of(row)) if against is None else against
        found, reference = runs.get(row["row"], {}), runs.get(other, {})
        untrained = other in bases.values()
        seeds = sorted(found) if untrained and reference else sorted(set(found) & set(reference))
        if row["row"] == other or not seeds:
            continue
        pairs = [
            (items_of(found[seed]), items_of(reference.get(seed, next(iter(reference.values())))))
            for seed in seeds
        ]
        gain = paired_over_seeds(pairs)
        points = {name: 100 * getattr(gain, name) for name in ("difference", "low", "high")}
        rows.append(
            {
                "row": row["row"],
                "method": row_label(row),
                "against": other,
                **points,
                "p_value": gain.p_value,
                "seeds": len(seeds),
            }
        )
    columns = ["row", "method", "against", "difference", "low", "high", "p_value", "seeds"]
    return pandas.DataFrame(rows, columns=columns)
