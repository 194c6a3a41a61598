"""Paired tests and intervals on the items of `evaluation.items`.

All runs answer the same items, so items are compared one by one, which removes how hard they are. Items
that ask for the same fact stand or fall together: the unit of evidence is the fact, and standard errors
are robust to clusters (Liang & Zeger 1986; Miller, "Adding Error Bars to Evals", arXiv 2411.00640).
Another training seed moves scores too; with several seeds both sources count, and all rows of a table
tell together how much (`seeds`).
"""

from bslora_kit.statistics.comparing import (
    matched,
    paired_difference,
    paired_over_seeds,
)
from bslora_kit.statistics.crossed import (
    Errors,
    Influence,
    PairedDifference,
    SeedVariance,
    crossed_difference,
    errors_of,
    influence_of,
    interval_of,
)
from bslora_kit.statistics.seeds import SeedNoise, equal_spread, seed_noise, unsteady_rows
from bslora_kit.statistics.tests_and_power import (
    McNemar,
    MeanInterval,
    holm,
    mcnemar,
    mean_interval,
    smallest_difference,
)

__all__ = [
    "Errors",
    "Influence",
    "McNemar",
    "MeanInterval",
    "PairedDifference",
    "SeedNoise",
    "SeedVariance",
    "crossed_difference",
    "equal_spread",
    "errors_of",
    "holm",
    "influence_of",
    "interval_of",
    "matched",
    "mcnemar",
    "mean_interval",
    "paired_difference",
    "paired_over_seeds",
    "seed_noise",
    "smallest_difference",
    "unsteady_rows",
]
