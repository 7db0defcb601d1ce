"""The byte aligner: the common refinement of two tokenisations of one response.

Both sides become sequences of symbols, a byte or an event each, so that every token has a width. A cut
is a place that is a token border on both sides and corresponds to itself; chunks lie between cuts.
Everything is a set operation on border offsets, O(S + T), with no loop over tokens. Only where the
bytes differ (a lossy tokenizer) are the corresponding stretches searched first (`text.diff`), and the
chunks that hold a difference lose their signal; those behind it do not.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt16

from dragoman.text.diff import matching_runs
from dragoman.types import Alignment, ChunkKind, Event, TokenText

_FIRST_EVENT = 256
"""Symbols below are bytes; `_FIRST_EVENT + e` is the event e."""


def align(student: TokenText, teacher: TokenText) -> Alignment:
    """Align two tokenisations of one response.

    Every token of either side is in exactly one chunk. A comparable chunk (kind up to EVENT) spells the
    same bytes or the same event on both sides and cannot be split further. Where the sides differ, the
    smallest chunk around the difference is IMPURE, or STUDENT_ONLY / TEACHER_ONLY if one side has no
    token in it.
    """
    symbols_s, borders_s = _symbols(student)
    symbols_t, borders_t = _symbols(teacher)
    if np.array_equal(symbols_s, symbols_t):
        bounds_s = np.flatnonzero(_marked(borders_t)[borders_s])
        bounds_t = np.flatnonzero(_marked(borders_s)[borders_t])
        pure = np.ones(len(bounds_s) - 1, bool)
    else:
        if student.data == teacher.data:
            runs = _runs_around_events(student, teacher)
        else:
            runs = matching_runs(symbols_s, symbols_t)
        cuts = _cuts(runs, borders_s, borders_t)
        bounds_s = np.searchsorted(borders_s, cuts[:, 0])
        bounds_t = np.searchsorted(borders_t, cuts[:, 1])
        pure = _pure(cuts, runs, len(symbols_s), len(symbols_t))
    is_event = np.append(student.event, Event.NONE)[bounds_s[:-1]] != Event.NONE
    return Alignment(
        student_bounds=bounds_s,
        teacher_bounds=bounds_t,
        kind=_kinds(np.diff(bounds_s), np.diff(bounds_t), pure, is_event),
    )


def _symbols(text: TokenText) -> tuple[UInt16[np.ndarray, " N"], Int64[np.ndarray, " S_plus_1"]]:
    """The symbols of a text, and the token borders as offsets into them."""
    data = np.frombuffer(text.data, np.uint8).astype(np.uint16)
    is_event = text.event != Event.NONE
    if not is_event.any():
        return data, text.bounds
    borders = text.bounds.copy()
    borders[1:] += np.cumsum(is_event)
    codes = text.event[is_event].astype(np.uint16) + _FIRST_EVENT
    return np.insert(data, text.bounds[:-1][is_event], codes), borders


def _runs_around_events(student: TokenText, teacher: TokenText) -> Int64[np.ndarray, "R 3"]:
    """Matching runs of two texts with equal bytes whose events differ: every byte matches itself, and
    an event one of the same kind at the same byte, in order. Loops over the events only.
    """
    places = [text.bounds[:-1][text.event != Event.NONE] for text in (student, teacher)]
    codes = [text.event[text.event != Event.NONE].astype(np.uint16) for text in (student, teacher)]
    runs = [np.zeros((0, 3), np.int64)]
    start = 0
    for place in np.unique([*np.concatenate(places), len(student.data)]).tolist():
        before = [int(np.searchsorted(p, place, side="left")) for p in places]
        upto = [int(np.searchsorted(p, place, side="right")) for p in places]
        if place > start:
            runs.append(np.array([[start + before[0], start + before[1], place - start]]))
        here = [c[i:j] for c, i, j in zip(codes, before, upto, strict=True)]
        runs.append(matching_runs(*here) + np.array([place + before[0], place + before[1], 0]))
        start = place
    return np.concatenate(runs)


def _marked(borders: Int64[np.ndarray, " S_plus_1"]) -> Bool[np.ndarray, " N_plus_1"]:
    """Which offsets are borders."""
    mask = np.zeros(borders[-1] + 1, bool)
    mask[borders] = True
    return mask


def _cuts(
    runs: Int64[np.ndarray, "R 3"],
    borders_s: Int64[np.ndarray, " S_plus_1"],
    borders_t: Int64[np.ndarray, " T_plus_1"],
) -> Int64[np.ndarray, "C_plus_1 2"]:
    """Corresponding offsets (student, teacher) that are borders on both sides, in order.

    A teacher border inside a matching run, or at either end of one, corresponds to one student offset;
    between two runs that touch on the teacher's side only, to two: the end and the new start.
    """
    found = [np.array([[0, 0], [borders_s[-1], borders_t[-1]]])]
    if len(runs):
        is_border = _marked(borders_s)
        for side in ("right", "left"):
            run = np.maximum(np.searchsorted(runs[:, 1], borders_t, side=side) - 1, 0)
            start_s, start_t, length = runs[run].T
            place = borders_t - start_t
            offset_s = start_s + np.clip(place, 0, length)
            keep = (place >= 0) & (place <= length) & is_border[offset_s]
            found.append(np.stack([offset_s[keep], borders_t[keep]], axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _pure(
    cuts: Int64[np.ndarray, "C_plus_1 2"], runs: Int64[np.ndarray, "R 3"], num_s: int, num_t: int
) -> Bool[np.ndarray, " C"]:
    """Which chunks hold only corresponding symbols."""
    matched_s, matched_t = (
        np.concatenate([[0], np.cumsum(_covered(runs[:, side], runs[:, 2], size))])
        for side, size in ((0, num_s), (1, num_t))
    )
    width_s, width_t = np.diff(cuts, axis=0).T
    all_s = np.diff(matched_s[cuts[:, 0]]) == width_s
    all_t = np.diff(matched_t[cuts[:, 1]]) == width_t
    return all_s & all_t & (width_s == width_t)


def _covered(
    starts: Int64[np.ndarray, " R"], lengths: Int64[np.ndarray, " R"], size: int
) -> Bool[np.ndarray, " N"]:
    """Which of `size` symbols lie in one of the runs."""
    change = np.zeros(size + 1, np.int64)
    np.add.at(change, starts, 1)
    np.add.at(change, starts + lengths, -1)
    return np.cumsum(change)[:-1] > 0


def _kinds(
    num_s: Int64[np.ndarray, " C"],
    num_t: Int64[np.ndarray, " C"],
    pure: Bool[np.ndarray, " C"],
    is_event: Bool[np.ndarray, " C"],
) -> UInt8[np.ndarray, " C"]:
    return np.select(
        [num_t == 0, num_s == 0, ~pure, is_event, (num_s == 1) & (num_t == 1), num_s == 1, num_t == 1],
        [
            ChunkKind.STUDENT_ONLY,
            ChunkKind.TEACHER_ONLY,
            ChunkKind.IMPURE,
            ChunkKind.EVENT,
            ChunkKind.ONE_TO_ONE,
            ChunkKind.ONE_TO_MANY,
            ChunkKind.MANY_TO_ONE,
        ],
        ChunkKind.MANY_TO_MANY,
    ).astype(np.uint8)
