"""Student's t on a log scale: means of a few runs with their 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

LEVEL = 0.95
LEEWAY = 1e-9
"""How far below 0 rounding may bring a value that cannot be negative."""


def mean_interval(
    values: Sequence[float], most: float = math.inf
) -> tuple[float, tuple[float, float] | None]:
    """Mean of values between 0 and `most`, and its 95 % interval; None for that of a single value.

    The interval is that of Student's t for the log of the mean, whose standard error by the delta method is
    the mean's own, `se`, divided by the mean: `mean * exp(-+ t * se / mean)`, so it is above 0 wherever the
    mean is. Raises ValueError for a negative value.
    """
    from scipy.stats import t as student_t

    if min(values) < -LEEWAY:
        raise ValueError(f"got {min(values)} among the values of an interval, expected none below 0")
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    if mean <= 0:
        return mean, (mean, mean)
    quantile = float(student_t.ppf((1 + LEVEL) / 2, len(values) - 1))
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    factor = math.exp(quantile * error / mean)
    return mean, (mean / factor, min(mean * factor, most))
