"""Two token rows over one byte axis, laid out in character cells.

The terminal view and the figures draw the same layout: a sequence of *units*, the narrowest columns in which
both rows begin and end a glyph. Widths are terminal cells, so that East Asian characters and emoji keep the
rows aligned. Whatever has no safe glyph of its own is spelled out: bytes that are part of a character as
`\\xc3`, invisible or joining code points as `\\u200d` (terminals disagree on how wide a joined emoji is).
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, zip_longest

from rich.cells import cell_len

from dragoman.types import Alignment, Event, TokenText

_SYMBOLS = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "\\r"}
_EVENT_LABELS = {
    Event.STOP: "⟨stop⟩",
    Event.CONTROL: "⟨control⟩",
    Event.THINK_OPEN: "⟨think⟩",
    Event.THINK_CLOSE: "⟨/think⟩",
    Event.TOOL_OPEN: "⟨call⟩",
    Event.TOOL_CLOSE: "⟨/call⟩",
}
_EMPTY_TOKEN = "∅"
_RUNNING_TEXT = "\n\t\u200c\u200d"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One glyph of a token: the bytes `start:end` it stands for (zero bytes for an event) and its text."""

    start: int
    end: int
    text: str
    token: int
    first: bool


@dataclass(frozen=True, kw_only=True)
class Run:
    """Padded text of one row inside a unit; `token` is None on borders and where the row has no token."""

    text: str
    token: int | None


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A column both rows enter and leave together; never split over two lines.

    `borders` says for (student, teacher) whether a token or chunk begins here. If either does, one cell for
    the border precedes the `width` cells of the runs. `offset` is the student's byte offset of the column.
    """

    chunk: int
    offset: int
    width: int
    borders: tuple[bool, bool]
    rows: tuple[tuple[Run, ...], tuple[Run, ...]]

    @property
    def cells(self) -> int:
        """Width including the cell of the border."""
        return self.width + any(self.borders)


def glyphs(data: bytes) -> Iterator[tuple[int, str]]:
    """Yield (number of bytes, visible text) for each glyph; a combining mark stays with its base.

    >>> list(glyphs("né ".encode()))
    [(1, 'n'), (2, 'é'), (1, '·')]
    >>> list(glyphs("é".encode()[:1]))
    [(1, '\\\\xc3')]
    """
    size, text, open_base = 0, "", False
    for char in data.decode("utf-8", errors="surrogateescape"):
        num_bytes = len(char.encode("utf-8", errors="surrogateescape"))
        drawn = _draw(char)
        if drawn == char and cell_len(char) == 0:
            if open_base:
                size, text = size + num_bytes, text + char
                continue
            drawn = "◌" + char
        if text:
            yield size, text
        size, text, open_base = num_bytes, drawn, len(drawn) == 1 or drawn[0] == "◌"
    if text:
        yield size, text


def visible(data: bytes) -> str:
    """The bytes as one line of visible text.

    >>> visible(b"a b\\n\\xff")
    'a·b⏎\\\\xff'
    """
    return "".join(text for _, text in glyphs(data))


def printable(text: str) -> str:
    """Running text with its line ends, but without control, direction and surrogate code points.

    >>> printable("a\\n\\x1b[31m")
    'a\\n\\\\u001b[31m'
    """
    return "".join(
        f"\\u{ord(char):04x}"
        if unicodedata.category(char) in ("Cc", "Cf", "Cs") and char not in _RUNNING_TEXT
        else char
        for char in text
    )


def token_label(text: TokenText, index: int) -> str:
    """What a token is drawn as: its visible bytes, or the name of its event."""
    event = Event(int(text.event[index]))
    return _EVENT_LABELS.get(event) or visible(text.token_bytes(index)) or _EMPTY_TOKEN


def same_bytes(student: TokenText, teacher: TokenText, slices: tuple[range, range]) -> bool:
    """Whether a chunk can be drawn byte over byte: equal bytes, and every token spells at least one."""
    spelled = [
        [text.token_bytes(i) for i in part] for text, part in zip((student, teacher), slices, strict=True)
    ]
    return all(all(tokens) for tokens in spelled) and b"".join(spelled[0]) == b"".join(spelled[1])


def chunk_slices(alignment: Alignment) -> Iterator[tuple[range, range]]:
    """Student and teacher token indices of every chunk."""
    sides = (alignment.student_bounds.tolist(), alignment.teacher_bounds.tolist())
    for (s0, s1), (t0, t1) in zip(pairwise(sides[0]), pairwise(sides[1]), strict=True):
        yield range(s0, s1), range(t0, t1)


def lay_out(student: TokenText, teacher: TokenText, alignment: Alignment) -> list[Unit]:
    """Columns for the whole response, in order.

    Where both sides spell the same bytes, glyphs stand over the bytes they share; elsewhere (events, impure
    and one-sided chunks) the glyphs of either row are merely set side by side.
    """
    units: list[Unit] = []
    for chunk, slices in enumerate(chunk_slices(alignment)):
        above = _pieces(student, slices[0])
        below = _pieces(teacher, slices[1])
        offset = int(student.bounds[slices[0].start])
        if slices[0] and same_bytes(student, teacher, slices):
            units += _byte_over_byte(chunk, offset, above, below)
        else:
            units += _side_by_side(chunk, offset, above, below)
    return units


def _draw(char: str) -> str:
    """One code point as text whose width every terminal agrees on."""
    if char in _SYMBOLS:
        return _SYMBOLS[char]
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape: a byte that is no character
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return char if char.isprintable() else f"\\x{code:02x}"
    joins = 0xFE00 <= code <= 0xFE0F or 0x1F1E6 <= code <= 0x1F1FF or 0x1F3FB <= code <= 0x1F3FF
    if joins or not char.isprintable() or char == "·":
        return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
    return char


def _pieces(text: TokenText, tokens: range) -> list[Piece]:
    """The glyphs of some tokens; offsets count from the first token."""
    pieces = []
    at = 0
    for token in tokens:
        drawn = list(glyphs(text.token_bytes(token))) or [(0, token_label(text, token))]
        for index, (size, label) in enumerate(drawn):
            pieces.append(Piece(start=at, end=at + size, text=label, token=token, first=index == 0))
            at += size
    return pieces


class _Grid:
    """The cells of a chunk whose rows spell the same bytes: a column for every run of bytes no glyph cuts."""

    def __init__(self, pieces: list[Piece]) -> None:
        cuts = sorted({piece.start for piece in pieces} | {piece.end for piece in pieces})
        self._column = {cut: i for i, cut in enumerate(cuts)}
        self._width = [0] * (len(cuts) - 1)
        self._borders = sorted({piece.start for piece in pieces if piece.first})
        # Narrow pieces first: a wide one then asks only for what its parts do not already give it.
        for piece in sorted(pieces, key=lambda p: self._column[p.end] - self._column[p.start]):
            missing = cell_len(piece.text) - self.cells(piece.start, piece.end)
            self._width[self._column[piece.end] - 1] += max(0, missing)

    def cells(self, start: int, end: int) -> int:
        """Cells between two cuts, with the borders strictly inside."""
        inside = bisect_left(self._borders, end) - bisect_right(self._borders, start)
        return sum(self._width[self._column[start] : self._column[end]]) + inside

    def _has_border(self, cut: int) -> bool:
        return bisect_left(self._borders, cut) < bisect_right(self._borders, cut)

    def runs(self, pieces: list[Piece]) -> tuple[Run, ...]:
        """One row of a unit: padded glyphs, with a border or the gap that keeps step with one in between."""
        runs = []
        for i, piece in enumerate(pieces):
            if i and self._has_border(piece.start):
                runs.append(Run(text="|", token=None) if piece.first else Run(text=" ", token=piece.token))
            text = _pad(piece.text, self.cells(piece.start, piece.end))
            runs.append(Run(text=text, token=piece.token))
        return tuple(runs)


def _byte_over_byte(chunk: int, offset: int, above: list[Piece], below: list[Piece]) -> list[Unit]:
    """Columns of a chunk whose rows spell the same bytes, cut wherever both rows begin a glyph."""
    grid = _Grid(above + below)
    starts = [[piece.start for piece in row] for row in (above, below)]
    shared = sorted(set(starts[0]) & set(starts[1]))
    units = []
    for start, end in pairwise([*shared, above[-1].end]):
        parts = [
            row[bisect_left(begins, start) : bisect_left(begins, end)]
            for row, begins in zip((above, below), starts, strict=True)
        ]
        units.append(
            Unit(
                chunk=chunk,
                offset=offset + start,
                width=grid.cells(start, end),
                borders=(parts[0][0].first, parts[1][0].first),
                rows=(grid.runs(parts[0]), grid.runs(parts[1])),
            )
        )
    return units


def _side_by_side(chunk: int, offset: int, above: list[Piece], below: list[Piece]) -> list[Unit]:
    """Columns of a chunk without common bytes: the k-th glyph of one row over the k-th of the other."""
    units = []
    for i, pair in enumerate(zip_longest(above, below)):
        width = max(cell_len(piece.text) for piece in pair if piece)
        runs = [
            Run(text=_pad(piece.text, width), token=piece.token)
            if piece
            else Run(text=" " * width, token=None)
            for piece in pair
        ]
        # A row that has run out of tokens closes its last one with a border.
        starts = [
            piece.first if piece else i == len(row) for piece, row in zip(pair, (above, below), strict=True)
        ]
        units.append(
            Unit(
                chunk=chunk,
                offset=offset + (above[min(i, len(above) - 1)].start if above else 0),
                width=width,
                borders=(starts[0], starts[1]),
                rows=((runs[0],), (runs[1],)),
            )
        )
    return units


def _pad(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))
