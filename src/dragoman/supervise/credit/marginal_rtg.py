"""`marginal_rtg`: the return-to-go of `marginal` inside the chunk.

    A_i = sum over k >= i of r_k - p_k, within the chunk

Needs: what `marginal` needs. The exact gradient of the chunk-level KL, as `chunk` is: what came before token
i is taken off its credit, which changes the variance and not the mean. Where r is not known (NaN), A_i = D,
the same gradient without that. Source: ours.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from dragoman.supervise.credit.chunks import Chunks, return_to_go
from dragoman.supervise.credit.marginal import known_steps


def credit(chunks: Chunks) -> Float64[np.ndarray, " S"]:
    """Return-to-go of r - p; the whole of D, by one subtraction, to a token alone in its chunk."""
    steps = known_steps(chunks)
    of = chunks.chunk_of
    whole = np.isnan(steps) | (chunks.num_student[of] == 1)
    return np.where(whole, chunks.budget[of], return_to_go(steps - chunks.logp, of))
