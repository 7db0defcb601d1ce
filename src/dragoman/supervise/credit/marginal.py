"""`marginal`: every token is judged by the teacher's own log-prob of it.

    A_i = r_i - p_i

r_i is the log of the teacher's mass of texts that go on with student token i, given those before it in the
chunk (`supervise.marginal`). Needs: a teacher of level 1, or 2 for all of the mass. Sums to D. Where r is
not known (NaN), A_i = D / m as under `uniform`. Source: ours.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from dragoman.supervise.credit import uniform
from dragoman.supervise.credit.chunks import Chunks


def credit(chunks: Chunks) -> Float64[np.ndarray, " S"]:
    """r_i - p_i; the whole of D, by one subtraction, to a token alone in its chunk."""
    steps = known_steps(chunks)
    of = chunks.chunk_of
    shared = np.where(np.isnan(steps), uniform.credit(chunks), steps - chunks.logp)
    return np.where(chunks.num_student[of] == 1, chunks.budget[of], shared)


def known_steps(chunks: Chunks) -> Float64[np.ndarray, " S"]:
    """r; raises ValueError where it is missing."""
    if chunks.step_logp is None:
        raise ValueError(
            "marginal credit needs Chunks.step_logp, but it is missing; make the settings with "
            "`marginals=Marginals(tables)` and a teacher that gives its most likely tokens (teacher.topk)"
        )
    return chunks.step_logp
