"""What credit rules are functions of: log-probs of sampled tokens, by chunk, and sums over stretches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64


@dataclass(frozen=True, kw_only=True, eq=False)
class Chunks:
    """Log-probs in nats, flat: of one response, or of several one behind the other, each with chunk and
    segment numbers that go on where the last one's ended. Rules give the same numbers either way.

    Chunk c has `num_student[c]` tokens and the log-probs `student_sum[c]` and `teacher_sum[c]`; token i is
    `logp[i]` and in chunk `chunk_of[i]`. A chunk that does not count (`counts`) has zeros throughout.
    """

    logp: Float64[np.ndarray, " S"]
    chunk_of: Int64[np.ndarray, " S"]
    num_student: Int64[np.ndarray, " C"]
    student_sum: Float64[np.ndarray, " C"]
    teacher_sum: Float64[np.ndarray, " C"]
    counts: Bool[np.ndarray, " C"]
    segment_of: Int64[np.ndarray, " C"] | None = None
    """The segment of every chunk, never decreasing: chunks between two hard boundaries
    (`supervise.boundaries`), where none that does not count is followed by another. For `segment`."""
    step_logp: Float64[np.ndarray, " S"] | None = None
    """r_i, the teacher's log-prob of every student token (`supervise.marginal`); NaN throughout a chunk in
    which it is not known. For `marginal` and `marginal_rtg`."""

    @property
    def budget(self) -> Float64[np.ndarray, " C"]:
        """D = L_T - L_S."""
        return self.teacher_sum - self.student_sum


CreditRule = Callable[[Chunks], Float64[np.ndarray, " S"]]
"""A pure function of flat arrays: from chunks to the credit of every token, in nats."""


def chunk_sums(values: np.ndarray, bounds: Int64[np.ndarray, " C_plus_1"]) -> Float64[np.ndarray, " C"]:
    """Sums of `values[bounds[c]:bounds[c + 1]]` in float64; exact for one value, 0 for none.

    >>> chunk_sums(np.array([1.0, 2.0, 4.0]), np.array([0, 2, 2, 3])).tolist()
    [3.0, 0.0, 4.0]
    """
    if len(bounds) == 1:
        return np.zeros(0, np.float64)
    padded = np.append(values.astype(np.float64), 0.0)
    return np.where(np.diff(bounds) > 0, np.add.reduceat(padded, bounds[:-1]), 0.0)


def return_to_go(
    values: Float64[np.ndarray, " N"], group_of: Int64[np.ndarray, " N"]
) -> Float64[np.ndarray, " N"]:
    """The sum of each value and those behind it in its group. Groups are stretches of equal numbers.

    Every sum is taken on its own, so that no group touches another, not even by rounding: additions are
    as many as the squares of the groups' sizes together.

    >>> return_to_go(np.array([1.0, 2.0, 4.0, 8.0]), np.array([0, 0, 0, 3])).tolist()
    [7.0, 6.0, 4.0, 8.0]
    """
    if not len(values):
        return values
    last = np.append(np.flatnonzero(np.diff(group_of)), len(values) - 1)
    stops = np.repeat(last + 1, np.diff(last, prepend=-1))
    places = np.stack([np.arange(len(values)), stops], axis=1).ravel()
    return np.add.reduceat(np.append(values, 0.0), places)[::2]
