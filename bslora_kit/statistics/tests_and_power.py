"""Tests of counts and of many p values, and what a comparison could have seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy
import scipy.special
import scipy.stats
from numpy.typing import ArrayLike

from bslora_kit.statistics.checks import codes, numbers, t_quantile


class MeanInterval(NamedTuple):
    """A mean with its t interval; error and interval are NaN for a single value."""

    mean: float
    standard_error: float
    low: float
    high: float


class McNemar(NamedTuple):
    """Answers that only A or only B has right, and the exact two-sided p value of no difference."""

    only_a: int
    only_b: int
    p_value: float


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike, clusters: Sequence | None = None) -> McNemar:
    """McNemar's exact test on the answers that only one of two runs has right, cluster by cluster.

    If A and B are equally good on each cluster, chance decides which of them a cluster's balance
    (answers that only A has right less those that only B has) speaks for. The p value is the share of
    all ways to turn the balances round that leave a total as far from 0. With one answer a cluster this
    is McNemar's test; with many clusters it agrees with the chi-square tests for clustered matched
    pairs (Durkalski et al., Statistics in Medicine 2003), each answer weighing the same.

    Answers of several seeds to one item depend on each other: give them the item's cluster. The test is
    then about these trained models on other items and says nothing of other seeds.

    Args:
        correct_a: [answers] 0 / 1 or bool; correct_b: the same answers in the same order.
        clusters: [answers] what an answer depends on, its item or fact; a missing one stands alone.

    Raises:
        ValueError: for other lengths or values that are missing.
    """
    a, b = numbers("correct_a", correct_a), numbers("correct_b", correct_b)
    if a.shape != b.shape:
        raise ValueError(f"correct_a has {len(a)} items and correct_b {len(b)}; pass the same items")
    balances = numpy.sign(a - b).astype(int)
    only_a, only_b = int((balances > 0).sum()), int((balances < 0).sum())
    if clusters is not None:
        balances = numpy.bincount(codes("clusters", clusters, len(a)), balances).astype(int)
    sizes = abs(balances[balances != 0])
    total, tilt = int(sizes.sum()), abs(int(balances.sum()))
    chances = numpy.zeros((total - tilt) // 2 + 1)  # that so many answers fall to the weaker side
    chances[0] = 1.0
    for size in sizes:
        chances[size:] = (chances[size:] + chances[:-size]) / 2
        chances[:size] /= 2
    return McNemar(only_a, only_b, min(1.0, 2 * float(chances.sum())))


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
