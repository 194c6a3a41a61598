"""Every row of a table against every other: which differences exceed the noise, and which ranks follow.

    items.parquet of all runs --comparisons--> all pairs, paired by item and seed, Holm over the table
                              --rank_sets-->   the places that each row may hold

"Not distinguishable" means that a pair's p value, adjusted over all pairs, is not below 0.05. It does
not mean equal: `smallest` says how large a difference the runs would have shown. Numbers are in points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy
import pandas

from bslora_kit.jobs.parameters import UNTRAINED
from bslora_kit.results import items_of, row_label
from bslora_kit.statistics import crossed_difference, holm, matched, smallest_difference

SIGNIFICANT = 0.05  # largest chance of any false "distinguishable" in a table
POWER = 0.8  # chance of seeing a difference of the size in column smallest
COLUMNS = (
    "a",
    "b",
    "method_a",
    "method_b",
    "difference",
    "low",
    "high",
    "p_value",
    "p_holm",
    "stderr",
    "stderr_items",
    "stderr_seeds",
    "smallest",
    "seeds",
    "distinguishable",
)


def comparisons(results: Sequence[Mapping[str, Any]], grid: Mapping[str, Any]) -> pandas.DataFrame:
    """All pairs of rows on the mean of the eight tasks, or on MMLU where nothing else was scored.

    Args:
        results: from `results.read_results`; their folders hold items.parquet.
        grid: the grid file; an untrained row serves every seed.

    Returns:
        One row a pair, in the grid's order. a, b: names of the rows; method_a, method_b; difference
        (a minus b), low, high: 95 % interval, clustered by fact; p_value; p_holm: adjusted over all
        pairs; stderr, stderr_items, stderr_seeds; smallest: the true difference that this pair shows in
        8 of 10 such comparisons, unadjusted; seeds: pairs of runs; distinguishable: p_holm below 0.05.
        Pairs without a common seed are left out.

    Raises:
        ValueError: if runs did not answer the same items, or hold too few for an interval.
    """
    answers, items = _answers(results, grid)
    methods = {row["row"]: row_label(row) for row in grid["rows"]}
    rows = []
    for one, other in combinations(answers, 2):
        seeds = _common_seeds(answers[one], answers[other])
        if not seeds:
            continue
        columns = [_run(answers[one], seed) - _run(answers[other], seed) for seed in seeds]
        found = crossed_difference(numpy.stack(columns, axis=1), items["fact"], items["task"])
        rows.append(
            {
                "a": one,
                "b": other,
                "method_a": methods[one],
                "method_b": methods[other],
                "difference": 100 * found.difference,
                "low": 100 * found.low,
                "high": 100 * found.high,
                "p_value": found.p_value,
                "stderr": 100 * found.standard_error,
                "stderr_items": 100 * found.error_items,
                "stderr_seeds": 100 * found.error_seeds,
                "smallest": smallest_difference(100 * found.standard_error, found.freedom, POWER),
                "seeds": len(seeds),
            }
        )
    frame = pandas.DataFrame(
        rows, columns=[x for x in COLUMNS if x not in ("p_holm", "distinguishable")]
    )
    frame["p_holm"] = holm(frame["p_value"]) if len(frame) else numpy.array([], float)
    frame["distinguishable"] = frame["p_holm"] < SIGNIFICANT
    return frame[list(COLUMNS)]


def rank_sets(table: pandas.DataFrame, pairs: pandas.DataFrame) -> pandas.DataFrame:
    """The places that each row of a table may hold, as far as its runs can tell.

    A row stands behind as many rows as are distinguishably better, and before as many as are
    distinguishably worse; all places between are open. With Holm's adjustment all sets hold the true
    places together in 95 of 100 tables (Mogstad, Romano, Shaikh & Wilhelm, Review of Economic Studies
    2024).

    Args:
        table: from `results.table`; rows without a mean have no place.
        pairs: from `comparisons`.

    Returns:
        Columns row, first, last (places, 1 is best), places ("1" or "1-4"), and level_with: the rows
        that it cannot be told from, as text, the best first.
    """
    means = table.dropna(subset=["mean"]).set_index("row")["mean"].sort_values(ascending=False)
    better = {row: set() for row in means.index}  # row -> rows distinguishably better
    worse = {row: set() for row in means.index}
    for pair in pairs[pairs["distinguishable"]].itertuples():
        up, down = (pair.a, pair.b) if pair.difference > 0 else (pair.b, pair.a)
        if up in worse and down in better:
            worse[up].add(down)
            better[down].add(up)
    rows = []
    for row in (name for name in table["row"] if name in means.index):
        first, last = 1 + len(better[row]), len(means) - len(worse[row])
        level = [x for x in means.index if x != row and x not in better[row] | worse[row]]
        places = str(first) if first == last else f"{first}-{last}"
        rows.append(
            {"row": row, "first": first, "last": last, "places": places, "level_with": ", ".join(level)}
        )
    return pandas.DataFrame(rows, columns=["row", "first", "last", "places", "level_with"])


def with_places(table: pandas.DataFrame, pairs: pandas.DataFrame) -> pandas.DataFrame:
    """A table with the columns places and against_best: "best", "not distinguishable" or "below"."""
    sets = rank_sets(table, pairs).set_index("row")
    if not len(pairs) or not len(sets):
        return table.assign(places=None, against_best=None)
    leader = table.loc[table["mean"].idxmax(), "row"]
    level = set(sets.loc[leader, "level_with"].split(", "))
    words = {row: "not distinguishable" if row in level else "below" for row in sets.index}
    words[leader] = "best"
    return table.assign(places=table["row"].map(sets["places"]), against_best=table["row"].map(words))


def against(pairs: pandas.DataFrame, row: str) -> pandas.DataFrame:
    """The pairs that one row is in, as the other rows less this one.

    Returns:
        Columns row, method, difference, low, high, p_holm, seeds, distinguishable, the highest first.
    """
    swapped = pairs[pairs["a"] == row]
    turned = swapped.assign(
        row=swapped["b"],
        method=swapped["method_b"],
        difference=-swapped["difference"],
        low=-swapped["high"],
        high=-swapped["low"],
    )
    straight = pairs[pairs["b"] == row]
    straight = straight.assign(row=straight["a"], method=straight["method_a"])
    columns = ["row", "method", "difference", "low", "high", "p_holm", "seeds", "distinguishable"]
    return pandas.concat([turned, straight])[columns].sort_values(
        "difference", ascending=False, ignore_index=True
    )


def in_words(table: pandas.DataFrame, pairs: pandas.DataFrame) -> list[str]:
    """What the comparisons of a table say, in sentences.

    Args:
        table: from `results.table`.
        pairs: from `comparisons`.
    """
    if not len(pairs):
        return []
    told = int(pairs["distinguishable"].sum())
    said = [
        f"{told} of {len(pairs)} pairs of rows are distinguishable (paired by item and seed, clustered "
        f"by fact, Holm over the table); the other {len(pairs) - told} are not distinguishable.",
        f"Smallest true difference that a pair shows in 8 of 10 such comparisons, before Holm: "
        f"{pairs['smallest'].min():.1f} to {pairs['smallest'].max():.1f} points.",
    ]
    if table["mean"].notna().any():
        best = table.loc[table["mean"].idxmax()]
        level = rank_sets(table, pairs).set_index("row").loc[best["row"], "level_with"]
        name = f"{best['method']} {best['ranks']}".strip()
        said.append(f"Highest mean: {name}. Not distinguishable from it: {level or 'no row'}.")
    return said


def seed_scores(results: Sequence[Mapping[str, Any]], grid: Mapping[str, Any]) -> pandas.DataFrame:
    """One row a run: row, method, seed, mean (percent, NaN where not all eight tasks were scored)."""
    order = {row["row"]: row_label(row) for row in grid["rows"]}
    runs = sorted(
        (x for x in results if x["run"]["row"] in order),
        key=lambda x: (list(order).index(x["run"]["row"]), x["run"]["seed"]),
    )
    rows = [
        {
            "row": x["run"]["row"],
            "method": order[x["run"]["row"]],
            "seed": x["run"]["seed"],
            "mean": math.nan if x["eval"]["mean"] is None else 100 * x["eval"]["mean"],
        }
        for x in runs
    ]
    return pandas.DataFrame(rows, columns=["row", "method", "seed", "mean"])


def _answers(
    results: Sequence[Mapping[str, Any]], grid: Mapping[str, Any]
) -> tuple[dict[str, dict[int | None, numpy.ndarray]], pandas.DataFrame]:
    """Row -> seed (None: any) -> correct [items], in the grid's order, and the items."""
    order = [row["row"] for row in grid["rows"]]
    used = sorted(
        (x for x in results if x["run"]["row"] in order), key=lambda x: order.index(x["run"]["row"])
    )
    runs = {f"run {x['run']['row']}, seed {x['run']['seed']}": items_of(x) for x in used}
    if not runs:
        return {}, pandas.DataFrame(columns=["task", "fact"])
    items, correct = matched(runs)
    answers: dict[str, dict[int | None, numpy.ndarray]] = {}
    for result, column in zip(used, correct.T, strict=True):
        run = result["run"]
        seed = None if run["method"] == UNTRAINED else run["seed"]
        answers.setdefault(run["row"], {})[seed] = column
    return answers, items


def _common_seeds(one: Mapping[int | None, Any], other: Mapping[int | None, Any]) -> list[int | None]:
    if None in one:
        return list(other)
    return list(one) if None in other else sorted(set(one) & set(other))


def _run(runs: Mapping[int | None, numpy.ndarray], seed: int | None) -> numpy.ndarray:
    return runs[None] if None in runs else runs[seed]
