"""SimCT: tokens of both vocabularies and the realised unit, as choices among each other.

Needs a teacher of level 1 or 2. Source: Sun et al. 2026 (arXiv 2605.07711); code of the authors:
`kdflow/algorithms/span_ctkd.py` in sunjie279/SimCT-.
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from dragoman.config import MethodConfig
from dragoman.objective.conditional import log_softmax, sums
from dragoman.objective.output import LossOutput
from dragoman.objective.scored import Scored, ScoredUnits, needed
from dragoman.observe import Metrics, Ratio


def simct(scored: Scored, settings: MethodConfig) -> LossOutput:
    """Sum over tokens n with a row of `weight_n KL(S_n || T_n)`, both over the candidates of row n.

    Candidates are the row's shared tokens and, where a unit of several tokens on either side begins at n,
    that unit. A token's score is its log-prob, a unit's the *mean* of the log-probs of its tokens on
    either side; S_n and T_n are the softmax of the scores. In nats. The authors take the mean of raw
    logits, which depends on a constant that a model is free to add at each position; log-probs do not.

    Not a distance to the teacher: scores of units and tokens are not on one scale, since a mean of m
    log-probs is the m-th root of a probability, with m of its own on either side. Where the student
    follows the teacher's text exactly the loss can be above 0 with a gradient (a test holds this fixed).
    The softmax renormalises too: mass outside the candidates is nobody's concern.
    """
    rows = needed(scored.rows, "rows")
    units = needed(scored.units, "units")
    size = len(scored.logp)
    first, unit, num_student = _long_units(units, rows.has_row)
    total = torch.zeros(len(units.num_teacher), dtype=scored.logp.dtype, device=scored.logp.device)
    inside = units.unit_of >= 0
    total = total.index_add(0, units.unit_of[inside], scored.logp[inside])
    row_of = torch.cat([rows.row_of, first])
    student = torch.cat([rows.student_logp, total[unit] / num_student])
    teacher_unit = (units.teacher_logp / units.num_teacher)[unit]
    teacher = torch.cat([rows.teacher_logp, teacher_unit.to(rows.teacher_logp)])
    log_s = log_softmax(student, row_of, size)
    log_t = log_softmax(teacher, row_of, size)
    divergence_N = sums(log_s.exp() * (log_s - log_t), row_of, size)
    num_rows = int(rows.has_row.sum())
    return LossOutput(
        total=(scored.weight * divergence_N).sum(),
        metrics=Metrics(
            {
                "row_divergence": Ratio(float(divergence_N.detach().sum()), num_rows),
                "unit_rate": Ratio(len(first), num_rows),
            }
        ),
    )


def _long_units(
    units: ScoredUnits, has_row: Tensor
) -> tuple[Int[Tensor, " L"], Int[Tensor, " L"], Int[Tensor, " L"]]:
    """Units of several tokens on a side that begin at a row: first token, unit, student tokens.

    A unit of one token on both sides is that token, which the row itself holds.
    """
    inside = units.unit_of >= 0
    sizes = torch.zeros_like(units.num_teacher)
    sizes = sizes.index_add(0, units.unit_of[inside], torch.ones_like(units.unit_of[inside]).to(sizes))
    starts = inside.clone()
    starts[1:] &= units.unit_of[1:] != units.unit_of[:-1]
    first = torch.nonzero(starts & has_row)[:, 0]
    unit = units.unit_of[first]
    several = (sizes[unit] > 1) | (units.num_teacher[unit] > 1)
    return first[several], unit[several], sizes[unit[several]]
