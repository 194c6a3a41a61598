"""Tests of counts and of many p values, and what a comparison could have seen."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy
import scipy.special
import scipy.stats
from numpy.typing import ArrayLike

from bslora_kit.statistics.checks import numbers, t_quantile


class MeanInterval(NamedTuple):
    """A mean with its t interval; error and interval are NaN for a single value."""

    mean: float
    standard_error: float
    low: float
    high: float


class McNemar(NamedTuple):
    """Items that only A or only B has right, and the exact two-sided p value of 50 : 50."""

    only_a: int
    only_b: int
    p_value: float


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> McNemar:
    """McNemar's exact test on the items that only one of two runs has right.

    It takes items as independent; prefer `paired_difference` where facts are asked more than once.

    Raises:
        ValueError: for other lengths or values that are missing.
    """
    a, b = numbers("correct_a", correct_a), numbers("correct_b", correct_b)
    if a.shape != b.shape:
        raise ValueError(f"correct_a has {len(a)} items and correct_b {len(b)}; pass the same items")
    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    if only_a + only_b == 0:
        return McNemar(0, 0, 1.0)
    return McNemar(only_a, only_b, float(scipy.stats.binomtest(only_a, only_a + only_b).pvalue))


def holm(p_values: ArrayLike) -> numpy.ndarray:
    """p values of several tests, adjusted by Holm's step-down method.

    Rejecting where the adjusted value is below 0.05 keeps the chance of any false rejection in the whole
    table below 5 %, however the tests depend on each other (Holm 1979).

    Raises:
        ValueError: for no value, or values that are missing or outside [0, 1].
    """
    values = numbers("p_values", p_values)
    if (values < 0).any() or (values > 1).any():
        raise ValueError(f"p_values holds {values[(values < 0) | (values > 1)][0]}, not a probability")
    from statsmodels.stats.multitest import multipletests  # a second to load, for tables only

    return multipletests(values, method="holm")[1]


def smallest_difference(
    standard_error: float, freedom: float, power: float = 0.8, level: float = 0.95
) -> float:
    """The smallest true difference that a comparison with this error finds with a given chance.

    From the noncentral t distribution of a two-sided test; a result in the wrong direction, which
    has no weight at such a difference, does not count as found.

    Args:
        standard_error: of the difference, as `PairedDifference.standard_error`; the result has its unit.
        freedom: its degrees of freedom.
        power: the chance that the interval excludes 0.
        level: of the interval.

    Raises:
        ValueError: for a negative error, or a chance that is not between 1 - level and 1.
    """
    if not standard_error >= 0:
        raise ValueError(f"standard_error is {standard_error}; expected a number of at least 0")
    critical = t_quantile(level, freedom)
    if not 1 - level < power < 1:
        raise ValueError(f"power is {power}; expected a chance above {1 - level:.2g} and below 1")

    return standard_error * float(scipy.special.nctdtrinc(freedom, 1 - power, critical))


def mean_interval(values: ArrayLike, level: float = 0.95) -> MeanInterval:
    """The mean of independent values (the scores of several seeds) with its t interval.

    Raises:
        ValueError: for no value or values that are missing.
    """
    values = numbers("values", values)
    mean = float(values.mean())
    if len(values) == 1:
        return MeanInterval(mean, math.nan, math.nan, math.nan)
    error = float(scipy.stats.sem(values))
    half = t_quantile(level, len(values) - 1) * error
    return MeanInterval(mean, error, mean - half, mean + half)
