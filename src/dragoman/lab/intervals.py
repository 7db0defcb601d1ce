"""Student's t: means of a few runs with their 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

LEVEL = 0.95


def mean_interval(values: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """Mean, and its 95 % interval by Student's t; None for the interval of a single value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    half = t_quantile(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, (mean - half, mean + half)


def t_quantile(freedom: int) -> float:
    """The point beyond which either tail of Student's t has 2.5 %, by bisection.

    >>> round(t_quantile(1), 3), round(t_quantile(9), 3)
    (12.706, 2.262)
    """
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        if _central_mass(middle, freedom) < LEVEL:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _central_mass(limit: float, freedom: int) -> float:
    """Probability of (-limit, limit): with t = sqrt(n) tan(a), the density in a is cos(a)^(n - 1)."""
    grid = np.linspace(0.0, math.atan(limit / math.sqrt(freedom)), 2001)
    values = np.cos(grid) ** (freedom - 1)
    weights = np.ones(len(grid))
    weights[1:-1:2], weights[2:-1:2] = 4.0, 2.0
    area = float((weights * values).sum()) * float(grid[1]) / 3.0
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    return 2.0 * scale * area
