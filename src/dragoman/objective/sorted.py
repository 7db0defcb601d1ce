"""Universal logit distillation and its hybrid with a divergence on common tokens: `uld`, `gold`.

Both compare what has no counterpart by rank alone, so which token has which probability does not matter
there (a test holds this fixed). They need a teacher of level 2, or take what level 1 leaves out as one
bin. Sources: Boizard et al. 2024 (arXiv 2402.12030); Patiño et al. 2025, "Unlocking On-Policy
Distillation for Any Model Family", as `ULDLoss` of `trl.experimental.gold`.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from dragoman.config import MethodConfig
from dragoman.objective.divergence import Bins, divergence, row_bins
from dragoman.objective.output import LossOutput
from dragoman.objective.scored import Scored, ScoredRows, needed
from dragoman.observe import Metrics, Ratio


def uld(scored: Scored, settings: MethodConfig) -> LossOutput:
    """Sum over tokens n of `weight_n sum_r |s_(r) - t_(r)|`, probabilities by rank, over both vocabularies.

    The shorter vocabulary is padded with zeros. `teacher_sorted` lists the teacher's R largest; what it
    does not list is one last bin on both sides, so the loss is exact where it lists all. Between 0 and 2,
    and 0 for a student that gives the teacher's probabilities to the wrong tokens. The settings are those
    of every objective, unused here.
    """
    distance_N = _sorted_distance(scored, torch.zeros_like(scored.logp), torch.zeros_like(scored.logp))
    return LossOutput(
        total=(scored.weight * distance_N).sum(),
        metrics=Metrics({"sorted_distance": _mean(distance_N)}),
    )


def gold(scored: Scored, settings: MethodConfig) -> LossOutput:
    """Sum over tokens n of `weight_n (row_coef D_n + sum_r |s_(r) - t_(r)|)`, as published.

    D_n is `method.divergence` summed over the row's common tokens with their masses as they are, neither
    renormalised nor with a bin for the rest; the distance is that of `uld` over tokens that have no
    counterpart. TRL's divergence is `jsd`, with logarithms of probabilities below 1e-8 taken at 1e-8.
    Under `forward`, with rows from the projection, this is H-KL of X-Token (arXiv 2605.21699).

    TRL weighs the two parts by `uld_hybrid_matched_weight` and `uld_hybrid_unmatched_weight`, or, left
    out, by the share a of the teacher's vocabulary that is common and 1 - a: up to the constant 1 - a
    that is `method.row_coef` a / (1 - a), which `supervise.sorted.adaptive_row_coef` gives. Where a chunk
    has several tokens, TRL multiplies the row on either side by the probability of the realised tokens
    behind the first; here rows are what the models say, once.

    D_n over a part of the vocabulary is no divergence. Under `forward` it can be negative, and where the
    student has the teacher's masses it pushes every token outside the common ones down (tests hold both
    fixed); `gold_normalised` repairs that.
    """
    return _hybrid(scored, settings, with_rest=False)


def gold_normalised(scored: Scored, settings: MethodConfig) -> LossOutput:
    """`gold` whose D_n has one more bin, all mass outside the common tokens: a divergence of two
    distributions, least, and 0, where they agree.
    """
    return _hybrid(scored, settings, with_rest=True)


def _hybrid(scored: Scored, settings: MethodConfig, *, with_rest: bool) -> LossOutput:
    rows = needed(scored.rows, "rows")
    divergence_N = divergence(row_bins(rows) if with_rest else _common_bins(rows), settings)
    # Where there is no row the rest has no meaning; log 1 on both sides is at no distance.
    teacher_rest = torch.where(rows.has_row, rows.teacher_rest, 0.0)
    student_rest = torch.where(rows.has_row, rows.student_rest, 0.0)
    distance_N = _sorted_distance(scored, teacher_rest, student_rest)
    loss_N = torch.where(rows.has_row, settings.row_coef * divergence_N + distance_N, 0.0)
    num_rows = int(rows.has_row.sum())
    return LossOutput(
        total=(scored.weight * loss_N).sum(),
        metrics=Metrics(
            {
                "row_divergence": Ratio(float(divergence_N.detach()[rows.has_row].sum()), num_rows),
                "sorted_distance": Ratio(float(distance_N.detach()[rows.has_row].sum()), num_rows),
            }
        ),
    )


def _common_bins(rows: ScoredRows) -> Bins:
    """The candidates alone: masses that do not sum to 1."""
    own = rows.has_row[rows.row_of]
    return Bins(
        row_of=rows.row_of[own],
        teacher=rows.teacher_logp[own].to(rows.student_logp),
        student=rows.student_logp[own],
        num_rows=len(rows.has_row),
    )


def _sorted_distance(
    scored: Scored, teacher_rest: Float[Tensor, " N"], student_rest: Float[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """L1 between sorted probabilities that sum to exp(`*_rest`), with one bin for what the teacher does not
    list. Ranks the teacher does not list are part of the bin on the student's side, too: where the teacher
    has nothing there, that is what the zeros of padding cost.
    """
    log_t = needed(scored.teacher_sorted, "teacher_sorted")
    log_s = needed(scored.student_sorted, "student_sorted")
    listed = log_t > -math.inf
    t, s = log_t.exp(), torch.where(listed, log_s, -math.inf).exp()
    tail_t, tail_s = teacher_rest.exp() - t.sum(dim=-1), student_rest.exp() - s.sum(dim=-1)
    return (s - t).abs().sum(dim=-1) + (tail_s - tail_t).abs()


def _mean(values: Float[Tensor, " N"]) -> Ratio:
    return Ratio(float(values.detach().sum()), len(values))
