"""What a table's learning rates are, and which rows they may have failed.

rates_in_words     where the rates of a grid come from, as its results say
falling_rows       rows below a smaller one of their method
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas

from bslora_kit.jobs.rates import GIVEN, OF_PROFILE, PUBLISHED, origins_of

_NAMED = 3  # rows that a sentence names; more are counted


def falling_rows(table: pandas.DataFrame, pairs: pandas.DataFrame) -> pandas.DataFrame:
    """Rows that are distinguishably below a row of their method with fewer parameters.

    More parameters of one kind should not hurt, so such a row tells of its learning rate or its steps
    before it tells of its method.

    Args:
        table: from `results.table`.
        pairs: from `pairs.comparisons`.

    Returns:
        Columns row, below (the smaller row), points (negative), lr, lr_below (of the smaller row); one
        row for each such pair.
    """
    rows = table.set_index("row")
    found = []
    for pair in pairs[pairs["distinguishable"]].itertuples():
        low, high = (pair.a, pair.b) if pair.difference < 0 else (pair.b, pair.a)
        same = rows.loc[low, "method"] == rows.loc[high, "method"]
        if same and rows.loc[low, "parameters"] > rows.loc[high, "parameters"]:
            rates = rows.loc[[low, high], "lr"]
            found.append((low, high, -abs(pair.difference), *rates))
    return pandas.DataFrame(found, columns=["row", "below", "points", "lr", "lr_below"])


def falling_in_words(falling: pandas.DataFrame) -> list[str]:
    """What rows below a smaller one of their method may tell of, by the learning rates of both.

    Args:
        falling: from `falling_rows`.
    """
    if not len(falling):
        return ["No row lies distinguishably below a smaller row of its method."]
    said = []
    for row, pairs in falling.groupby("row", sort=False):
        lower = pairs[pairs["lr"] < pairs["lr_below"]]
        words = (
            f"with a lower rate than {_list(lower['below'])}, which may be too low for these steps"
            if len(lower)
            else "with no lower a rate, though an update of more ranks moves farther at one rate"
        )
        said.append(f"{row} (rate {pairs['lr'].iloc[0]:g}) lies below {_list(pairs['below'])}, {words}.")
    return said


def rates_in_words(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where the learning rates of a grid come from, one sentence an origin, and which rows have it.

    Args:
        results: from `results.read_results`.
    """
    words = {
        GIVEN: "given with the row or on the command line",
        OF_PROFILE: "one rate of the profile for all methods",
        PUBLISHED: "the published one for all methods",
    }
    said = []
    for origin, rates in origins_of(result["run"] for result in results).items():
        ends = dict.fromkeys(f"{rate:g}" for rate in (min(rates.values()), max(rates.values())))
        rows = ", ".join(rates) if len(rates) <= _NAMED else f"{len(rates)} rows"
        said.append(f"Learning rate of {rows}: {words.get(origin, origin)}; {' to '.join(ends)}.")
    return said


def _list(names: pandas.Series) -> str:
    return ", ".join(names)
