"""Float64 reference twins of the objectives: one token at a time, plain Python, for tests."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dragoman.config import MethodConfig


def policy_gradient_reference(
    logp: Sequence[float],
    behaviour_logp: Sequence[float],
    credit: Sequence[float],
    weight: Sequence[float],
    settings: MethodConfig,
) -> float:
    """The sum that `policy_gradient` computes, by its definition."""
    total = 0.0
    for new, old, a, w in zip(logp, behaviour_logp, credit, weight, strict=True):
        log_ratio = max(-settings.log_ratio_clamp, min(settings.log_ratio_clamp, new - old))
        ratio = math.exp(log_ratio)
        clipped = max(1.0 - settings.clip_low, min(1.0 + settings.clip_high, ratio))
        gain = min(ratio * a, clipped * a)
        if a < 0 and settings.dual_clip is not None:
            gain = max(gain, settings.dual_clip * a)
        total -= w * gain
    return total
