"""What a table's learning rates are, and which rows they may have failed.

rates_in_words     where the rates of a grid come from, as its results say
searches           the search behind each of them
rate_doubts        what tells that a rate was wrong
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas

from bslora_kit.jobs.parameters import UNTRAINED
from bslora_kit.jobs.rates import GIVEN, OF_PROFILE, PUBLISHED, origins_of, rate_key, search_of

_NAMED = 3  # rows that a sentence names; more are counted


def rate_doubts(
    results: Sequence[Mapping[str, Any]], table: pandas.DataFrame, pairs: pandas.DataFrame
) -> list[str]:
    """What tells of a wrong learning rate: rows below a smaller one of their kind, losses that rose.

    Args:
        results: from `results.read_results`.
        table: from `results.table`.
        pairs: from `pairs.comparisons`.
    """
    named = set(table["row"])
    kinds = {row: kind for row, kind in kinds_of(results).items() if row in named}
    sizes = table.set_index("row").loc[list(kinds), "parameters"]
    smaller = [
        any(kinds[other] == kind and sizes[other] < sizes[row] for other in kinds)
        for row, kind in kinds.items()
    ]
    said = [
        f"{sum(smaller)} of {len(kinds)} trained rows have a smaller one of their method and place to "
        "be compared with."
    ]
    if any(smaller):
        said += falling_in_words(falling_rows(table, pairs, kinds))
    return said + risen_in_words([x for x in results if x["run"]["row"] in named])


def kinds_of(results: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """Trained row -> its base model and what has a rate of its own (`rates.rate_key`).

    Args:
        results: from `results.read_results`.
    """
    trained = [x["run"] for x in results if x["run"]["method"] != UNTRAINED]
    return {run["row"]: (run["base_model"], rate_key(run)) for run in trained}


def falling_rows(
    table: pandas.DataFrame, pairs: pandas.DataFrame, kinds: Mapping[str, Any]
) -> pandas.DataFrame:
    """Rows that are distinguishably below a row of their kind with fewer parameters.

    More parameters of one kind should not hurt, so such a row tells of its learning rate or its steps
    before it tells of its method.

    Args:
        table: from `results.table`.
        pairs: from `pairs.comparisons`.
        kinds: row -> kind, as `kinds_of` gives them.

    Returns:
        Columns row, below (the smaller row), points (negative), lr, lr_below (of the smaller row); one
        row for each such pair.
    """
    rows = table.set_index("row")
    found = []
    for pair in pairs[pairs["distinguishable"]].itertuples():
        low, high = (pair.a, pair.b) if pair.difference < 0 else (pair.b, pair.a)
        same = low in kinds and kinds[low] == kinds.get(high)
        if same and rows.loc[low, "parameters"] > rows.loc[high, "parameters"]:
            rates = rows.loc[[low, high], "lr"]
            found.append((low, high, -abs(pair.difference), *rates))
    return pandas.DataFrame(found, columns=["row", "below", "points", "lr", "lr_below"])


def falling_in_words(falling: pandas.DataFrame) -> list[str]:
    """What rows below a smaller one of their kind may tell of, by the learning rates of both.

    Args:
        falling: from `falling_rows`.
    """
    if not len(falling):
        return ["None of them lies distinguishably below it."]
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


def risen_in_words(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows some of whose seeds ended with a higher training loss than they began with.

    Args:
        results: from `results.read_results`.
    """
    seeds: dict[str, dict[int, bool]] = {}  # row -> seed -> whether its loss rose
    rates: dict[str, float] = {}
    for result in results:
        first, last = (result["train"].get(name) for name in ("loss_first", "loss_last"))
        if first is not None and last is not None:
            row = result["run"]["row"]
            seeds.setdefault(row, {})[result["run"]["seed"]] = last > first
            rates[row] = result["run"]["lr"]
    said = []
    for row, rose in seeds.items():
        failed = sorted(seed for seed, high in rose.items() if high)
        if failed:
            said.append(
                f"{row}: the training loss ended higher than it began with seed"
                f"{'s' if len(failed) > 1 else ''} {', '.join(map(str, failed))} of {len(rose)}: its "
                f"rate {rates[row]:g} is too high for them, and its mean is of runs that failed."
            )
    return said


def searches(results: Sequence[Mapping[str, Any]]) -> pandas.DataFrame:
    """The search that each row's learning rate comes from, as text.

    Args:
        results: from `results.read_results`.

    Returns:
        Columns row, rate, searched with (the row that was tried; its ranks need not be these), and
        scores on the validation split: every rate that was tried; rows whose search is not known are
        left out.
    """
    found = []
    for run in {x["run"]["row"]: x["run"] for x in results}.values():
        entry = search_of(run)
        if entry is None:
            continue
        tried = [f"{rate:g}: {score:.1f}" for rate, score in sorted(entry.get("scores", {}).items())]
        tried += [f"{rate:g}: diverged" for rate in entry.get("diverged", [])]
        found.append((run["row"], f"{run['lr']:g}", entry.get("row", ""), ", ".join(tried)))
    return pandas.DataFrame(found, columns=["row", "rate", "searched with", "scores by rate"])


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
