"""A sampled turn taken apart: thinking, answer, tool calls and the markers between them.

Works on symbols, so that what a model writes as a control token and what it spells out are never confused.
A turn that keeps to no form is one answer; nothing is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from dragoman.render.arguments import arguments_end
from dragoman.render.dialect import PROBE_ID, Dialect, ToolSyntax
from dragoman.render.symbols import BLANKS, is_event_symbol, symbol_text
from dragoman.types import Message, ToolCall

_BLANKS = f"[{BLANKS}]*"
_NAME = r"[-a-zA-Z0-9_.:/\x80-\xff]+?"


class Part(StrEnum):
    """What a piece of a turn is."""

    THINK_OPEN = "think open"
    THOUGHT = "thought"
    THINK_CLOSE = "think close"
    ANSWER_OPEN = "answer open"
    ANSWER = "answer"
    CALLS = "calls"
    STOP = "stop"


@dataclass(frozen=True, kw_only=True)
class PlacedCall:
    """A call, and where its name and its arguments start and end."""

    call: ToolCall
    name: int
    name_end: int
    arguments: int
    arguments_end: int


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Symbols `start:stop` of a turn. `calls` are those written in it, None where they are malformed."""

    part: Part
    start: int
    stop: int
    calls: tuple[PlacedCall, ...] | None = None


THINKING = (Part.THINK_OPEN, Part.THOUGHT, Part.THINK_CLOSE)


def take_apart(
    symbols: str, dialect: Dialect, *, finished: bool, opened: bool = False, calls: bool = True
) -> list[Piece]:
    """The pieces of a turn, in order and without gaps; empty ones are left out.

    `finished` says that the last symbol is a stop, `opened` that the generation prompt left thinking open,
    `calls` that there are tools to call: without, what looks like a call is part of what is said.
    """
    end = len(symbols) - finished
    marker = dialect.answer_marker
    if marker and not opened and symbols.startswith(marker, 0, end):
        # May look like thinking: Qwen 3 puts an empty one before an answer without.
        pieces = [Piece(part=Part.ANSWER_OPEN, start=0, stop=len(marker))]
    else:
        pieces = _thinking(symbols, end, dialect, opened)
    tools = dialect.tools if calls else None
    pieces += _answer(symbols, pieces[-1].stop if pieces else 0, end, tools)
    if end < len(symbols):
        pieces.append(Piece(part=Part.STOP, start=end, stop=len(symbols)))
    return [piece for piece in pieces if piece.start < piece.stop]


def as_text(symbols: str, *, finished: bool) -> list[Piece]:
    """A turn that is not taken apart: text, then the stop if there is one."""
    end = len(symbols) - finished
    pieces = (
        Piece(part=Part.ANSWER, start=0, stop=end),
        Piece(part=Part.STOP, start=end, stop=len(symbols)),
    )
    return [piece for piece in pieces if piece.start < piece.stop]


def as_message(
    symbols: str, pieces: Sequence[Piece], dialect: Dialect, shown: Callable[[str], str]
) -> Message:
    """A turn as a message: markers left out, malformed calls as part of what is said, their control tokens
    by name, as `shown` gives them; spaces that the template puts before an answer are left out."""
    said = [
        (shown if piece.part is Part.CALLS else symbol_text)(symbols[piece.start : piece.stop])
        for piece in pieces
        if piece.part is Part.ANSWER or (piece.part is Part.CALLS and piece.calls is None)
    ]
    thought = [symbol_text(symbols[p.start : p.stop]) for p in pieces if p.part is Part.THOUGHT]
    thinks = any(piece.part in THINKING for piece in pieces)
    calls = [placed.call for piece in pieces for placed in piece.calls or ()]
    spaces = "" if thinks or dialect.answer_marker else dialect.answer_open
    return Message(
        role="assistant",
        content="".join(said).removeprefix(spaces),
        reasoning_content="".join(thought) if thinks else None,
        tool_calls=tuple(calls),
    )


def _thinking(symbols: str, end: int, dialect: Dialect, opened: bool) -> list[Piece]:
    pieces = []
    start = 0
    if not opened:
        core = re.escape(dialect.think_open.strip(BLANKS))
        match = re.compile(f"{_BLANKS}{core}{_BLANKS}").match(symbols, 0, end)
        if match is None:
            return []
        start = match.end()
        pieces.append(Piece(part=Part.THINK_OPEN, start=0, stop=start))
    core = re.escape(dialect.think_close.strip(BLANKS))
    # Blanks before the marker are looked for from the marker on, as a search for blanks first is quadratic.
    found = re.compile(core).search(symbols, start, end)
    if found is None:
        return [*pieces, Piece(part=Part.THOUGHT, start=start, stop=end)]
    thought_end = start + len(symbols[start : found.start()].rstrip(BLANKS))
    close_end = end - len(symbols[found.end() : end].lstrip(BLANKS))
    return [
        *pieces,
        Piece(part=Part.THOUGHT, start=start, stop=thought_end),
        Piece(part=Part.THINK_CLOSE, start=thought_end, stop=close_end),
    ]


def _answer(symbols: str, start: int, end: int, tools: ToolSyntax | None) -> list[Piece]:
    """What is said, the calls behind it and, rarely, what is said behind those."""
    place = symbols.find(call_mark(tools), start, end) if tools is not None else -1
    if tools is None or place < 0:
        return [Piece(part=Part.ANSWER, start=start, stop=end)]
    said_end = start + len(symbols[start:place].rstrip(BLANKS))
    calls, stop = read_calls(symbols, place, end, tools)
    if calls is None and not is_markup(call_mark(tools)):
        # Where a call begins like ordinary text (a bare JSON object), what is no call is just that.
        return [Piece(part=Part.ANSWER, start=start, stop=end)]
    return [
        Piece(part=Part.ANSWER, start=start, stop=said_end),
        Piece(part=Part.CALLS, start=said_end, stop=stop, calls=calls),
        Piece(part=Part.ANSWER, start=stop, stop=end),
    ]


def call_mark(tools: ToolSyntax) -> str:
    """What a call is recognised by, well-formed or not: its first event or word, or all of its opening
    where that word is a mere bracket."""
    first = tools.open.lstrip(BLANKS)
    if is_event_symbol(first[0]):
        return first[0]
    word = re.split(f"[{BLANKS}]", first)[0]
    return word if is_markup(word) else first


def is_markup(mark: str) -> bool:
    """Whether a mark is nothing but markup: a control token, or a tag."""
    return is_event_symbol(mark) or mark.startswith("<")


def read_calls(
    symbols: str, start: int, end: int, tools: ToolSyntax
) -> tuple[tuple[PlacedCall, ...] | None, int]:
    """The calls from `start` on and where they end; None, and the end of the turn, for malformed ones."""
    calls: list[PlacedCall] = []
    place = start
    opening = tools.open
    while (match := re.compile(_loose(opening)).match(symbols, place, end)) is not None:
        call, place = _call(symbols, match, end, tools)
        if call is None:
            return None, end
        calls.append(call)
        opening = tools.again
    if not calls:
        return None, end
    if tools.end and (match := re.compile(_loose(tools.end)).match(symbols, place, end)) is not None:
        place = match.end()
    rest = symbols[place:end].lstrip(BLANKS)
    if not rest:
        return tuple(calls), end
    return (None, end) if call_mark(tools) in rest else (tuple(calls), place)


def _call(symbols: str, opening: re.Match[str], end: int, tools: ToolSyntax) -> tuple[PlacedCall | None, int]:
    """One call whose name starts behind its opening, and where it ends."""
    start = opening.end()
    # Ahead must be an object, as the middle may be a line break only, and begin like a name.
    head = re.compile(rf"({_NAME}){_loose(tools.middle)}(?={{)").match(symbols, start, end)
    if head is None:
        return None, end
    name, stop = symbol_text(head[1]), arguments_end(symbols, head.end(), end)
    if stop is None or not re.fullmatch(r"[\w.:/-]+", name):
        return None, end
    close = re.compile(_loose(tools.close)).match(symbols, stop, end)
    if close is None:
        return None, end
    ids = [match["id"] for match in (opening, head, close) if "id" in match.re.groupindex]
    arguments = symbol_text(symbols[head.end() : stop])
    call = ToolCall(name=name, arguments=arguments, id=ids[0] if ids else None)
    placed = PlacedCall(call=call, name=start, name_end=head.end(1), arguments=head.end(), arguments_end=stop)
    return placed, close.end()


def _loose(marker: str) -> str:
    """A pattern of a marker with any white space where it has some, and around it, and with any id."""
    words = [re.escape(word) for word in re.split(f"[{BLANKS}]+", marker) if word]
    pattern = _BLANKS + _BLANKS.join(words) + _BLANKS
    return pattern.replace(PROBE_ID, r"(?P<id>[-a-zA-Z0-9_.:]+)", 1).replace(PROBE_ID, "(?P=id)")
