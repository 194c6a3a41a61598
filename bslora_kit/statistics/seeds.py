"""How much training seeds move scores, estimated from all rows of a table together.

Two to five seeds of one pair of rows give a t interval of one to four degrees of freedom, which hardly
anything exceeds. A table of R rows with S seeds each knows more: in the two-way layout

    score of row r with seed s  =  row r + seed s (on one base model) + row x seed,

the seed is a block that drops out of every difference of two rows, and row x seed has one variance with
(R - 1)(S - 1) degrees of freedom (Scheffe, The Analysis of Variance, 1959). The variance of a contrast
with weights c over rows is then

    variance  =  (sum of c^2 x residual  +  (sum of c)^2 x (within - residual)) / S
    residual  =  mean square of scores less the means of rows and seeds
    within    =  mean square of scores less the means of rows

where sum of c = 0 between trained rows; against an untrained row, which has no seed, it is not 0, and
the blocks count. Rows and seeds may be missing: both mean squares come from the runs that are there.

One variance for all rows is an assumption. `equal_spread` tests it, a row that varies far more than the
others (`unsteady_rows`) has no part in it and is compared by its own seeds alone, and
`crossed.interval_of` keeps a pair's own seeds where they vary more.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy
import scipy.stats

from bslora_kit.statistics.crossed import Influence, SeedVariance

_ROUNDING = 1e-12  # span of scores, as fractions, that are the same
OUTLIER = 0.01  # chance that a table whose rows vary alike has any row called unsteady


@dataclass(frozen=True)
class SeedNoise:
    """Variance of a run's score over seeds, pooled over the rows of a table; scores are fractions.

    Attributes:
        squares: residual and within, the two mean squares.
        interactions: the part of each that is chance of single items.
        expected, products: [2], [2, 2] mean and half the covariance of the mean squares under the
            variances that were estimated, none below 0; for Satterthwaite's degrees of freedom.
        left_out: rows that vary too much to be pooled (`unsteady_rows`).
    """

    squares: numpy.ndarray
    interactions: numpy.ndarray
    expected: numpy.ndarray
    products: numpy.ndarray
    left_out: frozenset[Hashable] = frozenset()

    def of(self, weights: Mapping[Hashable, float], seeds: int) -> SeedVariance | None:
        """The variance of a contrast of rows over seeds.

        Args:
            weights: trained row -> weight in the contrast; untrained rows are left out.
            seeds: that the contrast is a mean over.

        Returns:
            None for a contrast with a row that is left out: its own seeds alone tell of it.
        """
        if self.left_out & set(weights):
            return None
        weight = numpy.array(list(weights.values()))
        block = float(weight.sum()) ** 2
        # Of several rows against an untrained one only a bound is taken, so that no part is negative.
        shares = numpy.array([max(0.0, float(weight @ weight) - block), block])
        shares[shares < 1e-12] = 0.0  # weights as fractions add up to 0 only nearly
        spread = float(shares @ self.products @ shares)
        return SeedVariance(
            variance=float(shares @ self.squares) / seeds,
            interaction=float(shares @ self.interactions) / seeds,
            freedom=float(shares @ self.expected) ** 2 / spread if spread else math.inf,
        )


def seed_noise(
    runs: Influence, rows: Sequence[Hashable], blocks: Sequence[Hashable]
) -> SeedNoise | None:
    """The noise of seeds in a table, `unsteady_rows` left out.

    Args:
        runs: of the trained runs, one column a run.
        rows: [runs] the row of each run.
        blocks: [runs] what its seed is shared with: base model and seed.

    Returns:
        None where no two rows of one base model share two seeds.
    """
    scores: dict[Hashable, list[float]] = {}
    for name, mean in zip(rows, runs.means, strict=True):
        scores.setdefault(name, []).append(float(mean))
    left_out = frozenset(unsteady_rows(scores))
    steady = numpy.array([name not in left_out for name in rows], dtype=bool)
    runs = runs.weighted(numpy.eye(len(steady))[:, steady])
    rows, blocks = (
        [label for label, kept in zip(labels, steady, strict=True) if kept] for labels in (rows, blocks)
    )
    row, block = _indicators(rows), _indicators(blocks)
    of_rows, of_both = _residual_maker(row), _residual_maker(numpy.hstack([row, block]))
    free_within, free = round(numpy.trace(of_rows)), round(numpy.trace(of_both))
    if not free:
        return None
    makers = (of_both / free, of_rows / free_within)
    squares = numpy.array([max(0.0, runs.means @ maker @ runs.means) for maker in makers])
    interactions = runs.correction * numpy.array(
        [((runs.summed @ maker) * runs.summed).sum() for maker in makers]
    )
    residual, within = squares
    covariance = residual * numpy.eye(len(rows)) + max(0.0, within - residual) * block @ block.T
    shaped = [maker @ covariance for maker in makers]
    products = numpy.array([[numpy.trace(one @ other) for other in shaped] for one in shaped])
    expected = numpy.array([numpy.trace(one) for one in shaped])
    return SeedNoise(squares, interactions, expected, products, left_out)


def unsteady_rows(scores: Mapping[Hashable, Sequence[float]]) -> list[Hashable]:
    """Rows whose scores vary far more over seeds than those of the others.

    Such as a row that some seeds train and others do not: one of them would make the noise of a whole
    table. Each row's variance is compared with that of the others together (F test, Bonferroni over the
    rows), and the clearest is left out until none is clear; for rows of as many seeds that is Cochran's
    test (Annals of Eugenics 1941), at the 1 % of ISO 5725-2 for outliers.

    Args:
        scores: of each row, by seed; rows with one seed are passed over.
    """
    squares = {
        row: 0.0 if numpy.ptp(of) < _ROUNDING else (len(of) - 1) * numpy.var(of, ddof=1)
        for row, of in scores.items()
        if len(of) > 1
    }
    freedom = {row: len(scores[row]) - 1 for row in squares}
    found = []
    while len(squares) > 1:
        all_squares, all_freedom = sum(squares.values()), sum(freedom.values())
        p_values = {}
        for row, own in squares.items():
            others, free = all_squares - own, all_freedom - freedom[row]
            ratio = (
                own / freedom[row] / (others / free) if others > 0 else (math.inf if own > 0 else 0.0)
            )
            p_values[row] = scipy.stats.f.sf(ratio, freedom[row], free)
        clearest = min(p_values, key=p_values.__getitem__)
        if not len(squares) * p_values[clearest] < OUTLIER:
            break
        found.append(clearest)
        del squares[clearest], freedom[clearest]
    return found


def equal_spread(scores: Sequence[Sequence[float]]) -> float:
    """Bartlett's test that all rows vary equally over seeds.

    With two to five seeds it finds a single unsteady row, or standard deviations that differ by more
    than a factor of two in many rows, and hardly less.

    Args:
        scores: of each row, by seed; rows with one seed are left out.

    Returns:
        The p value; NaN with fewer than two rows, or if a row does not vary at all.
    """
    known = [numpy.asarray(row, float) for row in scores if len(row) > 1]
    if len(known) < 2 or any(row.var() == 0 for row in known):
        return math.nan
    return float(scipy.stats.bartlett(*known).pvalue)


def _indicators(labels: Sequence[Hashable]) -> numpy.ndarray:
    """[runs, labels] 1 where a run has a label."""
    names = list(dict.fromkeys(labels))
    found = numpy.zeros((len(labels), len(names)))
    found[numpy.arange(len(labels)), [names.index(label) for label in labels]] = 1
    return found


def _residual_maker(design: numpy.ndarray) -> numpy.ndarray:
    """The projection that takes from scores what a design explains."""
    return numpy.eye(len(design)) - design @ numpy.linalg.pinv(design)
