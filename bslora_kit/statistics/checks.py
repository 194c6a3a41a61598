"""What the functions of this package share: checked input and the quantile of their intervals."""

from __future__ import annotations

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
