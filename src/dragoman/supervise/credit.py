"""Credit rules: how the budget D = L_T - L_S of a chunk reaches its m student tokens.

Chunks are as in arXiv 2606.09456; p_i are student log-probs, L_S and L_T the chunk's totals on either
side, all in nats. A chunk of one student token gives it all of D under every rule, taken as one
subtraction, so that equal tokenizers give plain on-policy distillation bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

NEAR_CERTAIN = 1e-8
"""|L_S| below which `semantic_prior` shares evenly, as its ratio has no meaning (arXiv 2606.09456)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Chunks:
    """The log-probs of one response, by chunk."""

    logp: Float64[np.ndarray, " S"]
    chunk_of: Int64[np.ndarray, " S"]
    num_student: Int64[np.ndarray, " C"]
    student_sum: Float64[np.ndarray, " C"]
    teacher_sum: Float64[np.ndarray, " C"]

    @property
    def budget(self) -> Float64[np.ndarray, " C"]:
        """D = L_T - L_S."""
        return self.teacher_sum - self.student_sum


CreditRule = Callable[[Chunks], Float64[np.ndarray, " S"]]


def chunk(chunks: Chunks) -> Float64[np.ndarray, " S"]:
    """A_i = D: the chunk is one action, so the score-function gradient of the chunk-level KL is exact."""
    return chunks.budget[chunks.chunk_of]


def uniform(chunks: Chunks) -> Float64[np.ndarray, " S"]:
    """A_i = D / m: the direction of `chunk` at 1/m of its length; sums to D."""
    return (chunks.budget / np.maximum(chunks.num_student, 1))[chunks.chunk_of]


def semantic_prior(chunks: Chunks) -> Float64[np.ndarray, " S"]:
    """A_i = (L_T / L_S - 1) p_i, or L_T / m - p_i where |L_S| < 1e-8: the budget in proportion to the
    student's own surprise (arXiv 2606.09456); sums to D. The ratio explodes near L_S = 0.
    """
    near_certain = np.abs(chunks.student_sum) < NEAR_CERTAIN
    scale = np.divide(
        chunks.teacher_sum, chunks.student_sum, where=~near_certain, out=np.ones_like(chunks.student_sum)
    )
    even = chunks.teacher_sum / np.maximum(chunks.num_student, 1)
    of = chunks.chunk_of
    shared = np.where(near_certain[of], even[of] - chunks.logp, (scale[of] - 1.0) * chunks.logp)
    return np.where(chunks.num_student[of] == 1, chunks.budget[of], shared)


CREDITS: dict[str, CreditRule] = {"chunk": chunk, "uniform": uniform, "semantic_prior": semantic_prior}
