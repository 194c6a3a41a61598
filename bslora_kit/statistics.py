"""Is one adapter better than another? Paired tests and intervals on the items of `evaluation.items`.

All runs answer the same items, so items are compared one by one, which removes how hard they are. Items
that ask for the same fact stand or fall together: the unit of evidence is the fact, and standard errors
are robust to clusters (Liang & Zeger 1986; Miller, "Adding Error Bars to Evals", arXiv 2411.00640).
Another training seed moves scores too; with several seeds both sources count.

    one item      d = correct_a - correct_b, in {-1, 0, 1}
    estimate      mean over tasks of the mean over a task's items: each task weighs the same
    influence     of an item (d - its task's mean) / (tasks x items of its task), summed by cluster
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy
import scipy.stats
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    import pandas


class PairedDifference(NamedTuple):
    """A minus B, as fractions (0.01 is one point), with a t interval and a two-sided p value."""

    difference: float
    standard_error: float
    low: float
    high: float
    p_value: float


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


def paired_difference(
    correct_a: ArrayLike,
    correct_b: ArrayLike,
    clusters: Sequence | None = None,
    tasks: Sequence | None = None,
    level: float = 0.95,
) -> PairedDifference:
    """The difference of two runs on the same items.

    Without clusters and with one task this is the paired t test.

    Args:
        correct_a: [items] 0 / 1 or bool; correct_b: the same items in the same order.
        clusters: [items] what an item depends on, its fact; a missing one stands alone.
        tasks: [items] the task of each item; by default all items are of one task.
        level: of the interval.

    Raises:
        ValueError: for other lengths, values that are missing, or fewer than two clusters per task.
    """
    a, b = _answers("correct_a", correct_a), _answers("correct_b", correct_b)
    if a.shape != b.shape:
        raise ValueError(f"correct_a has {len(a)} items and correct_b {len(b)}; pass the same items")
    return _compare((a - b)[:, None], clusters, tasks, level)


def paired_over_seeds(
    pairs: Sequence[tuple[pandas.DataFrame, pandas.DataFrame]], level: float = 0.95
) -> PairedDifference:
    """The difference of two methods that were each trained with the same seeds.

    Items and seeds are crossed random effects: the variance of the mean is that of the items (averaged
    over seeds) plus that of the seeds (averaged over items) less their interaction, with Satterthwaite's
    degrees of freedom. Few seeds estimate their part badly, so the interval is never narrower than the
    t interval of the seeds' own differences: with three seeds it covers the truth in 94 to 98 of 100
    simulated cases, whichever source dominates. One seed alone tells nothing of other seeds: the
    interval then holds for these two runs.

    Args:
        pairs: per seed (items of A, items of B) as in `Evaluation.items`: task, subject, doc_id,
            doc_hash, fact, correct. Each task weighs the same; pass the tasks that are to count.
        level: of the interval.

    Raises:
        ValueError: for no pair, or runs that did not answer the same items.
    """
    if not pairs:
        raise ValueError("no pair of runs; pass (items of A, items of B) once per seed")
    first = _ordered(pairs[0][0])
    columns = []
    for number, (run_a, run_b) in enumerate(pairs, 1):
        a, b = _ordered(run_a), _ordered(run_b)
        for name, run in (("A", a), ("B", b)):
            if list(run["doc_hash"]) != list(first["doc_hash"]):
                raise ValueError(
                    f"run {name} of pair {number} has {len(run)} items that are not the "
                    f"{len(first)} of the first run; score all with the same tasks, split and limit"
                )
        columns.append(a["correct"].to_numpy(float) - b["correct"].to_numpy(float))
    return _compare(numpy.stack(columns, axis=1), first["fact"], first["task"], level)


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> McNemar:
    """McNemar's exact test on the items that only one of two runs has right.

    It takes items as independent; prefer `paired_difference` where facts are asked more than once.

    Raises:
        ValueError: for other lengths or values that are missing.
    """
    a, b = _answers("correct_a", correct_a), _answers("correct_b", correct_b)
    if a.shape != b.shape:
        raise ValueError(f"correct_a has {len(a)} items and correct_b {len(b)}; pass the same items")
    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    if only_a + only_b == 0:
        return McNemar(0, 0, 1.0)
    return McNemar(only_a, only_b, float(scipy.stats.binomtest(only_a, only_a + only_b).pvalue))


def mean_interval(values: ArrayLike, level: float = 0.95) -> MeanInterval:
    """The mean of independent values (the scores of several seeds) with its t interval.

    Raises:
        ValueError: for no value or values that are missing.
    """
    values = _answers("values", values)
    mean = float(values.mean())
    if len(values) == 1:
        return MeanInterval(mean, math.nan, math.nan, math.nan)
    error = float(scipy.stats.sem(values))
    half = _quantile(level, len(values) - 1) * error
    return MeanInterval(mean, error, mean - half, mean + half)


def _compare(
    differences: numpy.ndarray,  # [items, seeds]
    clusters: Sequence | None,
    tasks: Sequence | None,
    level: float,
) -> PairedDifference:
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
    if seeds > 1:
        spread = float(((summed - summed.mean(axis=1, keepdims=True)) ** 2).sum())
        interaction = correction * spread / (seeds - 1) / seeds
        of_seeds = float(by_seed.var(ddof=1)) / seeds
        candidates = [
            _sum_of_effects(of_items, of_seeds, interaction, freedom, seeds - 1),
            (of_seeds, float(seeds - 1)),
        ]
    half, error, freedom = max(
        (_quantile(level, freedom) * math.sqrt(variance), math.sqrt(variance), freedom)
        for variance, freedom in candidates
    )
    if error == 0:
        return PairedDifference(difference, 0.0, difference, difference, float(difference == 0))
    p_value = 2 * float(scipy.stats.t.sf(abs(difference) / error, freedom))
    return PairedDifference(difference, error, difference - half, difference + half, p_value)


def _sum_of_effects(
    items: float, seeds: float, interaction: float, free_items: int, free_seeds: int
) -> tuple[float, float]:
    """Variance of a mean over crossed items and seeds, and Satterthwaite's degrees of freedom."""
    variance = max(items, items + seeds - interaction)
    squares = items**2 / free_items + seeds**2 / free_seeds + interaction**2 / (free_items * free_seeds)
    return variance, variance**2 / squares if squares else float(free_items)


def _ordered(items: pandas.DataFrame) -> pandas.DataFrame:
    return items.sort_values(["task", "subject", "doc_id"], ignore_index=True)


def _answers(name: str, values: ArrayLike) -> numpy.ndarray:
    array = numpy.asarray(values, dtype=float)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"{name} has shape {array.shape}; expected a list of at least one value")
    if not numpy.isfinite(array).all():
        raise ValueError(f"{name} holds a missing or infinite value; drop the item from both runs")
    return array


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


def _quantile(level: float, freedom: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; expected a fraction such as 0.95")
    return float(scipy.stats.t.ppf((1 + level) / 2, freedom))
