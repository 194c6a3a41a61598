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

One variance for all rows is an assumption. `equal_spread` tests it; `crossed.interval_of` keeps a
pair's own seeds where they vary more.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy
import scipy.stats

from bslora_kit.statistics.crossed import Influence, SeedVariance


@dataclass(frozen=True)
class SeedNoise:
    """Variance of a run's score over seeds, pooled over the rows of a table; scores are fractions.

    Attributes:
        squares: residual and within, the two mean squares.
        interactions: the part of each that is chance of single items.
        expected, products: [2], [2, 2] mean and half the covariance of the mean squares under the
            variances that were estimated, none below 0; for Satterthwaite's degrees of freedom.
    """

    squares: numpy.ndarray
    interactions: numpy.ndarray
    expected: numpy.ndarray
    products: numpy.ndarray

    def of(self, weights: Mapping[Hashable, float], seeds: int) -> SeedVariance:
        """The variance of a contrast of rows over seeds.

        Args:
            weights: trained row -> weight in the contrast; untrained rows are left out.
            seeds: that the contrast is a mean over.
        """
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
    """The noise of seeds in a table.

    Args:
        runs: of the trained runs, one column a run.
        rows: [runs] the row of each run.
        blocks: [runs] what its seed is shared with: base model and seed.

    Returns:
        None where no two rows of one base model share two seeds.
    """
    row, block = _indicators(rows), _indicators(blocks)
    of_rows, of_both = _residual_maker(row), _residual_maker(numpy.hstack([row, block]))
    free_within, free = round(numpy.trace(of_rows)), round(numpy.trace(of_both))
    if not free:
        return None
    makers = (of_both / free, of_rows / free_within)
    squares = numpy.array([runs.means @ maker @ runs.means for maker in makers])
    interactions = runs.correction * numpy.array(
        [((runs.summed @ maker) * runs.summed).sum() for maker in makers]
    )
    residual, within = squares
    covariance = residual * numpy.eye(len(rows)) + max(0.0, within - residual) * block @ block.T
    shaped = [maker @ covariance for maker in makers]
    products = numpy.array([[numpy.trace(one @ other) for other in shaped] for one in shaped])
    expected = numpy.array([numpy.trace(one) for one in shaped])
    return SeedNoise(squares, interactions, expected, products)


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
