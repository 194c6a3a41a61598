"""Is one adapter better than another, item by item on the same items, with one seed or with several?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy
from numpy.typing import ArrayLike

from bslora_kit.statistics.checks import numbers
from bslora_kit.statistics.crossed import PairedDifference, crossed_difference

if TYPE_CHECKING:
    import pandas


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
        ValueError: for other lengths, values that are missing, or no more clusters than tasks.
    """
    a, b = numbers("correct_a", correct_a), numbers("correct_b", correct_b)
    if a.shape != b.shape:
        raise ValueError(f"correct_a has {len(a)} items and correct_b {len(b)}; pass the same items")
    return crossed_difference((a - b)[:, None], clusters, tasks, level)


def paired_over_seeds(
    pairs: Sequence[tuple[pandas.DataFrame, pandas.DataFrame]], level: float = 0.95
) -> PairedDifference:
    """The difference of two methods that were each trained with the same seeds.

    Items and seeds are crossed random effects: the variance of the mean is that of the items (averaged
    over seeds) plus that of the seeds (averaged over items) less their interaction, with Satterthwaite's
    degrees of freedom, no fewer than the seeds' or the items', whichever are fewer. Few seeds estimate
    their part badly, so the interval is never narrower than the t interval of the seeds' own
    differences. In simulations the 95 % interval covers the truth in 94 to 96 of 100 tables with five
    seeds and in 94 to 98 with three, whichever source dominates. One seed alone tells nothing of other
    seeds: the interval then holds for these two runs.

    Args:
        pairs: per seed (items of A, items of B) as in `Evaluation.items`: task, subject, doc_id,
            doc_hash, fact, correct. Each task weighs the same; pass the tasks that are to count.
        level: of the interval.

    Raises:
        ValueError: for no pair, or runs that did not answer the same items.
    """
    if not pairs:
        raise ValueError("no pair of runs; pass (items of A, items of B) once per seed")
    runs = {}
    for number, (run_a, run_b) in enumerate(pairs, 1):
        runs[f"run A of pair {number}"], runs[f"run B of pair {number}"] = run_a, run_b
    first, answers = matched(runs)
    differences = answers[:, 0::2] - answers[:, 1::2]
    return crossed_difference(differences, first["fact"], first["task"], level)


def matched(runs: Mapping[str, pandas.DataFrame]) -> tuple[pandas.DataFrame, numpy.ndarray]:
    """Runs on the same items, item by item.

    Args:
        runs: what to call a run -> its items, as in `paired_over_seeds`.

    Returns:
        The items of the first run in order, and correct [items, runs].

    Raises:
        ValueError: for a run with other items, by its name.
    """
    ordered = {
        name: run.sort_values(["task", "subject", "doc_id"], ignore_index=True)
        for name, run in runs.items()
    }
    first = next(iter(ordered.values()))
    hashes = list(first["doc_hash"])
    for name, run in ordered.items():
        if list(run["doc_hash"]) != hashes:
            raise ValueError(
                f"{name} has {len(run)} items that are not the {len(first)} of the first run; score "
                "all with the same tasks, split and limit"
            )
    return first, numpy.stack([run["correct"].to_numpy(float) for run in ordered.values()], axis=1)
