"""A response as a string of symbols, one character each, in which markup can be searched.

A byte is the character with its code; an event is the character 256 + id, so that a control token is never
taken for text that spells its name. Offsets into such a string are the symbol offsets of a
`Correspondence`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np

from dragoman.text import Tokenization
from dragoman.types import Event, TokenText

_FIRST_EVENT = 256
BLANKS = " \t\r\n"
_TEXT_OR_EVENT = re.compile("[\x00-\xff]+|[^\x00-\xff]")


def symbol_string(text: TokenText) -> str:
    """The symbols of a text.

    >>> symbol_string(tokenization.encode("é".encode()))  # two bytes
    'Ã©'
    """
    data = text.data.decode("latin-1")
    parts = []
    done = 0
    for token in np.flatnonzero(text.event != Event.NONE).tolist():
        place = int(text.bounds[token])
        parts += [data[done:place], event_symbol(int(text.ids[token]))]
        done = place
    return "".join([*parts, data[done:]])


def ids_symbols(tokenization: Tokenization, ids: Sequence[int]) -> str:
    """The symbols of some ids."""
    return "".join(
        event_symbol(index) if tokenization.is_event(index) else byte_symbols(tokenization.token_bytes(index))
        for index in ids
    )


def event_symbol(index: int) -> str:
    """The symbol of a control token."""
    return chr(_FIRST_EVENT + index)


def is_event_symbol(symbol: str) -> bool:
    """Whether a symbol, or the first of a run of equal nature, is an event."""
    return ord(symbol[0]) >= _FIRST_EVENT


def byte_symbols(data: bytes) -> str:
    """The symbols of some bytes."""
    return data.decode("latin-1")


def text_symbols(text: str) -> str:
    """The symbols of a text in UTF-8."""
    return byte_symbols(text.encode())


def symbol_bytes(symbols: str) -> bytes:
    """The bytes of symbols, events left out."""
    return "".join(symbol for symbol in symbols if ord(symbol) < _FIRST_EVENT).encode("latin-1")


def symbol_text(symbols: str) -> str:
    """The text of symbols, events left out; U+FFFD for what is no UTF-8."""
    return symbol_bytes(symbols).decode("utf-8", errors="replace")


def runs(symbols: str) -> Iterator[tuple[int, str]]:
    """Runs of bytes and single events, each with where it starts."""
    for match in _TEXT_OR_EVENT.finditer(symbols):
        yield match.start(), match[0]


def event_id(symbol: str) -> int:
    """The id behind an event symbol."""
    return ord(symbol) - _FIRST_EVENT


def spelled(symbols: str, tokenization: Tokenization) -> tuple[str, list[int]]:
    """Symbols in which every event is replaced by the bytes of its name, and where each one starts there
    (one entry more than symbols)."""
    parts = [
        text_symbols(tokenization.token_name(event_id(symbol))) if is_event_symbol(symbol) else symbol
        for symbol in symbols
    ]
    return "".join(parts), [0, *accumulate(map(len, parts))]


def readable(symbols: str, tokenization: Tokenization) -> str:
    """Symbols as text for a reader, with events by name."""
    return symbol_text(spelled(symbols, tokenization)[0])


def num_common(a: Sequence[object], b: Sequence[object]) -> int:
    """How many items two sequences have in common from their beginning."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
