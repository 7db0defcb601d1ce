"""`semantic_prior`: the budget of a chunk in proportion to the student's own surprise.

    A_i = (L_T / L_S - 1) p_i        or  L_T / m - p_i  where |L_S| < 1e-8

Needs: a teacher of level 0. Sums to D; the ratio explodes near L_S = 0. Source: arXiv 2606.09456.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from dragoman.supervise.credit.chunks import Chunks

NEAR_CERTAIN = 1e-8
"""|L_S| below which the budget is shared evenly, as the ratio has no meaning there (arXiv 2606.09456)."""


def credit(chunks: Chunks) -> Float64[np.ndarray, " S"]:
    """The token's part of D; the whole of it, by one subtraction, to a token alone in its chunk."""
    near_certain = np.abs(chunks.student_sum) < NEAR_CERTAIN
    scale = np.divide(
        chunks.teacher_sum, chunks.student_sum, where=~near_certain, out=np.ones_like(chunks.student_sum)
    )
    even = chunks.teacher_sum / np.maximum(chunks.num_student, 1)
    of = chunks.chunk_of
    shared = np.where(near_certain[of], even[of] - chunks.logp, (scale[of] - 1.0) * chunks.logp)
    return np.where(chunks.num_student[of] == 1, chunks.budget[of], shared)
