"""Supervision by rows: which student tokens may have one, the rows of a method, and why others have none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float64, UInt8

from dragoman.config import MethodConfig
from dragoman.errors import ConfigError
from dragoman.supervise.reasons import limits_of, verdict
from dragoman.supervise.rows.common import Response, respond
from dragoman.supervise.sampled import Supervise
from dragoman.text import PairTables
from dragoman.types import (
    Alignment,
    DropReason,
    HeldLogp,
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
    """Raise ConfigError for a guard that a method without credits cannot have."""
    if config.guard == "penalty":
        raise ConfigError(
            f"method.guard is 'penalty', which gives odd segmentations a negative credit, but method "
            f"{config.name!r} has no credits; set method.guard to 'mask' or 'off'"
        )


def prepare(
    tables: PairTables, config: MethodConfig, rollout: Rollout, scores: TeacherScores, alignment: Alignment
) -> tuple[UInt8[np.ndarray, " S"], Response]:
    """Why tokens can have no row, whatever the method, and the places of the others.

    Raises ValueError if the axes of a rollout do not fit the alignment.
    """
    reason = token_reasons(rollout, scores, alignment, config)
    response = respond(tables, rollout, scores, alignment, reason == DropReason.NONE)
    if config.mask_whitespace:
        # The place remains: what other tokens' rows make of it is their own affair.
        response = replace(response, asked=response.asked & ~is_blank(rollout.completion))
    return reason, response


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
    rows = scores.full_logp
    if rows is None and scores.topk_logp is not None:
        rows = HeldLogp(scores.topk_logp)
    unusable = None if rows is None else ~rows.usable
    found = verdict(rollout, scores, alignment, limits_of(config), unusable=unusable)
    return found.reason[alignment.chunk_of]
