"""`chunk`: every token of a chunk receives the whole budget.

    A_i = D

Needs: a teacher of level 0. The chunk is one action, so the score-function gradient of the chunk-level KL
is exact. Source: the score-function (REINFORCE) estimator, Williams 1992.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from dragoman.supervise.credit.chunks import Chunks


def credit(chunks: Chunks) -> Float64[np.ndarray, " S"]:
    """D of the token's chunk."""
    return chunks.budget[chunks.chunk_of]
