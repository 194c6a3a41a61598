"""The mean of values by item and seed, both drawn by chance: the estimator behind all comparisons.

Items of one cluster (a fact) stand or fall together, so a cluster counts once:

    one item      d = correct_a - correct_b, in {-1, 0, 1}
    estimate      mean over tasks of the mean over a task's items: each task weighs the same
    influence     of an item (d - its task's mean) / (tasks x items of its task), summed by cluster

Both are linear in the answers, so they are worked out once for all runs of a table, and a comparison of
rows is a weighted sum of columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy
import scipy.special

from bslora_kit.statistics.checks import codes, t_quantile

_FLOOR = 0.1  # of the variance that either source has alone: the least that both together have


class PairedDifference(NamedTuple):
    """A minus B, as fractions (0.01 is one point), with a t interval and a two-sided p value.

    Attributes:
        difference, standard_error, low, high, p_value: of A minus B.
        freedom: degrees of freedom of the interval.
        error_items: standard error of the seeds' mean difference from the choice of items alone.
        error_seeds: from the choice of seeds alone; NaN where nothing is known of other seeds. Both
            contain what items and seeds do together, so their squares add up to more than that of
            `standard_error`.
    """

    difference: float
    standard_error: float
    low: float
    high: float
    p_value: float
    freedom: float
    error_items: float
    error_seeds: float


class Influence(NamedTuple):
    """Means of some columns (runs, or differences of runs), and what each cluster adds to them.

    Attributes:
        means: [columns] mean over tasks.
        summed: [clusters, columns] influence; each column adds up to 0.
        correction: factor for the few clusters that variances are estimated from.
        freedom: clusters less tasks.
    """

    means: numpy.ndarray
    summed: numpy.ndarray
    correction: float
    freedom: int

    def weighted(self, weights: numpy.ndarray) -> Influence:
        """Those of weighted sums of the columns.

        Args:
            weights: [columns, sums].
        """
        return self._replace(means=self.means @ weights, summed=self.summed @ weights)


class Errors(NamedTuple):
    """Standard errors of a mean over seeds; `seeds` is NaN where there is one.

    Attributes:
        both: items and seeds together, what they do together counted once; no less than either.
        items: of the mean over these seeds, from the choice of items.
        seeds: of the mean over so many seeds, on these items.
    """

    both: float
    items: float
    seeds: float


class SeedVariance(NamedTuple):
    """How much a mean over seeds would vary with other seeds, from more runs than its own.

    Attributes:
        variance: of the mean over seeds, on the same items.
        interaction: the part of it that is chance of single items, which the items' error holds too.
        freedom: degrees of freedom of `variance`.
    """

    variance: float
    interaction: float
    freedom: float


def influence_of(
    values: numpy.ndarray,  # [items, columns]
    clusters: Sequence | None = None,
    tasks: Sequence | None = None,
) -> Influence:
    """Means of answers by column, and what each cluster of items adds to them.

    Args:
        values: answers, or differences of answers.
        clusters, tasks: as in `comparing.paired_difference`.

    Raises:
        ValueError: for other lengths, or no more clusters than tasks.
    """
    items = len(values)
    task = codes("tasks", tasks, items) if tasks is not None else numpy.zeros(items, int)
    cluster = codes("clusters", clusters, items) if clusters is not None else numpy.arange(items)
    count, sizes = task.max() + 1, numpy.bincount(task)  # tasks, [tasks]
    groups = cluster.max() + 1
    if groups <= count:
        raise ValueError(
            f"{groups} clusters in {count} tasks: a standard error takes more clusters than tasks; "
            "pass more items"
        )
    means = numpy.stack([numpy.bincount(task, column) for column in values.T], axis=1)
    means = means / sizes[:, None]  # [tasks, columns]
    influence = (values - means[task]) / (count * sizes[task])[:, None]
    summed = numpy.stack([numpy.bincount(cluster, column) for column in influence.T], axis=1)
    return Influence(means.mean(axis=0), summed, groups / (groups - count), int(groups - count))


def crossed_difference(
    differences: numpy.ndarray,  # [items, seeds]
    clusters: Sequence | None = None,
    tasks: Sequence | None = None,
    level: float = 0.95,
) -> PairedDifference:
    """The mean of values by item and seed, with its interval.

    Args:
        differences: [items, seeds] correct of A less correct of B.
        clusters, tasks, level: as in `comparing.paired_difference`; the method is that of
            `comparing.paired_over_seeds`.

    Raises:
        ValueError: for other lengths, or no more clusters than tasks.
    """
    return interval_of(influence_of(differences, clusters, tasks), level=level)


def interval_of(
    by_seed: Influence, pooled: SeedVariance | None = None, level: float = 0.95
) -> PairedDifference:
    """The mean over seeds of a difference, with its interval.

    Args:
        by_seed: of the difference, one column a seed.
        pooled: what more runs tell of its seeds (see `seeds.SeedNoise`). The difference's own seeds
            count where they vary more than that: a pair of unsteady rows is not made steady by others.
        level: of the interval.
    """
    difference, freedom = float(by_seed.means.mean()), by_seed.freedom
    of_items, own = _own_variances(by_seed)
    if own and pooled:
        own = own._replace(freedom=pooled.freedom)
    sources = [source for source in (pooled, own) if source is not None]

    candidates = [_sum_of_effects(of_items, source, freedom) for source in sources]
    # Few seeds estimate their part badly: never narrower than the t interval of the seeds alone.
    candidates += [(source.variance, source.freedom) for source in sources[:1]]
    candidates = candidates or [(of_items, float(freedom))]  # variance, degrees of freedom
    half, error, freedom = max(
        (t_quantile(level, freedom) * math.sqrt(variance), math.sqrt(variance), freedom)
        for variance, freedom in candidates
    )
    of_seeds = max((source.variance for source in sources), default=math.nan)
    apart = (freedom, math.sqrt(of_items), math.sqrt(of_seeds))
    if error == 0:
        return PairedDifference(difference, 0.0, difference, difference, float(difference == 0), *apart)
    p_value = 2 * float(scipy.special.stdtr(freedom, -abs(difference) / error))
    return PairedDifference(difference, error, difference - half, difference + half, p_value, *apart)


def errors_of(by_seed: Influence) -> Errors:
    """Standard errors of a mean over seeds, from its own runs.

    Args:
        by_seed: of what is averaged, one column a seed.
    """
    of_items, own = _own_variances(by_seed)
    if own is None:
        return Errors(math.sqrt(of_items), math.sqrt(of_items), math.nan)
    both = max(of_items, own.variance, of_items + own.variance - own.interaction)
    return Errors(math.sqrt(both), math.sqrt(of_items), math.sqrt(own.variance))


def _own_variances(by_seed: Influence) -> tuple[float, SeedVariance | None]:
    """Variance of the mean over seeds from items, and from seeds; None for one seed."""
    means, summed, correction, _ = by_seed
    seeds = len(means)
    of_items = correction * float((summed.mean(axis=1) ** 2).sum())
    if seeds == 1:
        return of_items, None
    spread = float(((summed - summed.mean(axis=1, keepdims=True)) ** 2).sum())
    interaction = correction * spread / (seeds - 1) / seeds
    return of_items, SeedVariance(float(means.var(ddof=1)) / seeds, interaction, float(seeds - 1))


def _sum_of_effects(items: float, seeds: SeedVariance, free_items: int) -> tuple[float, float]:
    """Variance of a mean over crossed items and seeds, and Satterthwaite's degrees of freedom.

    The difference of estimates can vanish by chance, where seeds tie by answering other items. A higher
    floor would make the intervals of tables that are all noise too wide.
    """
    least = _FLOOR * max(items, seeds.variance)
    variance = max(least, items + seeds.variance - seeds.interaction)
    squares = items**2 / free_items + seeds.variance**2 / seeds.freedom
    squares += seeds.interaction**2 / (free_items * seeds.freedom)
    return variance, max(variance**2 / squares if squares else 0.0, min(seeds.freedom, free_items))
