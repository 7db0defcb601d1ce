"""Sampled-token supervision: credits from the teacher's log-probs of what the student wrote.

Every student token ends with a credit or with the one reason why it has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from dragoman.supervise.credit import Chunks, CreditRule
from dragoman.types import Alignment, ChunkKind, DropReason, Rollout, Supervision, TeacherScores


class Guard(StrEnum):
    """What happens to chunks in which the student did not write as its own tokenizer would.

    A method that scores text pays the student for splitting words oddly, so without a guard it drifts.
    """

    OFF = "off"
    MASK = "mask"
    PENALTY = "penalty"


@dataclass(frozen=True, kw_only=True)
class SampledSettings:
    """Constants of sampled supervision: credits in nats, sizes in tokens."""

    credit: CreditRule
    guard: Guard = Guard.OFF
    guard_penalty: float = 3.0
    clamp: float | None = None
    max_chunk_tokens: int | None = None
    mask_normalised: bool = False


def supervise_sampled(
    rollout: Rollout, scores: TeacherScores, alignment: Alignment, settings: SampledSettings
) -> Supervision:
    """Credits for the sampled tokens of one rollout.

    Raises ValueError for a rollout without behaviour log-probs or whose axes do not fit the alignment.
    """
    logp = rollout.behaviour_logp
    if logp is None:
        raise ValueError(f"rollout {rollout.key} has no behaviour log-probs, which sampled credit needs")
    _check_axes(rollout, scores, alignment)
    reason = _chunk_reasons(rollout, scores, alignment, settings)
    odd = _any_in_chunk(~rollout.completion.canonical, alignment.student_bounds)
    if settings.guard is Guard.MASK:
        reason[odd & (reason == DropReason.NONE)] = DropReason.NON_CANONICAL
    kept = reason == DropReason.NONE
    of = alignment.chunk_of
    chunks = Chunks(
        logp=np.where(kept[of], logp, 0.0).astype(np.float64),
        chunk_of=of,
        num_student=np.diff(alignment.student_bounds),
        student_sum=np.where(kept, chunk_sums(logp, alignment.student_bounds), 0.0),
        teacher_sum=np.where(kept, chunk_sums(scores.logp, alignment.teacher_bounds), 0.0),
    )
    credit = settings.credit(chunks)
    num_clamped = 0
    if settings.clamp is not None:
        penalised = odd if settings.guard is Guard.PENALTY else np.zeros_like(odd)
        num_clamped = int((np.abs(credit[(kept & ~penalised)[of]]) > settings.clamp).sum())
        credit = np.clip(credit, -settings.clamp, settings.clamp)
    if settings.guard is Guard.PENALTY:
        credit = np.where(odd[of], -settings.guard_penalty, credit)
    return Supervision(
        weight=kept[of].astype(np.float32),
        reason=reason[of],
        chunk_of=of,
        credit=np.where(kept[of], credit, 0.0).astype(np.float32),
        num_clamped=num_clamped,
    )


def chunk_sums(values: np.ndarray, bounds: Int64[np.ndarray, " C_plus_1"]) -> Float64[np.ndarray, " C"]:
    """Sums of `values[bounds[c]:bounds[c + 1]]` in float64; exact for one value, 0 for none."""
    if len(bounds) == 1:
        return np.zeros(0, np.float64)
    padded = np.append(values.astype(np.float64), 0.0)
    return np.where(np.diff(bounds) > 0, np.add.reduceat(padded, bounds[:-1]), 0.0)


def _check_axes(rollout: Rollout, scores: TeacherScores, alignment: Alignment) -> None:
    got = (len(rollout.completion), len(scores.logp))
    expected = (int(alignment.student_bounds[-1]), int(alignment.teacher_bounds[-1]))
    if got != expected:
        raise ValueError(
            f"rollout {rollout.key} has {got[0]} student and {got[1]} teacher tokens, but its alignment "
            f"covers {expected[0]} and {expected[1]}"
        )


def _any_in_chunk(
    flags: Bool[np.ndarray, " S"], bounds: Int64[np.ndarray, " C_plus_1"]
) -> Bool[np.ndarray, " C"]:
    return np.diff(np.concatenate([[0], np.cumsum(flags)])[bounds]) > 0


def _chunk_reasons(
    rollout: Rollout, scores: TeacherScores, alignment: Alignment, settings: SampledSettings
) -> UInt8[np.ndarray, " C"]:
    """Why a chunk has no signal; the first reason that applies, `NONE` where it has."""
    bounds_s, bounds_t = alignment.student_bounds, alignment.teacher_bounds
    assert rollout.behaviour_logp is not None
    student_bad = _any_in_chunk(~np.isfinite(rollout.behaviour_logp), bounds_s)
    beyond = _any_in_chunk(scores.missing == DropReason.TEACHER_CONTEXT, bounds_t)
    teacher_bad = _any_in_chunk(scores.missing != DropReason.NONE, bounds_t)
    limit = settings.max_chunk_tokens
    longest = np.maximum(np.diff(bounds_s), np.diff(bounds_t))
    too_long = longest > limit if limit is not None else np.zeros(len(longest), bool)
    normalised = (alignment.kind == ChunkKind.NORMALISED) & settings.mask_normalised
    return np.select(
        [~alignment.comparable, normalised, beyond, student_bad | teacher_bad, too_long],
        [
            alignment.reasons,
            DropReason.NORMALISED,
            DropReason.TEACHER_CONTEXT,
            DropReason.NON_FINITE,
            DropReason.CHUNK_TOO_LONG,
        ],
        DropReason.NONE,
    ).astype(np.uint8)
