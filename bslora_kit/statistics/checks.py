"""What the functions of this package share: checked input, labels, quantiles of intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy
import scipy.special
from numpy.typing import ArrayLike


def numbers(name: str, values: ArrayLike) -> numpy.ndarray:
    """Values as an array; refuses none, missing and infinite ones by the argument's name."""
    array = numpy.asarray(values, dtype=float)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"{name} has shape {array.shape}; expected a list of at least one value")
    if not numpy.isfinite(array).all():
        raise ValueError(f"{name} holds a missing or infinite value; drop the item from both runs")
    return array


def t_quantile(level: float, freedom: float) -> float:
    """Standard errors on each side of a two-sided t interval."""
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; expected a fraction such as 0.95")
    return float(scipy.special.stdtrit(freedom, (1 + level) / 2))


def codes(name: str, labels: Sequence, items: int) -> numpy.ndarray:
    """Whole numbers from 0 for labels; every missing label gets a number of its own."""
    if len(labels) != items:
        raise ValueError(f"{name} has {len(labels)} entries for {items} items; pass one per item")
    if isinstance(labels, numpy.ndarray) and labels.dtype.kind in "iu":
        return numpy.unique(labels, return_inverse=True)[1]
    known: dict[object, int] = {}
    return numpy.array(
        [
            known.setdefault(("missing", row) if _missing(label) else ("label", label), len(known))
            for row, label in enumerate(labels)
        ]
    )


def _missing(label: object) -> bool:
    return label is None or label != label  # NaN is the one value unequal to itself
