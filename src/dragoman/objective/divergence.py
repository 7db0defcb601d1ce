"""Divergences between the teacher's and the student's law over the bins of a row, one value a token, in nats.

The bins of a row are its candidates and the residual, which is never renormalised away: with T and S the
masses of a bin under teacher and student, both sum to 1 over a row. Sums over bins cancel down to the
divergence, so all of it happens in the precision of the student's log-probs, float32 or better.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dragoman.config import MethodConfig
from dragoman.objective.scored import ScoredRows

ROUNDING = 1e-6
"""Teacher mass below this where the student can have none at all is rounding, and no loss."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Bins:
    """All bins of N rows, B in all: bin b is in row `row_of[b]`; log masses, -inf for none."""

    row_of: Int[Tensor, " B"]
    teacher: Float[Tensor, " B"]
    student: Float[Tensor, " B"]  # (grad)
    num_rows: int

    def sums(self, values: Float[Tensor, " B"]) -> Float[Tensor, " N"]:
        """The sum of some value over the bins of each row."""
        return values.new_zeros(self.num_rows).index_add(0, self.row_of, values)


def row_bins(rows: ScoredRows) -> Bins:
    """Candidates and residuals of the tokens that have a row; the others have no bins."""
    own = rows.has_row[rows.row_of]
    (places,) = rows.has_row.nonzero(as_tuple=True)
    student = torch.cat([rows.student_logp[own], rows.student_rest[places]])
    return Bins(
        row_of=torch.cat([rows.row_of[own], places]),
        teacher=torch.cat([rows.teacher_logp[own], rows.teacher_rest[places]]).to(student.dtype),
        student=student,
        num_rows=len(rows.has_row),
    )


def forward_kl(bins: Bins) -> Float[Tensor, " N"]:
    """`KL(T || S) = sum T (log T - log S)`; its gradient in log S is -T."""
    return bins.sums(_expected_gap(bins.teacher, bins.teacher, bins.student))


def reverse_kl(bins: Bins, floor: float) -> Float[Tensor, " N"]:
    """`KL(S || T) = sum S (log S - log max(T, floor))`.

    Where a bin of the teacher has less mass than the floor, the value is below the true one and the student
    is held to the floor instead of to the teacher.
    """
    return bins.sums(_expected_gap(bins.student, bins.student, bins.teacher.clamp_min(math.log(floor))))


def generalised_jsd(bins: Bins, beta: float) -> Float[Tensor, " N"]:
    """`beta KL(T || M) + (1 - beta) KL(S || M)` with `M = beta T + (1 - beta) S`; finite for any T and S.

    Symmetric at beta = 1/2. Divided by beta it tends to KL(T || S) for beta towards 0, and divided by
    1 - beta to KL(S || T) for beta towards 1. Source: Agarwal et al. 2024, GKD (arXiv 2306.13649, section 2).
    """
    mixed = _mixture(bins, beta)
    teacher = _expected_gap(bins.teacher, bins.teacher, mixed)
    student = _expected_gap(bins.student, bins.student, mixed)
    return bins.sums(beta * teacher + (1.0 - beta) * student)


def skewed_kl(bins: Bins, beta: float) -> Float[Tensor, " N"]:
    """`KL(T || beta T + (1 - beta) S)`, at most `-log beta`.

    Sources: the skew divergence of Lee 2001; for distillation Ko et al. 2024, DistiLLM (arXiv 2402.03898).
    """
    return bins.sums(_expected_gap(bins.teacher, bins.teacher, _mixture(bins, beta)))


def divergence(bins: Bins, settings: MethodConfig) -> Float[Tensor, " N"]:
    """The divergence that `method.divergence` names; 0 for a token without a row."""
    return _DIVERGENCES[settings.divergence](bins, settings)


def teacher_entropy(bins: Bins) -> Float[Tensor, " N"]:
    """`-sum T log T` over the bins: a lower bound of the entropy of the teacher's whole row."""
    zero = torch.zeros_like(bins.teacher)
    return -bins.sums(_expected_gap(bins.teacher, bins.teacher, zero))


_DIVERGENCES: dict[str, Callable[[Bins, MethodConfig], Float[Tensor, " N"]]] = {
    "forward": lambda bins, settings: forward_kl(bins),
    "reverse": lambda bins, settings: reverse_kl(bins, settings.row_floor),
    "jsd": lambda bins, settings: generalised_jsd(bins, settings.beta),
    "skewed": lambda bins, settings: skewed_kl(bins, settings.beta),
}


def _expected_gap(
    law: Float[Tensor, " B"], first: Float[Tensor, " B"], second: Float[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """`exp(law) * (first - second)`, 0 and without gradient where the law has no mass, or no more than
    rounding while `second` has none."""
    counted = ~torch.isneginf(law) & ~(torch.isneginf(second) & (law < math.log(ROUNDING)))
    zero = torch.zeros_like(first)
    gap = torch.where(counted, first, zero) - torch.where(counted, second, zero)
    return torch.where(counted, law, zero).exp() * gap


def _mixture(bins: Bins, beta: float) -> Float[Tensor, " B"]:
    """`log(beta T + (1 - beta) S)`, -inf where both are."""
    neither = torch.isneginf(bins.teacher) & torch.isneginf(bins.student)
    teacher = bins.teacher.masked_fill(neither, 0.0) + math.log(beta)
    student = bins.student.masked_fill(neither, 0.0) + math.log1p(-beta)
    return torch.logaddexp(teacher, student).masked_fill(neither, -torch.inf)
