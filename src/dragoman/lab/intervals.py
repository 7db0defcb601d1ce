"""Student's t: means of a few runs with their 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

LEVEL = 0.95


def mean_interval(values: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """Mean, and its 95 % interval by Student's t; None for the interval of a single value."""
    from scipy.stats import t as student_t

    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    freedom = len(values) - 1
    half = (
        float(student_t.ppf((1 + LEVEL) / 2, freedom))
        * float(np.std(values, ddof=1))
        / math.sqrt(len(values))
    )
    return mean, (mean - half, mean + half)
