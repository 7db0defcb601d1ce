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
from jaxtyping import Bool, Int64, Integer, UInt, UInt8, UInt16

from dragoman.errors import AlignmentError
from dragoman.text.diff import matching_runs
from dragoman.types import Alignment, ChunkKind, Correspondence, DropReason, PairKind, TokenText

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
    events_s, events_t = _events(student), _events(teacher)
    borders_s, borders_t = _borders(student, events_s), _borders(teacher, events_t)
    same_bytes = student.data == teacher.data
    if correspondence is None and same_bytes and _same_events(student, events_s, teacher, events_t):
        return _align_same(borders_s, borders_t, events_s)
    symbols_s, symbols_t = _symbols(student, events_s), _symbols(teacher, events_t)
    if correspondence is None:
        if same_bytes:
            runs = _runs_around_events(student, events_s, teacher, events_t)
        else:
            runs = matching_runs(symbols_s, symbols_t)
        correspondence = _as_correspondence(runs)
    _check_extent(correspondence, len(symbols_s), len(symbols_t))
    return _align_by_rows(symbols_s >= _FIRST_EVENT, correspondence, borders_s, borders_t)


def _align_same(
    borders_s: Int64[np.ndarray, " S_plus_1"],
    borders_t: Int64[np.ndarray, " T_plus_1"],
    events: Int64[np.ndarray, " E"],
) -> Alignment:
    """Chunks of equal symbols; an event, which has a border at either end, is one of its own."""
    # Each student border's number on the teacher's side; 0 for none, and for the first, which is a cut.
    number = _numbered(borders_t).take(borders_s)
    is_cut = number != 0
    is_cut[0] = True
    bounds_s = is_cut.nonzero()[0]
    bounds_t = number.take(bounds_s)
    kind = _plain_kinds(bounds_s, bounds_t)
    if len(events):
        kind[np.searchsorted(bounds_s, events)] = ChunkKind.EVENT
    return Alignment(student_bounds=bounds_s, teacher_bounds=bounds_t.astype(np.int64), kind=kind)


def _align_by_rows(
    event_symbols: Bool[np.ndarray, " N"],
    correspondence: Correspondence,
    borders_s: Int64[np.ndarray, " S_plus_1"],
    borders_t: Int64[np.ndarray, " T_plus_1"],
) -> Alignment:
    matching = correspondence.kind <= PairKind.MARKER
    spans, kind = correspondence.spans[matching], correspondence.kind[matching]
    cuts = _cuts(spans, kind, borders_s, borders_t)
    bounds_s = _numbered(borders_s)[cuts[:, 0]].astype(np.int64)
    bounds_t = _numbered(borders_t)[cuts[:, 1]].astype(np.int64)
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
    kinds = _kinds(bounds_s, bounds_t, pure, is_event, share(of == PairKind.NORMALISED, 0) > 0)
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


def _events(text: TokenText) -> Int64[np.ndarray, " E"]:
    """Which tokens are events: all but `NONE`, which is 0."""
    return text.event.nonzero()[0]


def _same_events(
    student: TokenText,
    events_s: Int64[np.ndarray, " E"],
    teacher: TokenText,
    events_t: Int64[np.ndarray, " F"],
) -> bool:
    """Whether the same events stand at the same bytes."""
    if not len(events_s) or not len(events_t):
        return len(events_s) == len(events_t)
    return np.array_equal(student.event[events_s], teacher.event[events_t]) and np.array_equal(
        student.bounds[events_s], teacher.bounds[events_t]
    )


def _borders(text: TokenText, events: Int64[np.ndarray, " E"]) -> Int64[np.ndarray, " S_plus_1"]:
    """Where tokens begin and end, as offsets into the symbols."""
    if not len(events):
        return text.bounds
    borders = text.bounds.copy()
    borders[events[0] + 1 :] += np.cumsum(text.event[events[0] :] != 0)
    return borders


def _symbols(text: TokenText, events: Int64[np.ndarray, " E"]) -> UInt16[np.ndarray, " N"]:
    """The symbols of a text."""
    data = np.frombuffer(text.data, np.uint8).astype(np.uint16)
    codes = text.event[events].astype(np.uint16) + _FIRST_EVENT
    return np.insert(data, text.bounds[events], codes)


def _runs_around_events(
    student: TokenText,
    events_s: Int64[np.ndarray, " E"],
    teacher: TokenText,
    events_t: Int64[np.ndarray, " F"],
) -> Int64[np.ndarray, "R 3"]:
    """Matching runs of two texts with equal bytes whose events differ: every byte matches itself, and
    an event one of the same kind at the same byte, in order. Loops over the events only.
    """
    places = [student.bounds[events_s], teacher.bounds[events_t]]
    codes = [student.event[events_s].astype(np.uint16), teacher.event[events_t].astype(np.uint16)]
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


def _numbered(borders: Int64[np.ndarray, " S_plus_1"]) -> UInt[np.ndarray, " N_plus_1"]:
    """The number of the border at every offset, 0 where there is none; as small as can be, for the cache."""
    number = np.zeros(borders[-1] + 1, np.min_scalar_type(len(borders)))
    number[borders] = np.arange(len(borders), dtype=number.dtype)
    return number


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
    # Further cuts never lie before earlier ones on either side, so that their two offsets' sum tells them
    # apart: at every sum the teacher's offset plus one, 0 for no cut.
    table = np.zeros(borders_s[-1] + borders_t[-1] + 1, np.min_scalar_type(borders_t[-1] + 1))
    table[[0, -1]] = 1, borders_t[-1] + 1
    if len(spans):
        is_border = np.zeros(borders_s[-1] + 1, bool)
        is_border[borders_s] = True
        starting = np.bincount(spans[:, 2], minlength=borders_t[-1] + 1)
        started = np.cumsum(starting)[borders_t]
        for number in (started, started - starting[borders_t]):
            row = np.maximum(number - 1, 0)
            start_s, stop_s, start_t, stop_t = spans[row].T
            inside = (borders_t > start_t) & (borders_t < stop_t)
            exact = kind[row] == PairKind.EXACT
            offset_s = np.where(
                borders_t >= stop_t, stop_s, start_s + (borders_t - start_t) * (exact & inside)
            )
            keep = (borders_t >= start_t) & (borders_t <= stop_t) & (exact | ~inside) & is_border[offset_s]
            cuts_t = borders_t[keep]
            table[offset_s[keep] + cuts_t] = cuts_t + 1
    sums = np.flatnonzero(table)
    offset_t = table[sums].astype(np.int64) - 1
    return np.stack([sums - offset_t, offset_t], axis=1)


def _covered(spans: Int64[np.ndarray, "R 2"], size: int) -> Bool[np.ndarray, " N"]:
    """Which of `size` symbols lie in one of the spans."""
    change = np.zeros(size + 1, np.int64)
    np.add.at(change, spans[:, 0], 1)
    np.add.at(change, spans[:, 1], -1)
    return np.cumsum(change)[:-1] > 0


def _kinds(
    bounds_s: Int64[np.ndarray, " C_plus_1"],
    bounds_t: Int64[np.ndarray, " C_plus_1"],
    pure: Bool[np.ndarray, " C"],
    is_event: Bool[np.ndarray, " C"],
    normalised: Bool[np.ndarray, " C"],
) -> UInt8[np.ndarray, " C"]:
    kind = _plain_kinds(bounds_s, bounds_t)
    kind[is_event] = ChunkKind.EVENT
    kind[normalised] = ChunkKind.NORMALISED
    kind[~pure] = ChunkKind.IMPURE
    kind[bounds_s[1:] == bounds_s[:-1]] = ChunkKind.TEACHER_ONLY
    kind[bounds_t[1:] == bounds_t[:-1]] = ChunkKind.STUDENT_ONLY
    return kind


def _plain_kinds(
    bounds_s: Integer[np.ndarray, " C_plus_1"], bounds_t: Integer[np.ndarray, " C_plus_1"]
) -> UInt8[np.ndarray, " C"]:
    """Kinds by whether one token or several stand on either side: each side has a bit of its own."""
    several_s = (bounds_s[1:] - bounds_s[:-1] > 1).view(np.uint8)
    several_t = (bounds_t[1:] - bounds_t[:-1] > 1).view(np.uint8)
    return several_s * np.uint8(ChunkKind.MANY_TO_ONE) + several_t * np.uint8(ChunkKind.ONE_TO_MANY)
