"""Confidence intervals of ratios, by resampling prompts.

Responses to one prompt depend on each other and tokens within one even more, so the prompt is the unit:
the percentile bootstrap (Efron 1979) draws prompts with replacement and divides the sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dragoman.observe import Ratio

NUM_RESAMPLES = 2000
LEVEL = 0.95


class Interval(NamedTuple):
    """Bounds of a 95 % confidence interval; NaN where there are fewer than two prompts."""

    low: float
    high: float


def ratio_interval(ratios: Sequence[Ratio], *, seed: int = 0) -> Interval:
    """Interval of sum(numerators) / sum(denominators), one ratio a prompt."""
    if len(ratios) < 2:
        return Interval(float("nan"), float("nan"))
    drawn = _resampled(ratios, seed)
    return _percentiles(drawn)


def ratio_change_interval(before: Sequence[Ratio], after: Sequence[Ratio], *, seed: int = 0) -> Interval:
    """Interval of the relative change after / before - 1 of two ratios over the same prompts, which are
    resampled together. Raises ValueError if the prompts are not the same in number.
    """
    if len(before) != len(after):
        raise ValueError(f"paired intervals need the same prompts: {len(before)} before, {len(after)} after")
    if len(before) < 2:
        return Interval(float("nan"), float("nan"))
    old, new = _resampled(before, seed), _resampled(after, seed)
    return _percentiles(np.divide(new, old, where=old != 0, out=np.full(len(old), np.nan)) - 1.0)


def _resampled(ratios: Sequence[Ratio], seed: int) -> np.ndarray:
    values = np.array([(ratio.numerator, ratio.denominator) for ratio in ratios], np.float64)
    picks = np.random.default_rng(seed).integers(len(values), size=(NUM_RESAMPLES, len(values)))
    sums = values[picks].sum(axis=1)
    drawn: np.ndarray = np.divide(
        sums[:, 0], sums[:, 1], where=sums[:, 1] != 0, out=np.full(len(sums), np.nan)
    )
    return drawn


def _percentiles(values: np.ndarray) -> Interval:
    known = values[np.isfinite(values)]
    if not len(known):
        return Interval(float("nan"), float("nan"))
    tail = (1.0 - LEVEL) / 2
    low, high = np.quantile(known, [tail, 1.0 - tail])
    return Interval(float(low), float(high))
