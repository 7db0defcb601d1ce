"""The student's turn as the teacher would write it, and what of the two belongs together.

What the student said and thought stays as it is, byte for byte; markers become the teacher's own; a tool
call becomes one in the teacher's syntax, of which names, keys and values belong together where their bytes
agree. What has no counterpart is named in a row of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from dragoman.render.dialect import Dialect
from dragoman.render.symbols import BLANKS, byte_symbols, is_event_symbol, num_common, spelled, text_symbols
from dragoman.render.turns import THINKING, Part, Piece
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
    write_calls: Callable[[Sequence[ToolCall]], str],
) -> Draft:
    """The teacher's version of a turn. `opened` says that its own context has opened thinking already;
    `write_calls` gives calls in the teacher's syntax.
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
        elif piece.part is Part.CALLS and piece.calls and teacher.dialect.tools is not None:
            said = number > 0 and pieces[number - 1].part is Part.ANSWER
            before = teacher.dialect.tools.before if said else ""
            _other_call(draft, symbols, piece, before + write_calls(piece.calls), student, teacher)
        elif piece.part is Part.CALLS:
            # Without the call, the teacher cannot judge what follows it.
            draft.pair(start, len(symbols), "", PairKind.TOOL_SYNTAX)
            return draft
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
        for a, b in (
            (ours.open, theirs.open),
            (ours.middle, theirs.middle),
            (ours.close, theirs.close),
            (ours.end, theirs.end),
        )
    )


def _same_call(draft: Draft, symbols: str, piece: Piece, student: Side, teacher: Side) -> None:
    """A call in a syntax both sides share: its bytes as they are, markers as each side's tokens."""
    tools = teacher.dialect.tools
    markers = tools.open + tools.close + tools.again + tools.end if tools is not None else ""
    events = {spelled(s, teacher.tokenization)[0]: s for s in markers if is_event_symbol(s)}
    names = re.compile("|".join(re.escape(name) for name in sorted(events, key=len, reverse=True)) or "(?!)")
    place = piece.start
    for symbol_start, symbol_stop, name in _names(symbols, piece, names, student):
        draft.copy(symbols, place, symbol_start)
        draft.pair(symbol_start, symbol_stop, events.get(name, name), PairKind.MARKER)
        place = symbol_stop
    draft.copy(symbols, place, piece.stop)


def _names(
    symbols: str, piece: Piece, names: re.Pattern[str], student: Side
) -> Iterator[tuple[int, int, str]]:
    """Markers within a call: the student's events, and what it spells that is an event to the teacher."""
    for place in range(piece.start, piece.stop):
        if is_event_symbol(symbols[place]):
            yield place, place + 1, spelled(symbols[place], student.tokenization)[0]
        elif (match := names.match(symbols, place, piece.stop)) is not None:
            yield place, match.end(), match[0]


def _other_call(draft: Draft, symbols: str, piece: Piece, written: str, student: Side, teacher: Side) -> None:
    """A call in another syntax: names, keys and values belong together, with the bytes around them that
    agree; the rest is markup."""
    own = symbols[piece.start : piece.stop]
    place_s = place_t = 0
    begin = len(draft.symbols)
    draft.symbols += written

    def row(start: int, stop: int, other: int, other_stop: int, kind: PairKind) -> None:
        if start < stop:
            at = (piece.start + start, piece.start + stop, begin + other, begin + other_stop)
            draft.rows.append((*at, kind))

    for start, other, length in _agreeing(own, written, piece.calls or ()):
        row(place_s, start, place_t, other, PairKind.TOOL_SYNTAX)
        row(start, start + length, other, other + length, PairKind.EXACT)
        place_s, place_t = start + length, other + length
    row(place_s, len(own), place_t, len(written), PairKind.TOOL_SYNTAX)


def _agreeing(own: str, written: str, calls: Sequence[ToolCall]) -> list[tuple[int, int, int]]:
    """Runs (start here, start there, length) of names, keys and values, grown over equal neighbours, and of
    the white space before the call."""
    blanks = num_common(own[: len(own) - len(own.lstrip(BLANKS))], written)
    found = [(0, 0, blanks)] if blanks else []
    here = there = blanks
    for atom in (atom for call in calls for atom in _atoms(call)):
        at, other = _find(own, atom, here), _find(written, atom, there)
        if at < 0 or other < 0:
            continue
        found.append((at, other, len(atom)))
        here, there = at + len(atom), other + len(atom)
    grown: list[tuple[int, int, int]] = []
    for number, (at, other, length) in enumerate(found):
        floor = (grown[-1][0] + grown[-1][2], grown[-1][1] + grown[-1][2]) if grown else (0, 0)
        ceiling = found[number + 1][:2] if number + 1 < len(found) else (len(own), len(written))
        while at > floor[0] and other > floor[1] and _equal_bytes(own[at - 1], written[other - 1]):
            at, other, length = at - 1, other - 1, length + 1
        while (
            at + length < ceiling[0]
            and other + length < ceiling[1]
            and _equal_bytes(own[at + length], written[other + length])
        ):
            length += 1
        grown.append((at, other, length))
    return grown


def _equal_bytes(a: str, b: str) -> bool:
    return a == b and not is_event_symbol(a)


def _find(symbols: str, atom: str, start: int) -> int:
    """Where an atom stands by itself, not within a longer word."""
    pattern = re.compile(rf"(?<![\w]){re.escape(atom)}(?![\w])" if atom.isalnum() else re.escape(atom))
    match = pattern.search(symbols, start)
    return -1 if match is None else match.start()


def _atoms(call: ToolCall) -> Iterator[str]:
    """Name, keys and values of a call in order, as JSON spells them inside quotes."""
    yield text_symbols(call.name)
    yield from _value_atoms(json.loads(call.arguments))


def _value_atoms(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _value_atoms(key)
            yield from _value_atoms(item)
    elif isinstance(value, list):
        for item in value:
            yield from _value_atoms(item)
    else:
        text = json.dumps(value, ensure_ascii=False)
        text = text[1:-1] if isinstance(value, str) else text
        if text:
            yield byte_symbols(text.encode())
