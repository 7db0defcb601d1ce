"""`compass`: the teacher's change against its reference, less a share of the student's against its own.

    A_i = (L_T - L_T') - alpha (L_S - L_S')

for every token of a chunk with log-probs L_T and L_S; L_T' is that of the same teacher tokens under a small
model of the teacher's family, L_S' that of the same student tokens under the student before training. What
two families agree on among themselves, and the student can do nothing about, falls out of the difference.

Needs: a teacher of level 3 (`teacher.reference`) and a frozen student. Source: arXiv 2609.10154.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from dragoman.config import MethodConfig
from dragoman.supervise.credit import Chunks
from dragoman.supervise.credit.chunks import chunk_sums
from dragoman.supervise.sampled import Supervise, settings_of, supervise_sampled
from dragoman.text.pair import PairTables
from dragoman.types import Alignment, DropReason, Rollout, Supervision, TeacherScores


def build(tables: PairTables, config: MethodConfig) -> Supervise:
    """The supervision under a configuration; `alpha` is `method.reference_alpha`."""

    def supervise(rollout: Rollout, scores: TeacherScores, alignment: Alignment) -> Supervision:
        return supervise_compass(rollout, scores, alignment, config)

    return supervise


def supervise_compass(
    rollout: Rollout, scores: TeacherScores, alignment: Alignment, config: MethodConfig
) -> Supervision:
    """Credits of one rollout. A chunk that either reference could not score has no signal, and the reason of
    one that the model beside it could not score: `teacher_context` or `non_finite`.

    Raises ValueError where a reference's log-probs are missing altogether.
    """
    if scores.reference_logp is None or rollout.reference_logp is None or rollout.behaviour_logp is None:
        raise ValueError(
            f"rollout {rollout.key}: compass needs the log-probs of the teacher's reference and of the "
            "student before training, but not all are there; set teacher.reference.model"
        )
    student = chunk_sums(rollout.reference_logp, alignment.student_bounds)
    teacher = chunk_sums(scores.reference_logp, alignment.teacher_bounds)

    def credit(chunks: Chunks) -> Float64[np.ndarray, " S"]:
        own = chunks.student_sum - student
        return ((chunks.teacher_sum - teacher) - config.reference_alpha * own)[chunks.chunk_of]

    return supervise_sampled(
        _with_gaps_of_reference(rollout),
        _with_gaps_of_teacher_reference(scores),
        alignment,
        settings_of(config, credit),
    )


def _with_gaps_of_reference(rollout: Rollout) -> Rollout:
    """The rollout without log-probs where the student before training has none."""
    assert rollout.behaviour_logp is not None and rollout.reference_logp is not None
    known = np.isfinite(rollout.reference_logp)
    return replace(rollout, behaviour_logp=np.where(known, rollout.behaviour_logp, np.float32(np.nan)))


def _with_gaps_of_teacher_reference(scores: TeacherScores) -> TeacherScores:
    """The scores without values where the reference has none. Where it has none from some token to the end,
    its context, which may be shorter than the teacher's, is over."""
    assert scores.reference_logp is not None
    known = np.isfinite(scores.reference_logp)
    beyond = np.cumsum(known[::-1])[::-1] == 0
    reason = np.where(beyond, DropReason.TEACHER_CONTEXT, DropReason.NON_FINITE)
    gap = ~known & (scores.missing == DropReason.NONE)
    return replace(
        scores,
        logp=np.where(gap, np.float32(np.nan), scores.logp),
        missing=np.where(gap, reason, scores.missing).astype(np.uint8),
    )
