"""Rows of teacher mass as a loss, alone and together with credits."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from dragoman.config import MethodConfig
from dragoman.objective.conditional import on_candidates
from dragoman.objective.divergence import divergence, forward_kl, row_bins, teacher_entropy
from dragoman.objective.output import LossOutput
from dragoman.objective.policy_gradient import policy_gradient
from dragoman.objective.scored import Scored, ScoredRows, needed
from dragoman.observe import Metrics, Ratio


def row_divergence(scored: Scored, settings: MethodConfig) -> LossOutput:
    """Sum over tokens with a row of `weight * row_coef * reliability * divergence`, in nats.

    The divergence is the one that `method.divergence` names, over candidates and residual; where the
    teacher's entropy over these bins reaches `method.entropy_switch`, forward KL (arXiv 2603.07079).
    Reliability is 1, or under `method.reliability: mass` the teacher mass of the candidates.

    A partial row (`Rows.partial`) is compared on its candidates alone, and its reliability is always the
    teacher mass of these: what is known of them is their proportions.
    """
    rows = needed(scored.rows, "rows")
    weight_N = scored.weight * settings.row_coef
    known_N = 1.0 - _residual(rows)
    if settings.reliability == "mass":
        weight_N = weight_N * known_N
    elif rows.partial is not None:
        weight_N = torch.where(rows.partial, weight_N * known_N, weight_N)
    bins = row_bins(rows if rows.partial is None else on_candidates(rows, rows.partial))
    value_N = divergence(bins, settings)
    switched_N = torch.zeros_like(rows.has_row)
    if settings.entropy_switch is not None:
        switched_N = rows.has_row & (teacher_entropy(bins) >= settings.entropy_switch)
        value_N = torch.where(switched_N, forward_kl(bins), value_N)
    num_rows = int(rows.has_row.sum())
    with torch.no_grad():
        metrics = {
            "row_divergence": Ratio(float(value_N.sum()), num_rows),
            "row_residual": Ratio(float(_residual(rows).sum()), num_rows),
            "row_rate": Ratio(num_rows, len(rows.has_row)),
            "row_forward_rate": Ratio(int(switched_N.sum()), num_rows),
        }
    return LossOutput(total=(weight_N * value_N).sum(), metrics=Metrics(metrics))


def mixed(scored: Scored, settings: MethodConfig) -> LossOutput:
    """`credit_coef * policy_gradient + row_divergence` (which has its own `row_coef`).

    Under `method.negative: divergence` a token with a row gets one of the two only: the policy gradient
    where its credit is positive, the divergence of its row elsewhere (arXiv 2605.06387). A token without a
    row keeps its credit, of either sign.
    """
    weight_N = scored.weight
    by_credit_N = by_row_N = weight_N
    if settings.negative == "divergence" and scored.rows is not None:
        positive_N = needed(scored.credit, "credit") > 0
        by_credit_N = weight_N * (positive_N | ~scored.rows.has_row)
        by_row_N = weight_N * ~positive_N
    credit = policy_gradient(replace(scored, weight=by_credit_N), settings)
    rows = row_divergence(replace(scored, weight=by_row_N), settings)
    return LossOutput(
        total=settings.credit_coef * credit.total + rows.total, metrics=credit.metrics.merge(rows.metrics)
    )


def _residual(rows: ScoredRows) -> Float[Tensor, " N"]:
    """Teacher mass outside the candidates; 0 where there is no row."""
    return torch.where(rows.has_row, rows.teacher_rest.exp(), 0.0)
