"""What can be added to any loss: tokens left out because they moved, and a pull towards a reference."""

from __future__ import annotations

from dataclasses import replace

import torch

from dragoman.config import MethodConfig
from dragoman.objective.output import LossOutput
from dragoman.objective.scored import Objective, Scored, needed
from dragoman.observe import Metrics, Ratio


def modified(objective: Objective) -> Objective:
    """The objective with `method.max_policy_shift` and `method.reference_kl`; the very same loss where
    neither is set."""

    def with_modifiers(scored: Scored, settings: MethodConfig) -> LossOutput:
        metrics = Metrics()
        if settings.max_policy_shift is not None:
            scored, metrics = without_moved(scored, settings.max_policy_shift)
        output = objective(scored, settings)
        total, metrics = output.total, output.metrics.merge(metrics)
        if settings.reference_kl > 0:
            penalty = reference_kl(scored, settings)
            total, metrics = total + penalty.total, metrics.merge(penalty.metrics)
        return LossOutput(total=total, metrics=metrics)

    return with_modifiers


def without_moved(scored: Scored, limit: float) -> tuple[Scored, Metrics]:
    """Weight 0 for tokens whose log-prob differs by more than `limit` nats from that under the policy that
    sampled them, where an importance ratio says little; counted in `policy_shift_mask_rate`.

    They stay in the count that the loss is divided by.
    """
    with torch.no_grad():
        moved = (scored.logp - needed(scored.behaviour_logp, "behaviour_logp")).abs() > limit
    rate = Ratio(int(moved.sum()), len(moved))
    return (
        replace(scored, weight=scored.weight.masked_fill(moved, 0.0)),
        Metrics({"policy_shift_mask_rate": rate}),
    )


def reference_kl(scored: Scored, settings: MethodConfig) -> LossOutput:
    """Sum over tokens of `weight * reference_kl * (exp(r) - r - 1)`, `r = reference_logp - logp` clamped to
    ±`log_ratio_clamp`.

    For tokens that the student itself sampled the value estimates KL(S || reference) without bias, with less
    variance than -r and never below 0 (Schulman 2020, "Approximating KL divergence", k3; used as a penalty
    by DeepSeekMath, arXiv 2402.03300). Its gradient `(1 - exp(r)) grad logp` is in expectation that of
    KL(reference || S), which agrees with it near the reference and has the same minimum.
    """
    bound = settings.log_ratio_clamp
    ratio = (needed(scored.reference_logp, "reference_logp") - scored.logp).clamp(-bound, bound)
    value_N = torch.expm1(ratio) - ratio
    return LossOutput(
        total=settings.reference_kl * (scored.weight * value_N).sum(),
        metrics=Metrics({"reference_kl": Ratio(float(value_N.detach().sum()), len(value_N))}),
    )
