"""Float64 reference twins of the losses on rows: one token, one bin at a time, plain Python, for tests.

A row is a list of bins (T, S): probabilities, not logs, of the teacher and the student, residual included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dragoman.config import MethodConfig

Row = Sequence[tuple[float, float]]


def divergence_reference(row: Row, settings: MethodConfig) -> float:
    """The divergence that `method.divergence` names, by its definition."""
    beta, floor = settings.beta, settings.row_floor
    mixture = [beta * t + (1.0 - beta) * s for t, s in row]
    teacher, student = [t for t, _ in row], [s for _, s in row]
    if settings.divergence == "forward":
        return _kl(teacher, student)
    if settings.divergence == "reverse":
        return _kl(student, [max(t, floor) for t in teacher])
    if settings.divergence == "skewed":
        return _kl(teacher, mixture)
    return beta * _kl(teacher, mixture) + (1.0 - beta) * _kl(student, mixture)


def row_divergence_reference(
    rows: Sequence[Row | None],
    weight: Sequence[float],
    settings: MethodConfig,
    partial: Sequence[bool] | None = None,
) -> float:
    """The sum that `row_divergence` computes; None is a token without a row, the last bin the residual."""
    total = 0.0
    flags = [False] * len(rows) if partial is None else partial
    for row, w, is_partial in zip(rows, weight, flags, strict=True):
        if row is None:
            continue
        chosen, known = settings, 1.0 - row[-1][0]
        if is_partial:
            row = [(t / known, s / (1.0 - row[-1][1])) for t, s in row[:-1]]
        entropy = -sum(t * math.log(t) for t, _ in row if t > 0)
        if settings.entropy_switch is not None and entropy >= settings.entropy_switch:
            chosen = settings.model_copy(update={"divergence": "forward"})
        reliability = known if is_partial or settings.reliability == "mass" else 1.0
        total += w * settings.row_coef * reliability * divergence_reference(row, chosen)
    return total


def reference_kl_reference(
    logp: Sequence[float], reference: Sequence[float], weight: Sequence[float], settings: MethodConfig
) -> float:
    """The sum that `reference_kl` computes, by its definition."""
    total = 0.0
    for new, old, w in zip(logp, reference, weight, strict=True):
        r = max(-settings.log_ratio_clamp, min(settings.log_ratio_clamp, old - new))
        total += w * settings.reference_kl * (math.exp(r) - r - 1.0)
    return total


def _kl(first: Sequence[float], second: Sequence[float]) -> float:
    return sum(p * (math.log(p) - math.log(q)) for p, q in zip(first, second, strict=True) if p > 0)
