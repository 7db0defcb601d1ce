"""Targets of methods that compare distributions: rows on student tokens, and stretches taken as wholes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8

from dragoman.kinds import RowLabel


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """A row of teacher mass for each student token: sparse, on student ids, with the mass left over.

    Row i, the target of the distribution that student token i was drawn from, is the candidates
    `bounds[i]:bounds[i + 1]`. Candidate k has log mass `logp[k]` in nats and is the student token `ids[k]`;
    or, where `member_bounds` is given, the weighted set of student tokens
    `ids[member_bounds[k]:member_bounds[k + 1]]`, whose student mass is `sum exp(log_weight) * S(id)`. The
    stop set is one candidate, named by its smallest id. `residual[i]` is the probability (not its log)
    outside the candidates: candidates and residual sum to 1 in every row that is labelled. Where a row is
    `partial`, the residual may lie on candidates too: nothing is known but the candidates' proportions.

    >>> # two tokens: " the" with .7 and " a" with .2, the rest unknown; then a place without a row
    >>> rows = Rows(
    ...     bounds=np.array([0, 2, 2]), ids=np.array([260, 257]),
    ...     logp=np.log(np.array([0.7, 0.2], np.float32)), residual=np.array([0.1, 0.0], np.float32),
    ...     label=np.array([RowLabel.LOWER, RowLabel.NONE], np.uint8))
    >>> len(rows), rows.num_candidates.tolist()
    (2, [2, 0])
    """

    bounds: Int64[np.ndarray, " S_plus_1"]
    ids: Int64[np.ndarray, " M"]
    logp: Float32[np.ndarray, " K"]
    residual: Float32[np.ndarray, " S"]
    label: UInt8[np.ndarray, " S"]
    member_bounds: Int64[np.ndarray, " K_plus_1"] | None = None
    log_weight: Float32[np.ndarray, " M"] | None = None
    partial: Bool[np.ndarray, " S"] | None = None

    def __post_init__(self) -> None:
        size, candidates = len(self.residual), len(self.logp)
        members = candidates if self.member_bounds is None else int(self.member_bounds[-1])
        if len(self.bounds) != size + 1 or self.bounds[-1] != candidates or len(self.label) != size:
            raise ValueError(
                f"Rows axes disagree: {size} residuals, {len(self.bounds)} bounds to {self.bounds[-1]}, "
                f"{candidates} candidates, {len(self.label)} labels"
            )
        if len(self.ids) != members:
            raise ValueError(f"Rows have {len(self.ids)} member ids, expected {members}")

    def __len__(self) -> int:
        return len(self.residual)

    @property
    def num_candidates(self) -> Int64[np.ndarray, " S"]:
        """Candidates of each row."""
        return np.diff(self.bounds)

    @property
    def has_row(self) -> Bool[np.ndarray, " S"]:
        """Which student tokens have a row."""
        return self.label != RowLabel.NONE


@dataclass(frozen=True, kw_only=True, eq=False)
class Units:
    """Stretches that both sides spell, as wholes: student tokens with `unit_of[i] == u` (-1: in none) belong
    to unit u, which the teacher gives the log-prob `teacher_logp[u]` (nats) in `num_teacher[u]` tokens."""

    unit_of: Int64[np.ndarray, " S"]
    teacher_logp: Float32[np.ndarray, " U"]
    num_teacher: Int64[np.ndarray, " U"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Account:
    """Credits that are settled when a whole step is known: those of `is_open` tokens are, before the clamp,
    `own + share * neighbours` in nats. `pairs` are the budgets of neighbouring chunks, from which the share
    is found; None until then. Those of `is_penalised` tokens are `penalty` below the mean of the open ones.
    """

    own: Float64[np.ndarray, " S"]
    neighbours: Float64[np.ndarray, " S"]
    is_open: Bool[np.ndarray, " S"]
    is_penalised: Bool[np.ndarray, " S"]
    penalty: float
    pairs: Float64[np.ndarray, "P 2"]
    clamp: float | None = None
    share: float | None = None
