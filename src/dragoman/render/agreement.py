"""What of a tool call agrees with the same call in another syntax."""

from __future__ import annotations

from collections.abc import Sequence

from dragoman.render.arguments import Leaf, leaves
from dragoman.render.symbols import BLANKS, is_event_symbol, num_common
from dragoman.render.turns import Piece, PlacedCall

Run = tuple[int, int, int]
"""Start here, start there, length."""


def agreeing(symbols: str, piece: Piece, written: str, shift: int, theirs: Sequence[PlacedCall]) -> list[Run]:
    """Runs of equal bytes in the calls of a piece of `symbols` and in `written`, in order: the white space
    before the calls, and each name, key and value with its own counterpart, grown over equal neighbours.

    `theirs` are the calls in `written`, their places counted from `shift` on.
    """
    own = symbols[piece.start : piece.stop]
    blanks = num_common(own[: len(own) - len(own.lstrip(BLANKS))], written)
    found = [(piece.start, 0, blanks)] if blanks else []
    ours = piece.calls or ()
    call = written[shift:]
    # A template may write calls in a way that cannot be read back; then nothing is known to agree.
    for placed, other in zip(ours, theirs, strict=True) if len(ours) == len(theirs) else ():
        there = _atoms(call, other)
        for atom, (start, stop) in _atoms(symbols, placed).items():
            begin, end = (shift + place for place in there.get(atom, (0, 0)))
            here = symbols[start:stop]
            in_order = not found or (start >= _ends(found[-1])[0] and begin >= _ends(found[-1])[1])
            if here and in_order and here == written[begin:end] and not any(map(is_event_symbol, here)):
                found.append((start, begin, stop - start))
    return _grown(found, symbols, written, (piece.start, piece.stop))


def _atoms(symbols: str, placed: PlacedCall) -> dict[Leaf, tuple[int, int]]:
    """Where the name of a call and the keys and values of its arguments stand."""
    return {("name",): (placed.name, placed.name_end), **leaves(symbols, placed.arguments)}


def _ends(run: Run) -> tuple[int, int]:
    start, other, length = run
    return start + length, other + length


def _grown(found: Sequence[Run], symbols: str, written: str, piece: tuple[int, int]) -> list[Run]:
    """Runs grown to both sides over equal bytes, as far as the piece and the next run."""
    grown: list[Run] = []
    for number, (at, other, length) in enumerate(found):
        floor = _ends(grown[-1]) if grown else (piece[0], 0)
        ceiling = found[number + 1][:2] if number + 1 < len(found) else (piece[1], len(written))
        while at > floor[0] and other > floor[1] and _equal_bytes(symbols[at - 1], written[other - 1]):
            at, other, length = at - 1, other - 1, length + 1
        while (
            at + length < ceiling[0]
            and other + length < ceiling[1]
            and _equal_bytes(symbols[at + length], written[other + length])
        ):
            length += 1
        grown.append((at, other, length))
    return grown


def _equal_bytes(a: str, b: str) -> bool:
    return a == b and not is_event_symbol(a)
