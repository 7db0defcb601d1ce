"""`uniform`: the budget of a chunk in equal parts.

    A_i = D / m

Needs: a teacher of level 0. Has the direction of `chunk` at 1/m of its length; sums to D. A baseline.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from dragoman.supervise.credit.chunks import Chunks


def credit(chunks: Chunks) -> Float64[np.ndarray, " S"]:
    """D / m of the token's chunk."""
    return (chunks.budget / np.maximum(chunks.num_student, 1))[chunks.chunk_of]
