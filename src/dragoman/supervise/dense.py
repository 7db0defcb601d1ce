"""Supervision by rows: which student tokens may have one, the rows of a method, and why others have none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from dragoman.config import MethodConfig
from dragoman.errors import ConfigError
from dragoman.supervise.rows.common import Response, respond
from dragoman.supervise.sampled import Supervise
from dragoman.text import PairTables
from dragoman.types import (
    Alignment,
    ChunkKind,
    DropReason,
    Rollout,
    Rows,
    Supervision,
    TeacherScores,
    TokenText,
)

_BLANKS = np.isin(np.arange(256), list(b" \t\n\r\v\f"))


def dense(tables: PairTables, config: MethodConfig, rows: Callable[[Response], Rows]) -> Supervise:
    """The supervision of a method that is rows alone.

    A student token is trained on if it has a row. Raises ConfigError for `method.guard: penalty`, which
    is a credit.
    """
    check_guard(config)

    def supervise(rollout: Rollout, scores: TeacherScores, alignment: Alignment) -> Supervision:
        reason, response = prepare(tables, config, rollout, scores, alignment)
        return supervision(response, reason, rows(response))

    return supervise


def check_guard(config: MethodConfig) -> None:
    """Raise ConfigError for a guard that rows cannot have."""
    if config.guard == "penalty":
        raise ConfigError(
            f"method.guard is 'penalty', which gives odd segmentations a negative credit, but method "
            f"{config.name!r} has rows and no credits; set method.guard to 'mask' or 'off'"
        )


def prepare(
    tables: PairTables, config: MethodConfig, rollout: Rollout, scores: TeacherScores, alignment: Alignment
) -> tuple[UInt8[np.ndarray, " S"], Response]:
    """Why tokens can have no row, whatever the method, and the places of the others.

    Raises ValueError if the axes of a rollout do not fit the alignment.
    """
    reason = token_reasons(rollout, scores, alignment, config)
    allowed = reason == DropReason.NONE
    if config.mask_whitespace:
        allowed &= ~is_blank(rollout.completion)
    return reason, respond(tables, rollout, scores, alignment, allowed)


def supervision(
    response: Response,
    reason: UInt8[np.ndarray, " S"],
    rows: Rows,
    weight: Float64[np.ndarray, " S"] | None = None,
) -> Supervision:
    """Rows as supervision: tokens without one have the reason given, else `NO_ROW`. `weight` is that of
    tokens with a row, 1 if left out."""
    has_row = rows.has_row
    return Supervision(
        weight=np.where(has_row, 1.0 if weight is None else weight, 0.0).astype(np.float32),
        reason=np.where((reason == DropReason.NONE) & ~has_row, DropReason.NO_ROW, reason).astype(np.uint8),
        chunk_of=response.alignment.chunk_of,
        credit=None,
        rows=rows,
    )


def is_blank(text: TokenText) -> Bool[np.ndarray, " S"]:
    """Which tokens are white space alone; events are not."""
    inked = np.concatenate([[0], np.cumsum(~_BLANKS[np.frombuffer(text.data, np.uint8)])])
    return (np.diff(text.bounds) > 0) & (np.diff(inked[text.bounds]) == 0)


def token_reasons(
    rollout: Rollout, scores: TeacherScores, alignment: Alignment, config: MethodConfig
) -> UInt8[np.ndarray, " S"]:
    """Why a token can have no row, whatever the method: the first reason that holds for its chunk."""
    _check_axes(rollout, scores, alignment)
    bounds_s, bounds_t = alignment.student_bounds, alignment.teacher_bounds
    behaviour = rollout.behaviour_logp
    student_bad = np.zeros(len(rollout.completion), bool) if behaviour is None else ~np.isfinite(behaviour)
    values = scores.topk_logp if scores.full_logp is None else scores.full_logp
    teacher_bad = scores.missing != DropReason.NONE
    if values is not None:
        # The largest of a row is NaN if any is; -inf alone is a mass of 0.
        teacher_bad |= ~(values.max(axis=1, initial=-np.inf) <= 1e-3)
    size = np.maximum(np.diff(bounds_s), np.diff(bounds_t))
    limit = config.max_chunk_tokens
    masked = (alignment.kind == ChunkKind.NORMALISED) & (config.normalised == "mask")
    odd = _any(~rollout.completion.canonical, bounds_s) & (config.guard == "mask")
    reason = np.select(
        [
            ~alignment.comparable,
            masked,
            _any(scores.missing == DropReason.TEACHER_CONTEXT, bounds_t),
            _any(student_bad, bounds_s) | _any(teacher_bad, bounds_t),
            size > limit if limit is not None else np.zeros(len(size), bool),
            odd,
        ],
        [
            alignment.reasons,
            DropReason.NORMALISED,
            DropReason.TEACHER_CONTEXT,
            DropReason.NON_FINITE,
            DropReason.CHUNK_TOO_LONG,
            DropReason.NON_CANONICAL,
        ],
        DropReason.NONE,
    )
    return reason.astype(np.uint8)[alignment.chunk_of]


def _any(flags: Bool[np.ndarray, " N"], bounds: Int64[np.ndarray, " C_plus_1"]) -> Bool[np.ndarray, " C"]:
    return np.diff(np.concatenate([[0], np.cumsum(flags)])[bounds]) > 0


def _check_axes(rollout: Rollout, scores: TeacherScores, alignment: Alignment) -> None:
    got = (len(rollout.completion), len(scores.logp))
    expected = (int(alignment.student_bounds[-1]), int(alignment.teacher_bounds[-1]))
    if got != expected or (scores.tokens is not None and len(scores.tokens) != got[1]):
        raise ValueError(
            f"rollout {rollout.key} has {got[0]} student and {got[1]} teacher scores, but its alignment "
            f"covers {expected[0]} and {expected[1]} tokens"
        )
