"""Rows, units and sorted log-probs of several responses as those of one list of supervised tokens.

Each function takes what the responses have (None: it has none) and the tokens kept of each, in order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int64

from dragoman.kinds import RowLabel
from dragoman.padding import stretches
from dragoman.types import Rows, Units

Kept = Sequence[Int64[np.ndarray, " _"]]


def joined_rows(parts: Sequence[Rows | None], kept: Kept) -> Rows | None:
    """The rows of the kept tokens; a token of a response without rows has the label NONE. Where some rows
    have weighted sets, the single tokens of the others are sets of one with weight 1."""
    if all(rows is None for rows in parts):
        return None
    weighted = any(rows is not None and rows.member_bounds is not None for rows in parts)
    found = [
        _no_rows(len(k)) if rows is None else _picked_rows(rows, k)
        for rows, k in zip(parts, kept, strict=True)
    ]
    sets = [_as_sets(rows) for rows in found] if weighted else []
    return Rows(
        bounds=_bounds([rows.num_candidates for rows in found]),
        ids=np.concatenate([rows.ids for rows in found]),
        logp=np.concatenate([rows.logp for rows in found]),
        residual=np.concatenate([rows.residual for rows in found]),
        label=np.concatenate([rows.label for rows in found]),
        member_bounds=_bounds([sizes for sizes, _ in sets]) if weighted else None,
        log_weight=np.concatenate([weight for _, weight in sets]) if weighted else None,
        partial=np.concatenate([_partial(rows) for rows in found])
        if any(rows.partial is not None for rows in found)
        else None,
    )


def joined_units(parts: Sequence[Units | None], kept: Kept) -> Units | None:
    """The units of the kept tokens, numbered anew: one after the other, also those of which no token is
    kept, so that a unit means the same in every batch."""
    if all(units is None for units in parts):
        return None
    unit_of, teacher_logp, num_teacher, first = [], [], [], 0
    for units, k in zip(parts, kept, strict=True):
        if units is None:
            unit_of.append(np.full(len(k), -1))
            continue
        own = units.unit_of[k]
        unit_of.append(np.where(own < 0, -1, own + first))
        teacher_logp.append(units.teacher_logp)
        num_teacher.append(units.num_teacher)
        first += len(units.teacher_logp)
    return Units(
        unit_of=np.concatenate(unit_of),
        teacher_logp=np.concatenate(teacher_logp),
        num_teacher=np.concatenate(num_teacher),
    )


def joined_sorted(
    parts: Sequence[Float32[np.ndarray, "S R"] | None], kept: Kept
) -> Float32[np.ndarray, "N R"] | None:
    """The sorted log-probs of the kept tokens, as wide as the widest and padded with -inf."""
    present = [part for part in parts if part is not None]
    if not present:
        return None
    width = max(part.shape[1] for part in present)
    joined = np.full((sum(map(len, kept)), width), -np.inf, np.float32)
    first = 0
    for part, k in zip(parts, kept, strict=True):
        if part is not None:
            joined[first : first + len(k), : part.shape[1]] = part[k]
        first += len(k)
    return joined


def _no_rows(size: int) -> Rows:
    return Rows(
        bounds=np.zeros(size + 1, np.int64),
        ids=np.zeros(0, np.int64),
        logp=np.zeros(0, np.float32),
        residual=np.zeros(size, np.float32),
        label=np.full(size, RowLabel.NONE, np.uint8),
    )


def _picked_rows(rows: Rows, kept: Int64[np.ndarray, " _"]) -> Rows:
    sizes = rows.num_candidates[kept]
    picked = stretches(rows.bounds[kept], sizes)
    ids, member_bounds, log_weight = rows.ids, None, None
    if rows.member_bounds is None:
        ids = ids[picked]
    else:
        members = np.diff(rows.member_bounds)[picked]
        places = stretches(rows.member_bounds[picked], members)
        ids, member_bounds = ids[places], _bounds([members])
        log_weight = None if rows.log_weight is None else rows.log_weight[places]
    return Rows(
        bounds=_bounds([sizes]),
        ids=ids,
        logp=rows.logp[picked],
        residual=rows.residual[kept],
        label=rows.label[kept],
        member_bounds=member_bounds,
        log_weight=log_weight,
        partial=None if rows.partial is None else rows.partial[kept],
    )


def _partial(rows: Rows) -> Bool[np.ndarray, " S"]:
    return np.zeros(len(rows), bool) if rows.partial is None else rows.partial


def _as_sets(rows: Rows) -> tuple[Int64[np.ndarray, " K"], Float32[np.ndarray, " M"]]:
    """Sizes of the sets and the log weights of their members; without weights, 1 each."""
    sizes = np.ones(len(rows.logp), np.int64) if rows.member_bounds is None else np.diff(rows.member_bounds)
    return sizes, np.zeros(len(rows.ids), np.float32) if rows.log_weight is None else rows.log_weight


def _bounds(sizes: Sequence[Int64[np.ndarray, " _"]]) -> Int64[np.ndarray, " _"]:
    return np.concatenate([[0], np.cumsum(np.concatenate(sizes))]).astype(np.int64)
