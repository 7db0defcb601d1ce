"""`span`: every token receives the budgets of all chunks that its choice had a part in.

    A_i = D(own segment)
          + D(first chunk of the next segment)
          + D(segment before), for tokens of a segment's first chunk

D of a segment is the sum of its chunks' budgets. Needs: a teacher of level 0, and segments
(`supervise.boundaries`, there called spans).

Why not the budgets from the token on, as in `segment`? Where the teacher's tokens end depends on what the
student writes later: " f" is a token of its own before "as", and part of " fu" before "u". So the budget of
the chunk " f" is a consequence of the token behind it, and a credit that leaves it out prefers, at " f",
whatever makes the teacher end a token there. The same holds across a segment's end: that nothing goes on is
said by what comes next. Budgets further away are not this token's doing; in expectation they only add noise.

With every chunk of a text in one segment this is the exact policy gradient of KL(S || T) over texts, as far
as the student writes canonically. Source: dragoman; docs/decisions/0010-span-credit.md.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from dragoman.supervise.credit.chunks import Chunks


def credit(chunks: Chunks) -> Float64[np.ndarray, " S"]:
    """The sums above. Segments are neighbours if their numbers are; raises ValueError without segments."""
    segment_of = chunks.segment_of
    if segment_of is None:
        raise ValueError(
            "span credit needs Chunks.segment_of, but there are no segments; make the settings with "
            "`boundaries=Boundaries.of_pair(tables)`"
        )
    if not len(segment_of):
        return np.zeros(0)
    budget = chunks.budget
    first = np.flatnonzero(np.diff(segment_of, prepend=segment_of[0] - 1))
    number = np.cumsum(np.diff(segment_of, prepend=segment_of[0]) > 0)
    total = np.add.reduceat(budget, first)
    linked = np.diff(segment_of[first]) == 1
    following = np.append(np.where(linked, budget[first[1:]], 0.0), 0.0)
    before = np.insert(np.where(linked, total[:-1], 0.0), 0, 0.0)
    of_chunk = (total + following)[number]
    of_chunk[first] += before
    return of_chunk[chunks.chunk_of]
