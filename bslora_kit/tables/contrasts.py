"""A few comparisons that were asked before the results were seen, of rows or of groups of rows.

    contrasts(results, grid, [Contrast("MLP", "Attention", ("mlp-ss", "mlp-gt"), ("attention-ss", ...))])

Both sides answer the same items with the same seeds; a group's answer to an item is the mean of its
rows'. How much seeds move a score is estimated from all rows of the grid together (see
`statistics.seeds`). All numbers are in points. "Not distinguishable" means that the p value, adjusted
over the contrasts asked together, is not below 0.05; it does not mean equal: `smallest` says how large a
true difference these runs would have shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy
import pandas

from bslora_kit.statistics import (
    Influence,
    SeedNoise,
    holm,
    influence_of,
    interval_of,
    seed_noise,
    smallest_difference,
)
from bslora_kit.tables.answers import ANY, Answers, answers_of

HOLM_FIRST = " at Holm's first step"  # where the strictest of several comparisons has to pass
SIGNIFICANT = 0.05  # largest chance of any false "distinguishable" among contrasts asked together
POWER = 0.8  # chance of seeing a difference of the size in column smallest
ONE_SEED = (
    "One seed: this holds for these trained models on other items and says nothing of other seeds."
)
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
        both sides have; p_holm: adjusted over all; distinguishable: p_holm below 0.05. stderr_seeds is
        missing where no two rows have two seeds: all numbers are then about the trained models that are
        there. Contrasts without a common seed are left out.

    Raises:
        ValueError: if runs did not answer the same items, or hold too few for an interval.
    """
    answers = answers_of(results, grid)
    return contrasts_of(answers and answers.counted(), asked)


def contrasts_of(answers: Answers | None, asked: Sequence[Contrast]) -> pandas.DataFrame:
    """`contrasts` of answers that were read before, those that count; None where there are none."""
    if answers is None:
        return _frame([])
    names = list(answers.runs.columns)
    runs = influence_of(answers.runs.to_numpy(), answers.items["fact"], answers.items["task"])
    noise = _noise(answers, runs)
    rows = []
    for contrast in asked:
        seeds = answers.common_seeds(*contrast.rows_a, *contrast.rows_b)
        if not seeds:
            continue
        shares = {row: 1 / len(contrast.rows_a) for row in contrast.rows_a}
        for row in contrast.rows_b:
            shares[row] = shares.get(row, 0) - 1 / len(contrast.rows_b)
        weights = numpy.zeros((len(names), len(seeds)))
        for column, seed in enumerate(seeds):
            for row, share in shares.items():
                weights[names.index(answers.run(row, seed)), column] = share
        trained = {row: share for row, share in shares.items() if not answers.untrained(row)}
        known = noise.of(trained, len(seeds)) if noise and trained else None
        found = interval_of(runs.weighted(weights), known)
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
    return _frame(rows)


def conclusions(found: pandas.DataFrame) -> list[str]:
    """What contrasts say: the verdicts of up to three, a summary of more.

    Args:
        found: from `contrasts`.
    """
    return verdicts(found) if len(found) < 4 else [summary(found)]


def verdicts(found: pandas.DataFrame) -> list[str]:
    """What contrasts say, one sentence each.

    Args:
        found: from `contrasts`.
    """
    said = [] if len(found) else ["Nothing to compare: the two sides have no finished seed in common."]
    visible = smallest_of(found, len(found))
    for row in found.itertuples():
        numbers = f"{row.difference:+.1f} points, 95 % interval {row.low:+.1f} to {row.high:+.1f}"
        if row.distinguishable:
            order = "above" if row.difference > 0 else "below"
            said.append(f"{row.a} is {order} {row.b}: {numbers}.")
        else:
            said.append(
                f"{row.a} and {row.b} are not distinguishable: {numbers}; a true difference of "
                f"{size_of(visible[row.Index])} points would have shown in 8 of 10 such comparisons"
                f"{HOLM_FIRST if len(found) > 1 else ''}."
            )
        if math.isnan(row.stderr_seeds):
            said[-1] += f" {ONE_SEED}"
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
        f"{span_of(smallest_of(found, len(found)))} points would have shown in 8 of 10 such comparisons"
        f"{HOLM_FIRST}, of {span_of(found['smallest'])} if it had been the only one."
    )
    return " ".join([said, *one_seed(found)])


def one_seed(found: pandas.DataFrame) -> list[str]:
    """What has to be said of contrasts some or all of which know nothing of other seeds."""
    unknown = found["stderr_seeds"].isna()
    if unknown.any() and not unknown.all():
        return [f"Where the ± of seeds is empty: {ONE_SEED}"]
    return [ONE_SEED] * bool(unknown.any())


def span_of(values: pandas.Series) -> str:
    """The least and the largest of some points in words, once where they print the same.

    0 is left out where there are others: two adapters that answer everything alike have no noise.
    """
    values = values[values > 0] if (values > 0).any() else values
    ends = dict.fromkeys(size_of(value) for value in (values.min(), values.max()))
    return " to ".join(ends)


def size_of(points: float) -> str:
    """The size of a difference as text; no score differs from another by more than 100."""
    return f"{points:.1f}" if points <= 100 else "over 100"


def smallest_of(found: pandas.DataFrame, comparisons: int = 1) -> pandas.Series:
    """The true difference that each comparison shows in 8 of 10 cases, in points.

    Args:
        found: from `contrasts` or `pairs.comparisons`.
        comparisons: how many are made together; at Holm's first step each has to pass 0.05 divided by
            their number.
    """
    level = 1 - SIGNIFICANT / max(1, comparisons)
    sizes = [smallest_difference(row.stderr, row.freedom, POWER, level) for row in found.itertuples()]
    return pandas.Series(sizes, found.index, dtype=float)


def _noise(answers: Answers, runs: Influence) -> SeedNoise | None:
    """The noise of seeds over the trained rows; a seed is a block of the rows on one base model."""
    names = list(answers.runs.columns)
    trained = [number for number, (_, seed) in enumerate(names) if seed != ANY]
    if not trained:
        return None
    chosen = [names[number] for number in trained]
    part = runs.weighted(numpy.eye(len(names))[:, trained])
    blocks = [(answers.bases[row], seed) for row, seed in chosen]
    return seed_noise(part, [row for row, _ in chosen], blocks)


def _frame(rows: Sequence[Mapping[str, Any]]) -> pandas.DataFrame:
    frame = pandas.DataFrame(rows, columns=list(_COLUMNS))
    frame["p_holm"] = holm(frame["p_value"]) if len(frame) else numpy.array([], float)
    frame["distinguishable"] = frame["p_holm"] < SIGNIFICANT
    return frame
