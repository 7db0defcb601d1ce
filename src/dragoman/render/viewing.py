"""The student's turn as the teacher would write it, and what of the two belongs together.

What the student said and thought stays as it is, byte for byte; markers become the teacher's own; a tool
call becomes one in the teacher's syntax, of which names, keys and values belong together where their bytes
agree. What has no counterpart is named in a row of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from dragoman.render.agreement import agreeing
from dragoman.render.dialect import Dialect, ToolSyntax
from dragoman.render.symbols import BLANKS, is_event_symbol, spelled
from dragoman.render.turns import THINKING, Part, Piece, read_calls
from dragoman.text import Tokenization
from dragoman.types import Correspondence, PairKind, ToolCall


class Thinking(StrEnum):
    """What a teacher sees of the student's thinking."""

    KEEP = "keep"
    DROP = "drop"
    TEACHER_FORMAT = "teacher-format"


@dataclass(frozen=True, kw_only=True)
class Side:
    """What is needed of either side: its markers and the names of its tokens."""

    dialect: Dialect
    tokenization: Tokenization


@dataclass
class Draft:
    """The teacher's version under construction, in symbols."""

    symbols: str = ""
    rows: list[tuple[int, int, int, int, PairKind]] = field(default_factory=list)

    def copy(self, symbols: str, start: int, stop: int) -> None:
        """Take over the bytes of the student's symbols `start:stop`; control tokens have no counterpart."""
        for match in re.finditer("[\x00-\xff]+", symbols[start:stop]):
            place = start + match.start()
            self.pair(place, place + len(match[0]), match[0], PairKind.EXACT)

    def pair(self, start: int, stop: int, written: str, kind: PairKind) -> None:
        """Write symbols that belong together with the student's `start:stop`."""
        begin = len(self.symbols)
        self.symbols += written
        if start < stop:
            self.rows.append((start, stop, begin, begin + len(written), kind))

    def is_plain(self, size: int) -> bool:
        """Whether all `size` symbols of the student were taken over as they are, and nothing was added."""
        place = 0
        for start, stop, other, _, kind in self.rows:
            if kind is not PairKind.EXACT or not start == other == place:
                return False
            place = stop
        return place == size == len(self.symbols)

    def correspondence(self) -> Correspondence:
        """The rows so far."""
        rows = np.array(self.rows, np.int64).reshape(-1, 5)
        return Correspondence(spans=rows[:, :4], kind=rows[:, 4].astype(np.uint8))


def rewrite(
    symbols: str,
    pieces: Sequence[Piece],
    *,
    student: Side,
    teacher: Side,
    thinking: Thinking,
    opened: bool,
    stop_symbol: str,
    write_calls: Callable[[Sequence[ToolCall]], str | None],
) -> Draft:
    """The teacher's version of a turn. `opened` says that its own context has opened thinking already;
    `write_calls` gives calls in the teacher's syntax, None where its template refuses them.
    """
    draft = Draft()
    same_tools = _same_tools(student, teacher)
    for number, piece in enumerate(pieces):
        start, stop = piece.start, piece.stop
        if piece.part in THINKING:
            if thinking is Thinking.DROP:
                draft.pair(start, stop, "", PairKind.THINKING)
            elif piece.part is Part.THOUGHT:
                draft.copy(symbols, start, stop)
            elif not (opened and piece.part is Part.THINK_OPEN):
                wanted = (
                    teacher.dialect.think_open
                    if piece.part is Part.THINK_OPEN
                    else teacher.dialect.think_close
                )
                keep = thinking is Thinking.KEEP
                _marker(draft, symbols, piece, None if keep else wanted, student, teacher)
        elif piece.part is Part.ANSWER:
            draft.copy(symbols, start, stop)
        elif piece.part is Part.CALLS and same_tools:
            _same_call(draft, symbols, piece, student, teacher)
        elif piece.part is Part.CALLS:
            tools = teacher.dialect.tools
            written = write_calls([placed.call for placed in piece.calls]) if piece.calls and tools else None
            if written is None or tools is None:
                # Without the call, the teacher cannot judge what follows it.
                draft.pair(start, len(symbols), "", PairKind.TOOL_SYNTAX)
                return draft
            said = number > 0 and pieces[number - 1].part is Part.ANSWER
            _other_call(draft, symbols, piece, tools.before if said else "", written, tools)
        elif piece.part is Part.STOP:
            draft.pair(start, stop, stop_symbol, PairKind.EXACT)
    return draft


def _marker(
    draft: Draft, symbols: str, piece: Piece, wanted: str | None, student: Side, teacher: Side
) -> None:
    """A marker of thinking. Without `wanted`, or where both sides' markers are the same but for white
    space, the student's own white space is kept.
    """
    own = symbols[piece.start : piece.stop]
    core = own.strip(BLANKS)
    first = piece.start + own.find(core)
    last = first + len(core)
    name = spelled(core, student.tokenization)[0]
    if wanted is None:
        other: str | None = name
    else:
        wanted_core = wanted.strip(BLANKS)
        other = wanted_core if spelled(wanted_core, teacher.tokenization)[0] == name else None
    if other is None:
        draft.pair(piece.start, piece.stop, wanted or "", PairKind.MARKER)
        return
    draft.copy(symbols, piece.start, first)
    draft.pair(first, last, other, PairKind.EXACT if other == core else PairKind.MARKER)
    draft.copy(symbols, last, piece.stop)


def _same_tools(student: Side, teacher: Side) -> bool:
    """Whether both sides write calls with the same words, as tokens or spelled out."""
    ours, theirs = student.dialect.tools, teacher.dialect.tools
    if ours is None or theirs is None:
        return False
    return all(
        spelled(a, student.tokenization)[0].split() == spelled(b, teacher.tokenization)[0].split()
        for a, b in zip(ours.markers, theirs.markers, strict=True)
    )


def _same_call(draft: Draft, symbols: str, piece: Piece, student: Side, teacher: Side) -> None:
    """A call in a syntax both sides share: its bytes as they are, markers as each side's tokens."""
    events = {spelled(s, teacher.tokenization)[0]: s for s in _marker_events(teacher)}
    place = piece.start
    for start, stop, name in _names(symbols, piece, list(events), student):
        draft.copy(symbols, place, start)
        draft.pair(start, stop, events.get(name, name), PairKind.MARKER)
        place = stop
    draft.copy(symbols, place, piece.stop)


def _marker_events(side: Side) -> set[str]:
    """The control tokens with which a side writes calls."""
    tools = side.dialect.tools
    return {s for s in "".join(tools.markers if tools else ()) if is_event_symbol(s)}


def _names(
    symbols: str, piece: Piece, theirs: Sequence[str], student: Side
) -> Iterator[tuple[int, int, str]]:
    """Markers within a call: the student's events, and what it spells that is an event to the teacher. Within
    the arguments of a call nothing is one."""
    ours = _marker_events(student)
    names = re.compile("|".join(re.escape(name) for name in sorted(theirs, key=len, reverse=True)) or "(?!)")
    arguments = [(placed.arguments, placed.arguments_end) for placed in piece.calls or ()]
    start = piece.start
    for stop, then in [*arguments, (piece.stop, piece.stop)]:
        for place in range(start, stop):
            if symbols[place] in ours:
                yield place, place + 1, spelled(symbols[place], student.tokenization)[0]
            elif (match := names.match(symbols, place, stop)) is not None:
                yield place, match.end(), match[0]
        start = then


def _other_call(
    draft: Draft, symbols: str, piece: Piece, before: str, written: str, tools: ToolSyntax
) -> None:
    """A call in another syntax, the teacher's `tools`: names, keys and values belong together, with the bytes
    around them that agree; the rest is markup."""
    place_s, place_t = piece.start, len(draft.symbols)
    begin = place_t
    draft.symbols += before + written

    def row(start: int, stop: int, other: int, other_stop: int, kind: PairKind) -> None:
        if start < stop:
            draft.rows.append((start, stop, other, other_stop, kind))

    theirs, _ = read_calls(written, 0, len(written), tools)
    runs = agreeing(symbols, piece, before + written, len(before), theirs or ())
    for start, other, length in runs:
        row(place_s, start, place_t, begin + other, PairKind.TOOL_SYNTAX)
        place_s, place_t = start + length, begin + other + length
        row(start, place_s, begin + other, place_t, PairKind.EXACT)
    row(place_s, piece.stop, place_t, len(draft.symbols), PairKind.TOOL_SYNTAX)
