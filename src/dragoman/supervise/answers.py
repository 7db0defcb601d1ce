"""Supervision of a teacher's own answer, re-tokenised for the student: every token counts alike."""

from __future__ import annotations

import numpy as np

from dragoman.types import DropReason, Rollout, Supervision


def supervise_answer(rollout: Rollout) -> Supervision:
    """Weight 1 on every token of the answer; a token the student's vocabulary lacks cannot occur, since
    the answer was tokenised by the student's own tokenizer.
    """
    size = len(rollout.completion)
    return Supervision(
        weight=np.ones(size, np.float32),
        reason=np.full(size, DropReason.NONE, np.uint8),
        chunk_of=np.arange(size),
        credit=None,
    )
