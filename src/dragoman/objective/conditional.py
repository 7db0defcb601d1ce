"""Rows compared on their candidates alone, the masses of both sides made to sum to 1 there."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dragoman.objective.scored import ScoredRows


def on_candidates(rows: ScoredRows, which: Bool[Tensor, " N"] | None = None) -> ScoredRows:
    """The rows `which` names (all, for None) as `T(u | C)` and `S(u | C)`, C the candidates; the others as
    they are. Nothing pushes on a token outside C in such a row, and nothing holds it."""
    size = len(rows.has_row)
    if which is None:
        which = torch.ones(size, dtype=torch.bool, device=rows.has_row.device)
    of_candidate = which[rows.row_of]
    nothing = torch.full_like(rows.teacher_rest, -torch.inf)
    return replace(
        rows,
        teacher_logp=torch.where(
            of_candidate, log_softmax(rows.teacher_logp, rows.row_of, size), rows.teacher_logp
        ),
        student_logp=torch.where(
            of_candidate, log_softmax(rows.student_logp, rows.row_of, size), rows.student_logp
        ),
        teacher_rest=torch.where(which, nothing, rows.teacher_rest),
        student_rest=torch.where(which, nothing.to(rows.student_rest), rows.student_rest),
    )


def log_softmax(logp: Float[Tensor, " C"], row_of: Int[Tensor, " C"], size: int) -> Float[Tensor, " C"]:
    """Log-softmax within each of `size` ragged rows; -inf throughout a row without mass."""
    lowest = torch.full((size,), -torch.inf, dtype=logp.dtype, device=logp.device)
    largest = lowest.scatter_reduce(0, row_of, logp.detach(), "amax")
    # Of a row of -inf alone nothing can be said, and no NaN may come of it: not even in a gradient.
    largest = largest.masked_fill(torch.isneginf(largest), 0.0)[row_of]
    total = sums((logp - largest).exp(), row_of, size)
    return logp - largest - total.masked_fill(total == 0.0, 1.0)[row_of].log()


def sums(values: Float[Tensor, " C"], row_of: Int[Tensor, " C"], size: int) -> Float[Tensor, " N"]:
    """The sum of some value over the candidates of each of `size` ragged rows."""
    return torch.zeros(size, dtype=values.dtype, device=values.device).index_add(0, row_of, values)
