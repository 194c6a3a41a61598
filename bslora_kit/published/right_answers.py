"""The unrounded scores behind a printed one, and the binomial error of its run.

A score is k right answers of n items, so a printed percentage stands for few values of k, or for none.
From these follow the means that a row can have: printed digits alone would allow more. Number of items:
`printed.ITEMS`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import fmean

from bslora_kit.published.printed import ITEMS

ROUNDING = 0.005 + 1e-9  # half a unit of the second decimal, and the error of floating point

Interval = tuple[float, float]


def attainable(printed: float, items: int) -> list[float]:
    """The percentages k / n that are printed so; empty if no number of right answers gives it."""
    first = math.floor((printed - ROUNDING) * items / 100)
    last = math.ceil((printed + ROUNDING) * items / 100)
    values = [100 * k / items for k in range(max(first, 0), min(last, items) + 1)]
    return [value for value in values if abs(value - printed) <= ROUNDING]


def score_interval(task: str, printed: float) -> Interval:
    """Least and largest unrounded score behind a printed one."""
    values = attainable(printed, ITEMS[task])
    return (values[0], values[-1]) if values else rounded(printed)


def mean_of_intervals(intervals: Iterable[Interval]) -> Interval:
    """Interval of the mean of values that each lie in an interval of their own."""
    lows, highs = zip(*intervals, strict=True)
    return fmean(lows), fmean(highs)


def rounded(printed: float) -> Interval:
    """The values that two decimals stand for."""
    return printed - ROUNDING, printed + ROUNDING


def agrees(printed: float, interval: Interval) -> bool:
    """Whether a printed number is the rounding of some value in an interval."""
    return interval[0] - ROUNDING <= printed <= interval[1] + ROUNDING


def score_error(task: str, percent: float) -> float:
    """Binomial standard error of one run's score, in points."""
    return math.sqrt(percent * (100 - percent) / ITEMS[task])


def mean_error(scores: Mapping[str, float]) -> float:
    """Binomial standard error of the plain mean of one run's scores, in points."""
    return math.hypot(*(score_error(task, score) for task, score in scores.items())) / len(scores)
