"""Why chunks have no signal, whatever the method makes of those that have."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from dragoman.types import Alignment, ChunkKind, DropReason, Rollout, TeacherScores


def check_axes(rollout: Rollout, scores: TeacherScores, alignment: Alignment) -> None:
    """Raises ValueError where rollout, scores and alignment are not of one response."""
    got = (len(rollout.completion), len(scores.logp))
    expected = (int(alignment.student_bounds[-1]), int(alignment.teacher_bounds[-1]))
    if got != expected or (scores.tokens is not None and len(scores.tokens) != got[1]):
        raise ValueError(
            f"rollout {rollout.key} has {got[0]} student and {got[1]} teacher tokens, but its alignment "
            f"covers {expected[0]} and {expected[1]}"
        )


def odd_chunks(rollout: Rollout, alignment: Alignment) -> Bool[np.ndarray, " C"]:
    """Chunks in which the student's own tokenizer would have written otherwise."""
    return _any_in_chunk(~rollout.completion.canonical, alignment.student_bounds)


def chunk_reasons(
    rollout: Rollout,
    scores: TeacherScores,
    alignment: Alignment,
    *,
    max_chunk_tokens: int | None,
    mask_normalised: bool,
    unusable: Bool[np.ndarray, " T"] | None = None,
) -> UInt8[np.ndarray, " C"]:
    """Why a chunk has no signal, the guard aside; the first reason that applies, `NONE` where it has.

    `unusable` are teacher tokens whose rows a method cannot read, although their log-probs are known.
    """
    bounds_s, bounds_t = alignment.student_bounds, alignment.teacher_bounds
    beyond = _any_in_chunk(scores.missing == DropReason.TEACHER_CONTEXT, bounds_t)
    bad = _any_in_chunk(scores.missing != DropReason.NONE, bounds_t)
    if unusable is not None:
        bad |= _any_in_chunk(unusable, bounds_t)
    if rollout.behaviour_logp is not None:
        bad |= _any_in_chunk(~np.isfinite(rollout.behaviour_logp), bounds_s)
    longest = np.maximum(np.diff(bounds_s), np.diff(bounds_t))
    too_long = longest > max_chunk_tokens if max_chunk_tokens is not None else np.zeros(len(longest), bool)
    normalised = (alignment.kind == ChunkKind.NORMALISED) & mask_normalised
    return np.select(
        [~alignment.comparable, normalised, beyond, bad, too_long],
        [
            alignment.reasons,
            DropReason.NORMALISED,
            DropReason.TEACHER_CONTEXT,
            DropReason.NON_FINITE,
            DropReason.CHUNK_TOO_LONG,
        ],
        DropReason.NONE,
    ).astype(np.uint8)


def _any_in_chunk(
    flags: Bool[np.ndarray, " S"], bounds: Int64[np.ndarray, " C_plus_1"]
) -> Bool[np.ndarray, " C"]:
    return np.diff(np.concatenate([[0], np.cumsum(flags)])[bounds]) > 0
