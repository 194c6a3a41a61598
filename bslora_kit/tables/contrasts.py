"""A few comparisons that were asked before the results were seen, of rows or of groups of rows.

    contrasts(results, grid, [Contrast("MLP", "Attention", ("mlp-ss", "mlp-gt"), ("attention-ss", ...))])

Both sides answer the same items with the same seeds; a group's answer to an item is the mean of its
rows'. All numbers are in points. "Not distinguishable" means that the p value, adjusted over the
contrasts asked together, is not below 0.05; it does not mean equal: `smallest` says how large a true
difference these runs would have shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy
import pandas

from bslora_kit.jobs.parameters import UNTRAINED
from bslora_kit.statistics import crossed_difference, holm, matched, smallest_difference
from bslora_kit.tables.results import items_of

SIGNIFICANT = 0.05  # largest chance of any false "distinguishable" among contrasts asked together
POWER = 0.8  # chance of seeing a difference of the size in column smallest
_ONE_SEED = "One seed: this holds for these runs and says nothing of others."
_COLUMNS = (
    "a",
    "b",
    "difference",
    "low",
    "high",
    "p_value",
    "stderr",
    "stderr_items",
    "stderr_seeds",
    "freedom",
    "smallest",
    "seeds",
)


class Contrast(NamedTuple):
    """Which rows of a grid are compared, and what both sides are called."""

    a: str
    b: str
    rows_a: tuple[str, ...]
    rows_b: tuple[str, ...]


def contrasts(
    results: Sequence[Mapping[str, Any]], grid: Mapping[str, Any], asked: Sequence[Contrast]
) -> pandas.DataFrame:
    """Differences on the mean of the eight tasks, or on MMLU where nothing else was scored.

    Args:
        results: from `results.read_results`; their folders hold items.parquet.
        grid: the grid file; an untrained row serves every seed.
        asked: what is compared with what.

    Returns:
        One row a contrast, in the order asked. a, b; difference (a minus b), low, high: 95 % interval,
        clustered by fact; p_value; stderr, stderr_items, stderr_seeds, and the freedom of the interval;
        smallest: the true difference that is seen in 8 of 10 such comparisons, unadjusted; seeds: that
        both sides have; p_holm: adjusted over all; distinguishable: p_holm below 0.05. Contrasts without
        a common seed are left out.

    Raises:
        ValueError: if runs did not answer the same items, or hold too few for an interval.
    """
    answers, items = _answers(results, grid)
    rows = []
    for contrast in asked:
        seeds = _common_seeds(answers, (*contrast.rows_a, *contrast.rows_b))
        if not seeds:
            continue
        columns = [
            _mean(answers, contrast.rows_a, seed) - _mean(answers, contrast.rows_b, seed)
            for seed in seeds
        ]
        found = crossed_difference(numpy.stack(columns, axis=1), items["fact"], items["task"])
        rows.append(
            {
                "a": contrast.a,
                "b": contrast.b,
                "difference": 100 * found.difference,
                "low": 100 * found.low,
                "high": 100 * found.high,
                "p_value": found.p_value,
                "stderr": 100 * found.standard_error,
                "stderr_items": 100 * found.error_items,
                "stderr_seeds": 100 * found.error_seeds,
                "freedom": found.freedom,
                "smallest": smallest_difference(100 * found.standard_error, found.freedom, POWER),
                "seeds": len(seeds),
            }
        )
    frame = pandas.DataFrame(rows, columns=list(_COLUMNS))
    frame["p_holm"] = holm(frame["p_value"]) if len(frame) else numpy.array([], float)
    frame["distinguishable"] = frame["p_holm"] < SIGNIFICANT
    return frame


def verdicts(found: pandas.DataFrame) -> list[str]:
    """What contrasts say, one sentence each.

    Args:
        found: from `contrasts`.
    """
    said = [] if len(found) else ["Nothing to compare: the two sides have no finished seed in common."]
    for row in found.itertuples():
        numbers = f"{row.difference:+.1f} points, 95 % interval {row.low:+.1f} to {row.high:+.1f}"
        if row.distinguishable:
            order = "above" if row.difference > 0 else "below"
            said.append(f"{row.a} is {order} {row.b}: {numbers}.")
        else:
            said.append(
                f"{row.a} and {row.b} are not distinguishable: {numbers}; a true difference of "
                f"{row.smallest:.1f} points would have shown in 8 of 10 such comparisons."
            )
        if row.seeds == 1:
            said[-1] += f" {_ONE_SEED}"
    return said


def summary(found: pandas.DataFrame) -> str:
    """What many contrasts say together, in a few sentences.

    Args:
        found: from `contrasts`, at least one.
    """
    told = [
        f"{row.a} {'above' if row.difference > 0 else 'below'} {row.b} ({row.difference:+.1f})"
        for row in found[found["distinguishable"]].itertuples()
    ]
    level = len(found) - len(told)
    said = f"{len(told)} of {len(found)} comparisons are distinguishable, Holm over the {len(found)}"
    said += f": {'; '.join(told)}." if told else "."
    said = (
        f"{said} {level} {'is' if level == 1 else 'are'} not distinguishable; a true difference of "
        f"{found['smallest'].min():.1f} to {found['smallest'].max():.1f} points would have shown in "
        "8 of 10 such comparisons."
    )
    return f"{said} {_ONE_SEED}" if (found["seeds"] == 1).any() else said


def smallest_of(found: pandas.DataFrame, comparisons: int = 1) -> pandas.Series:
    """The true difference that each comparison shows in 8 of 10 cases, in points.

    Args:
        found: from `contrasts` or `pairs.comparisons`.
        comparisons: how many are made together; at Holm's first step each has to pass 0.05 divided by
            their number.
    """
    level = 1 - SIGNIFICANT / comparisons
    sizes = [smallest_difference(row.stderr, row.freedom, POWER, level) for row in found.itertuples()]
    return pandas.Series(sizes, found.index, dtype=float)


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


def _common_seeds(
    answers: Mapping[str, Mapping[int | None, Any]], rows: Sequence[str]
) -> list[int | None]:
    """Seeds that all rows have; none if one has not run, [None] if all are untrained."""
    if any(row not in answers for row in rows):
        return []
    trained = [set(answers[row]) for row in rows if None not in answers[row]]
    return sorted(set.intersection(*trained)) if trained else [None]


def _mean(
    answers: Mapping[str, Mapping[int | None, numpy.ndarray]], rows: Sequence[str], seed: int | None
) -> numpy.ndarray:
    """How far each item is right, over the rows of one side."""
    runs = [answers[row][None if None in answers[row] else seed] for row in rows]
    return numpy.mean(runs, axis=0)
