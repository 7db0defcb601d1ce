"""`segment`: every token receives the budgets from its own chunk to the next hard boundary.

    A_i = sum of D_c over chunks c from the token's own to the end of its segment

Needs: a teacher of level 0, and hard boundaries (`supervise.boundaries`). A chunk's D is not the log-ratio
of its tokens' meanings alone: at a border that some token could cross, the teacher's token also says "and
nothing continues me here", and that is repaid in the next chunk. At a hard boundary accounts are settled.

A chunk that does not count (no signal, or odd under a guard) adds nothing to the sums of those before it
and ends its segment, as the account behind it is unknown. Source: ours.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from dragoman.supervise.credit.chunks import Chunks, return_to_go


def credit(chunks: Chunks) -> Float64[np.ndarray, " S"]:
    """Return-to-go of D within the segment; raises ValueError without segments."""
    if chunks.segment_of is None:
        raise ValueError(
            "segment credit needs Chunks.segment_of, but there are no segments; make the settings with "
            "`boundaries=Boundaries.of_pair(tables)`"
        )
    return return_to_go(chunks.budget, chunks.segment_of)[chunks.chunk_of]
