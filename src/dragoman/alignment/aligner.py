"""The byte aligner: the common refinement of two tokenisations of one response.

Both sides become sequences of symbols, a byte or an event each, so that every token has a width. A cut
is a place that is a token border on both sides and corresponds to itself; chunks lie between cuts.
Everything is a set operation on border offsets, O(S + T), with no loop over tokens. Where the sides
differ, whoever wrote the teacher's version says what corresponds (`Correspondence`: a tokenizer that
normalises, markers of thinking, tool calls); else corresponding stretches are searched (`text.diff`).
Chunks that hold what has no counterpart lose their signal; those behind them do not.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt16

from dragoman.errors import AlignmentError
from dragoman.text.diff import matching_runs
from dragoman.types import Alignment, ChunkKind, Correspondence, DropReason, Event, PairKind, TokenText

_FIRST_EVENT = 256
"""Symbols below are bytes; `_FIRST_EVENT + e` is the event e."""


def align(student: TokenText, teacher: TokenText, correspondence: Correspondence | None = None) -> Alignment:
    """Align two tokenisations of one response.

    Every token of either side is in exactly one chunk. A comparable chunk says the same on both sides and
    cannot be split further. Where the sides differ, the smallest chunk around the difference is IMPURE, or
    STUDENT_ONLY / TEACHER_ONLY if one side has no token in it.

    `correspondence` says which symbols belong together; without one, equal symbols do, in order. Raises
    AlignmentError if it reaches beyond either side.
    """
    symbols_s, borders_s = _symbols(student)
    symbols_t, borders_t = _symbols(teacher)
    if correspondence is None and np.array_equal(symbols_s, symbols_t):
        bounds_s = np.flatnonzero(_marked(borders_t)[borders_s])
        bounds_t = np.flatnonzero(_marked(borders_s)[borders_t])
        pure = np.ones(len(bounds_s) - 1, bool)
        is_event = _first_is_event(student, bounds_s)
        return Alignment(
            student_bounds=bounds_s,
            teacher_bounds=bounds_t,
            kind=_kinds(np.diff(bounds_s), np.diff(bounds_t), pure, is_event, np.zeros_like(pure)),
        )
    if correspondence is None:
        same_bytes = student.data == teacher.data
        runs = _runs_around_events(student, teacher) if same_bytes else matching_runs(symbols_s, symbols_t)
        correspondence = _as_correspondence(runs)
    _check_extent(correspondence, len(symbols_s), len(symbols_t))
    return _align_by_rows(symbols_s >= _FIRST_EVENT, correspondence, borders_s, borders_t)


def _align_by_rows(
    event_symbols: Bool[np.ndarray, " N"],
    correspondence: Correspondence,
    borders_s: Int64[np.ndarray, " S_plus_1"],
    borders_t: Int64[np.ndarray, " T_plus_1"],
) -> Alignment:
    matching = correspondence.kind <= PairKind.MARKER
    spans, kind = correspondence.spans[matching], correspondence.kind[matching]
    cuts = _cuts(spans, kind, borders_s, borders_t)
    bounds_s = np.searchsorted(borders_s, cuts[:, 0])
    bounds_t = np.searchsorted(borders_t, cuts[:, 1])
    width_s, width_t = np.diff(cuts, axis=0).T

    def within(rows: Bool[np.ndarray, " R"], side: int) -> Bool[np.ndarray, " N"]:
        """Which symbols of one side lie in some rows."""
        size = int((borders_s, borders_t)[side][-1])
        return _covered(correspondence.spans[rows][:, 2 * side : 2 * side + 2], size)

    def count(symbols: Bool[np.ndarray, " N"], side: int) -> Int64[np.ndarray, " C"]:
        """Some symbols of one side, by chunk."""
        return np.diff(np.concatenate([[0], np.cumsum(symbols)])[cuts[:, side]])

    def share(rows: Bool[np.ndarray, " R"], side: int) -> Int64[np.ndarray, " C"]:
        return count(within(rows, side), side)

    of = correspondence.kind
    pure = (share(matching, 0) == width_s) & (share(matching, 1) == width_t)
    is_event = count(within(of == PairKind.MARKER, 0) | event_symbols, 0) == width_s
    kinds = _kinds(
        np.diff(bounds_s), np.diff(bounds_t), pure, is_event, share(of == PairKind.NORMALISED, 0) > 0
    )
    plain = Alignment(student_bounds=bounds_s, teacher_bounds=bounds_t, kind=kinds)
    explained = np.select(
        [
            plain.comparable,
            share(of == PairKind.TOOL_SYNTAX, 0) > 0,
            share(of == PairKind.THINKING, 0) > 0,
        ],
        [plain.reasons, DropReason.TOOL_SYNTAX, DropReason.THINKING],
        plain.reasons,
    )
    return replace(plain, reason=explained.astype(np.uint8))


def _as_correspondence(runs: Int64[np.ndarray, "R 3"]) -> Correspondence:
    runs = runs[runs[:, 2] > 0]
    start_s, start_t, length = runs.T
    spans = np.stack([start_s, start_s + length, start_t, start_t + length], axis=1)
    return Correspondence(spans=spans, kind=np.full(len(runs), PairKind.EXACT, np.uint8))


def _check_extent(correspondence: Correspondence, num_s: int, num_t: int) -> None:
    if len(correspondence.spans) and (correspondence.spans[-1, [1, 3]] > (num_s, num_t)).any():
        raise AlignmentError(
            f"a correspondence reaches to the symbols {correspondence.spans[-1, [1, 3]].tolist()}, but the "
            f"two sides have {num_s} and {num_t}: it belongs to another response"
        )


def _first_is_event(student: TokenText, bounds_s: Int64[np.ndarray, " C_plus_1"]) -> Bool[np.ndarray, " C"]:
    return np.append(student.event, np.uint8(Event.NONE))[bounds_s[:-1]] != Event.NONE


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
    spans: Int64[np.ndarray, "R 4"],
    kind: UInt8[np.ndarray, " R"],
    borders_s: Int64[np.ndarray, " S_plus_1"],
    borders_t: Int64[np.ndarray, " T_plus_1"],
) -> Int64[np.ndarray, "C_plus_1 2"]:
    """Corresponding offsets (student, teacher) that are borders on both sides, in order.

    A teacher border inside an exact span, or at either end of any, corresponds to one student offset;
    between two spans that touch on the teacher's side only, to two: the end and the new start.
    """
    found = [np.array([[0, 0], [borders_s[-1], borders_t[-1]]])]
    if len(spans):
        is_border = _marked(borders_s)
        for side in ("right", "left"):
            row = np.maximum(np.searchsorted(spans[:, 2], borders_t, side=side) - 1, 0)
            start_s, stop_s, start_t, stop_t = spans[row].T
            inside = (borders_t > start_t) & (borders_t < stop_t)
            exact = kind[row] == PairKind.EXACT
            offset_s = np.where(
                borders_t >= stop_t, stop_s, start_s + (borders_t - start_t) * (exact & inside)
            )
            keep = (borders_t >= start_t) & (borders_t <= stop_t) & (exact | ~inside) & is_border[offset_s]
            found.append(np.stack([offset_s[keep], borders_t[keep]], axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _covered(spans: Int64[np.ndarray, "R 2"], size: int) -> Bool[np.ndarray, " N"]:
    """Which of `size` symbols lie in one of the spans."""
    change = np.zeros(size + 1, np.int64)
    np.add.at(change, spans[:, 0], 1)
    np.add.at(change, spans[:, 1], -1)
    return np.cumsum(change)[:-1] > 0


def _kinds(
    num_s: Int64[np.ndarray, " C"],
    num_t: Int64[np.ndarray, " C"],
    pure: Bool[np.ndarray, " C"],
    is_event: Bool[np.ndarray, " C"],
    normalised: Bool[np.ndarray, " C"],
) -> UInt8[np.ndarray, " C"]:
    return np.select(
        [
            num_t == 0,
            num_s == 0,
            ~pure,
            normalised,
            is_event,
            (num_s == 1) & (num_t == 1),
            num_s == 1,
            num_t == 1,
        ],
        [
            ChunkKind.STUDENT_ONLY,
            ChunkKind.TEACHER_ONLY,
            ChunkKind.IMPURE,
            ChunkKind.NORMALISED,
            ChunkKind.EVENT,
            ChunkKind.ONE_TO_ONE,
            ChunkKind.ONE_TO_MANY,
            ChunkKind.MANY_TO_ONE,
        ],
        ChunkKind.MANY_TO_MANY,
    ).astype(np.uint8)
