"""Approximate likelihood matching: the probability of a chunk, as one event that happens or does not.

Needs a teacher of level 0. Source: Minixhofer, Vulić and Ponti 2025 (arXiv 2503.20083); code of the
authors: tokenkit, `training/losses.py`.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from dragoman.config import MethodConfig
from dragoman.objective.divergence import Bins, divergence, reverse_kl
from dragoman.objective.output import LossOutput
from dragoman.objective.scored import Scored, needed
from dragoman.observe import Metrics, Ratio

LEAST = 2.0**-24
"""A log-prob closer to 0 than this counts as this far off: 1 - p is not known better in float32, and a
logarithm of 0 would follow. The authors subtract 1e-6 from every log-prob divided by tau instead."""


def alm(scored: Scored, settings: MethodConfig) -> LossOutput:
    """Sum over units u of `weight_u` times

        f(T_u^(1/tau) || S_u^(1/tau)) + f(1 - T_u^(1/tau) || 1 - S_u^(1/tau))

    T_u is the teacher's and S_u the student's probability of the whole unit, the latter from the sum of
    its tokens' log-probs; f is `method.divergence` of a single outcome. `weight_u` is the sum of the
    weights of the unit's tokens, so a unit counts as often as it has student tokens and a loss normalised
    by tokens stays one; the authors count each unit once. All in logarithms: probabilities near 0 and
    near 1 keep their digits. In nats.

    The minimum is T_u = S_u, and 0, for every f; a unit alone does not say what else the teacher would
    have written.
    """
    units = needed(scored.units, "units")
    inside = units.unit_of >= 0
    unit_of = units.unit_of[inside]
    empty = torch.zeros_like(units.teacher_logp)
    student_U = empty.to(scored.logp).index_add(0, unit_of, scored.logp[inside])
    weight_U = empty.to(scored.weight).index_add(0, unit_of, scored.weight[inside])
    loss_U = binarised(units.teacher_logp, student_U, settings)
    # A unit none of whose tokens is in the batch has no student side.
    present = torch.zeros_like(empty, dtype=torch.bool).index_fill(0, unit_of, True)
    return LossOutput(
        total=(weight_U * loss_U).sum(),
        metrics=Metrics(
            {"unit_divergence": Ratio(float(loss_U.detach()[present].sum()), int(present.sum()))}
        ),
    )


def binarised(
    teacher_logp: Float[Tensor, " U"], student_logp: Float[Tensor, " U"], settings: MethodConfig
) -> Float[Tensor, " U"]:
    """The divergence of two outcomes, the unit and anything else, at temperature `settings.tau`."""
    log_t = teacher_logp.clamp(max=-LEAST).to(student_logp) / settings.tau
    log_s = student_logp.clamp(max=-LEAST) / settings.tau
    bins = Bins(
        row_of=torch.arange(len(log_t), device=log_s.device).repeat(2),
        teacher=torch.cat([log_t, log1mexp(log_t)]),
        student=torch.cat([log_s, log1mexp(log_s)]),
        num_rows=len(log_t),
    )
    # The floor of rows is for masses that may be 0; here all are known, however small.
    return reverse_kl(bins, math.ulp(0.0)) if settings.divergence == "reverse" else divergence(bins, settings)


def log1mexp(x: Float[Tensor, " U"]) -> Float[Tensor, " U"]:
    """log(1 - exp(x)) for x < 0, to the last digits both near 0 and far from it (Mächler 2012)."""
    near = x > -math.log(2.0)
    # Each branch sees harmless values where the other is taken: 0 times an infinite slope is NaN.
    small = torch.where(near, x, -1.0)
    large = torch.where(near, -1.0, x)
    return torch.where(near, (-torch.expm1(small)).log(), torch.log1p(-large.exp()))
