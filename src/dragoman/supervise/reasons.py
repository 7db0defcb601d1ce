"""Why chunks have no signal, whatever the method makes of those that have: one verdict for all methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from dragoman.config import MethodConfig
from dragoman.supervise.guard import Guard, Guarded, guarded, spread
from dragoman.types import Alignment, ChunkKind, DropReason, Rollout, TeacherScores


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Which chunks a configuration trains on."""

    guard: Guard = Guard.OFF
    max_chunk_tokens: int | None = None
    """Most tokens of a chunk on either side."""
    mask_normalised: bool = False


def limits_of(config: MethodConfig) -> Limits:
    """Those of a method's settings."""
    return Limits(
        guard=Guard(config.guard),
        max_chunk_tokens=config.max_chunk_tokens,
        mask_normalised=config.normalised == "mask",
    )


def verdict(
    rollout: Rollout,
    scores: TeacherScores,
    alignment: Alignment,
    limits: Limits,
    *,
    unusable: Bool[np.ndarray, " T"] | None = None,
    span_of: Callable[[Bool[np.ndarray, " C"]], Int64[np.ndarray, " C"]] | None = None,
) -> Guarded:
    """What becomes of every chunk of a response: the first reason that holds, then the guard.

    `unusable` are teacher tokens whose values a method cannot read, although their log-probs are known.
    `span_of` gives the span of every chunk from which of them have values; one odd chunk then makes its span
    odd. Raises ValueError where rollout, scores and alignment are not of one response.
    """
    _check_axes(rollout, scores, alignment)
    reason = _reasons(rollout, scores, alignment, limits, unusable)
    odd = _any_in_chunk(~rollout.completion.canonical, alignment.student_bounds)
    if span_of is None:
        return guarded(limits.guard, reason, odd)
    spans = span_of(reason == DropReason.NONE)
    return replace(guarded(limits.guard, reason, spread(odd, spans)), span_of=spans)


def _check_axes(rollout: Rollout, scores: TeacherScores, alignment: Alignment) -> None:
    got = (len(rollout.completion), len(scores.logp))
    expected = (int(alignment.student_bounds[-1]), int(alignment.teacher_bounds[-1]))
    if got != expected or (scores.tokens is not None and len(scores.tokens) != got[1]):
        raise ValueError(
            f"rollout {rollout.key} has {got[0]} student and {got[1]} teacher tokens, but its alignment "
            f"covers {expected[0]} and {expected[1]}"
        )


def _reasons(
    rollout: Rollout,
    scores: TeacherScores,
    alignment: Alignment,
    limits: Limits,
    unusable: Bool[np.ndarray, " T"] | None,
) -> UInt8[np.ndarray, " C"]:
    """Why a chunk has no signal, the guard aside; `NONE` where it has."""
    bounds_s, bounds_t = alignment.student_bounds, alignment.teacher_bounds
    beyond = _any_in_chunk(scores.missing == DropReason.TEACHER_CONTEXT, bounds_t)
    bad = _any_in_chunk(scores.missing != DropReason.NONE, bounds_t)
    if unusable is not None:
        bad |= _any_in_chunk(unusable, bounds_t)
    if rollout.behaviour_logp is not None:
        bad |= _any_in_chunk(~np.isfinite(rollout.behaviour_logp), bounds_s)
    longest = np.maximum(np.diff(bounds_s), np.diff(bounds_t))
    limit = limits.max_chunk_tokens
    too_long = longest > limit if limit is not None else np.zeros(len(longest), bool)
    return np.select(
        [
            ~alignment.comparable,
            (alignment.kind == ChunkKind.NORMALISED) & limits.mask_normalised,
            beyond,
            bad,
            too_long,
        ],
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
