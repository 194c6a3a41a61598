"""The mean of values by item and seed, both drawn by chance: the estimator behind all comparisons.

Items of one cluster (a fact) stand or fall together, so a cluster counts once:

    one item      d = correct_a - correct_b, in {-1, 0, 1}
    estimate      mean over tasks of the mean over a task's items: each task weighs the same
    influence     of an item (d - its task's mean) / (tasks x items of its task), summed by cluster
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy
import scipy.special

from bslora_kit.statistics.checks import t_quantile


class PairedDifference(NamedTuple):
    """A minus B, as fractions (0.01 is one point), with a t interval and a two-sided p value.

    Attributes:
        difference, standard_error, low, high, p_value: of A minus B.
        freedom: degrees of freedom of the interval.
        error_items: standard error of the seeds' mean difference from the choice of items alone.
        error_seeds: from the choice of seeds alone; NaN with one seed. Both contain what items and seeds
            do together, so their squares add up to more than that of `standard_error`.
    """

    difference: float
    standard_error: float
    low: float
    high: float
    p_value: float
    freedom: float
    error_items: float
    error_seeds: float


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
    items, seeds = differences.shape
    task = _codes("tasks", tasks, items) if tasks is not None else numpy.zeros(items, int)
    cluster = _codes("clusters", clusters, items) if clusters is not None else numpy.arange(items)
    count, sizes = task.max() + 1, numpy.bincount(task)  # tasks, [tasks]
    groups = cluster.max() + 1
    if groups <= count:
        raise ValueError(
            f"{groups} clusters in {count} tasks: a standard error takes more clusters than tasks; "
            "pass more items"
        )

    means = numpy.stack([numpy.bincount(task, column) for column in differences.T], axis=1)
    means = means / sizes[:, None]  # [tasks, seeds]
    influence = (differences - means[task]) / (count * sizes[task])[:, None]
    summed = numpy.stack([numpy.bincount(cluster, column) for column in influence.T], axis=1)
    by_seed = means.mean(axis=0)  # [seeds]
    difference = float(by_seed.mean())

    correction, freedom = groups / (groups - count), groups - count
    of_items = correction * float((summed.mean(axis=1) ** 2).sum())
    candidates = [(of_items, float(freedom))]  # variance, degrees of freedom
    of_seeds = math.nan
    if seeds > 1:
        spread = float(((summed - summed.mean(axis=1, keepdims=True)) ** 2).sum())
        interaction = correction * spread / (seeds - 1) / seeds
        of_seeds = float(by_seed.var(ddof=1)) / seeds
        candidates = [
            _sum_of_effects(of_items, of_seeds, interaction, freedom, seeds - 1),
            (of_seeds, float(seeds - 1)),
        ]
    half, error, freedom = max(
        (t_quantile(level, freedom) * math.sqrt(variance), math.sqrt(variance), freedom)
        for variance, freedom in candidates
    )
    apart = (freedom, math.sqrt(of_items), math.sqrt(of_seeds))
    if error == 0:
        return PairedDifference(difference, 0.0, difference, difference, float(difference == 0), *apart)
    p_value = 2 * float(scipy.special.stdtr(freedom, -abs(difference) / error))
    return PairedDifference(difference, error, difference - half, difference + half, p_value, *apart)


def _sum_of_effects(
    items: float, seeds: float, interaction: float, free_items: int, free_seeds: int
) -> tuple[float, float]:
    """Variance of a mean over crossed items and seeds, and Satterthwaite's degrees of freedom."""
    variance = max(0.0, items + seeds - interaction)
    squares = items**2 / free_items + seeds**2 / free_seeds + interaction**2 / (free_items * free_seeds)
    return variance, max(variance**2 / squares if squares else 0.0, float(free_seeds))


def _codes(name: str, labels: Sequence, items: int) -> numpy.ndarray:
    """Whole numbers from 0 for labels; every missing label gets a number of its own."""
    if len(labels) != items:
        raise ValueError(f"{name} has {len(labels)} entries for {items} items; pass one per item")
    known: dict[object, int] = {}
    return numpy.array(
        [
            known.setdefault(("missing", row) if _missing(label) else ("label", label), len(known))
            for row, label in enumerate(labels)
        ]
    )


def _missing(label: object) -> bool:
    return label is None or label != label  # NaN is the one value unequal to itself
