"""Float64 reference twins of `alm`, `simct`, `uld` and `gold`: one token at a time, plain Python, for tests.

Probabilities, not their logarithms, wherever the definition has probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dragoman.config import MethodConfig

Row = Sequence[tuple[float, float]]
"""Candidates of one token: log-probs of teacher and student."""


def divergence_reference(t: float, s: float, settings: MethodConfig, floor: float = 0.0) -> float:
    """One outcome's part of a divergence, from probabilities."""
    m = settings.beta * t + (1 - settings.beta) * s
    match settings.divergence:
        case "forward":
            return t * math.log(t / s) if t else 0.0
        case "reverse":
            return s * math.log(s / max(t, floor)) if s else 0.0
        case "skewed":
            return t * math.log(t / m) if t else 0.0
        case "jsd":
            of_teacher = settings.beta * t * math.log(t / m) if t else 0.0
            return of_teacher + ((1 - settings.beta) * s * math.log(s / m) if s else 0.0)


def alm_reference(
    logp: Sequence[float],
    weight: Sequence[float],
    unit_of: Sequence[int],
    teacher_logp: Sequence[float],
    settings: MethodConfig,
) -> float:
    """The sum that `alm` computes, by its definition."""
    total = 0.0
    for unit, teacher in enumerate(teacher_logp):
        tokens = [n for n, of in enumerate(unit_of) if of == unit]
        if not tokens:
            continue
        log_t = teacher / settings.tau
        log_s = sum(logp[n] for n in tokens) / settings.tau
        # 1 - exp(x) as -expm1(x), or its digits are lost in float64, too
        loss = divergence_reference(math.exp(log_t), math.exp(log_s), settings)
        loss += divergence_reference(-math.expm1(log_t), -math.expm1(log_s), settings)
        total += sum(weight[n] for n in tokens) / len(tokens) * len(tokens) * loss
    return total


def simct_reference(
    logp: Sequence[float],
    weight: Sequence[float],
    rows: Sequence[Row | None],
    unit_of: Sequence[int],
    teacher_logp: Sequence[float],
    num_teacher: Sequence[int],
) -> float:
    """The sum that `simct` computes, by its definition."""
    total = 0.0
    for n, row in enumerate(rows):
        if row is None:
            continue
        scores_t, scores_s = [t for t, _ in row], [s for _, s in row]
        unit = unit_of[n]
        tokens = [k for k, of in enumerate(unit_of) if of == unit]
        if unit >= 0 and tokens[0] == n and max(len(tokens), num_teacher[unit]) > 1:
            scores_t.append(teacher_logp[unit] / num_teacher[unit])
            scores_s.append(sum(logp[k] for k in tokens) / len(tokens))
        sum_t, sum_s = sum(map(math.exp, scores_t)), sum(map(math.exp, scores_s))
        for t, s in zip(scores_t, scores_s, strict=True):
            share_t, share_s = math.exp(t) / sum_t, math.exp(s) / sum_s
            total += weight[n] * share_s * math.log(share_s / share_t)
    return total


def uld_reference(teacher: Sequence[float], student: Sequence[float], *, ranks: int | None = None) -> float:
    """L1 of one token, from whole rows of probabilities in any order; the first `ranks` one by one."""
    t, s = sorted(teacher, reverse=True), sorted(student, reverse=True)
    size = max(len(t), len(s))
    t, s = t + [0.0] * (size - len(t)), s + [0.0] * (size - len(s))
    cut = size if ranks is None else ranks
    one_by_one = sum(abs(a - b) for a, b in zip(t[:cut], s[:cut], strict=True))
    return one_by_one + abs(sum(t[cut:]) - sum(s[cut:]))


def gold_reference(
    row: Row,
    teacher_rest: Sequence[float],
    student_rest: Sequence[float],
    settings: MethodConfig,
    *,
    with_rest: bool,
    ranks: int | None = None,
) -> float:
    """The loss of one token: its common tokens, and the probabilities of all others on either side."""
    floor = settings.row_floor
    pairs = [(math.exp(t), math.exp(s)) for t, s in row]
    if with_rest:
        pairs.append((sum(teacher_rest), sum(student_rest)))
    common = sum(divergence_reference(t, s, settings, floor) for t, s in pairs)
    return settings.row_coef * common + uld_reference(teacher_rest, student_rest, ranks=ranks)
