"""Rows compared on their candidates alone, both sides renormalised: `shared`, as published."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from dragoman.config import MethodConfig
from dragoman.objective.conditional import on_candidates, sums
from dragoman.objective.output import LossOutput
from dragoman.objective.rows import row_divergence
from dragoman.objective.scored import Scored, ScoredRows, needed
from dragoman.observe import Metrics, Ratio


def shared(scored: Scored, settings: MethodConfig) -> LossOutput:
    """Sum over tokens with a row of `weight * divergence(T(. | C), S(. | C))`, in nats.

    C are the candidates of the row, under `method.student_topk` = k the k of them to which the student gives
    most; T(u | C) = T(u) / sum of T over C, and S alike. The divergence is that of `method.divergence`,
    published as reverse KL; all else is as in `row_divergence`.

    Mass outside C is nobody's concern, so it may drift: the loss is 0 for a student that has half of its mass
    there as long as the candidates' ratios are right. `row_divergence` on the same rows has a bin for it.

    Source: strict shared-vocabulary distillation (arXiv 2610.08448).
    """
    rows = needed(scored.rows, "rows")
    if settings.student_topk is not None:
        rows = _keep(rows, _likeliest(rows, settings.student_topk))
    loss = row_divergence(replace(scored, rows=on_candidates(rows)), settings)
    left_out = 1.0 - sums(rows.teacher_logp.detach().exp(), rows.row_of, len(rows.has_row))[rows.has_row]
    residual = Ratio(float(left_out.sum()), int(rows.has_row.sum()))
    return LossOutput(total=loss.total, metrics=Metrics({**loss.metrics.ratios, "row_residual": residual}))


def _likeliest(rows: ScoredRows, topk: int) -> Bool[Tensor, " C"]:
    """The `topk` candidates of each row to which the student gives most."""
    by_mass = torch.argsort(rows.student_logp.detach(), descending=True, stable=True)
    order = by_mass[torch.argsort(rows.row_of[by_mass], stable=True)]
    row_of = rows.row_of[order]
    first = torch.searchsorted(row_of, row_of)
    kept = torch.zeros(len(order), dtype=torch.bool, device=order.device)
    kept[order] = torch.arange(len(order), device=order.device) - first < topk
    return kept


def _keep(rows: ScoredRows, kept: Bool[Tensor, " C"]) -> ScoredRows:
    return replace(
        rows,
        row_of=rows.row_of[kept],
        teacher_logp=rows.teacher_logp[kept],
        student_logp=rows.student_logp[kept],
    )
