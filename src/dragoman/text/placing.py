"""Which bytes of a text the tokens stand for that a tokenizer made of it, where it changed the text.

A tokenizer reports for every token the characters it was made of. Tokens whose characters overlap form a
group; what the tokenizer dropped between groups goes with one of them. A group is believed only if it
spells its source, or what the tokenizer's normaliser makes of that: the places reported for reordered
accents, say, are not exact.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from dragoman.types import Correspondence, Event, PairKind, TokenText

Normalise = Callable[[bytes], bytes]
"""From any bytes to UTF-8."""

_MOST_JOINED = 4
"""Groups joined, at most, to find a stretch that can be believed."""
_UNREADABLE = "\ufffd".encode()


@dataclass(frozen=True, kw_only=True, eq=False)
class Placed:
    """What a tokenizer makes of some bytes, and which of them each token stands for.

    `correspondence` leads from the bytes given, each a symbol, to the symbols of `text`; None where `text`
    spells just those bytes.
    """

    text: TokenText
    correspondence: Correspondence | None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Groups:
    """Groups of tokens, as offsets of their borders: into the source bytes they were made of, the bytes
    they spell, and the symbols of the tokens. Source behind `used` was dropped."""

    source: Int64[np.ndarray, " G_plus_1"]
    used: Int64[np.ndarray, " G"]
    spelled: Int64[np.ndarray, " G_plus_1"]
    symbols: Int64[np.ndarray, " G_plus_1"]
    has_event: Bool[np.ndarray, " G"]


def find_places(
    data: bytes, text: TokenText, spans: Int64[np.ndarray, "S 2"], normalise: Normalise
) -> Correspondence:
    """The correspondence between `data` and what a tokenizer made of it.

    `spans[i]` are the bytes of `data` reported for token i; `normalise` is what the tokenizer makes of some
    bytes before it divides them. Events have no row: an unknown token does not say what was written. Nor
    have tokens whose place cannot be believed.
    """
    if not len(text):
        return Correspondence(spans=np.zeros((0, 4), np.int64), kind=np.zeros(0, np.uint8))
    groups = _group(data, text, spans)

    def believed(start: int, stop: int) -> bool:
        source = data[groups.source[start] : groups.source[stop]]
        spelled = text.data[groups.spelled[start] : groups.spelled[stop]]
        return not groups.has_event[start:stop].any() and _says(spelled, source, normalise)

    exact = _spells_source(data, text.data, groups) & ~groups.has_event
    placed = exact.copy()
    starts_row = np.ones(len(exact), bool)
    starts_row[1:] = ~(exact[1:] & exact[:-1])
    doubtful = []
    for g in np.flatnonzero(~exact).tolist():
        placed[g] = believed(g, g + 1)
        if not placed[g] and not groups.has_event[g]:
            doubtful.append(g)
    stops = groups.source[1:].copy()
    last = 0
    for g in doubtful:
        if g < last:
            continue
        if (window := _join(g, last, len(exact), believed)) is not None:
            start, last = window
            placed[start:last], exact[start:last] = True, False
            starts_row[start + 1 : last] = False
            starts_row[start], starts_row[last : last + 1] = True, True
        elif _spells(groups, g, data, text):
            # What was dropped behind it is not the normaliser's doing, but bytes without a token.
            placed[g], exact[g], stops[g] = True, True, groups.used[g]
    first = np.flatnonzero(starts_row)
    final = np.append(first[1:], len(exact)) - 1
    rows = [groups.source[first], stops[final], groups.symbols[first], groups.symbols[final + 1]]
    kinds = np.where(exact[first], PairKind.EXACT, PairKind.NORMALISED)
    kept = placed[first]
    return Correspondence(spans=np.stack(rows, axis=1)[kept], kind=kinds[kept].astype(np.uint8))


def _group(data: bytes, text: TokenText, spans: Int64[np.ndarray, "S 2"]) -> _Groups:
    """Divide tokens wherever all before end before all behind begin.

    A token of no characters goes with both its neighbours. Bytes that were dropped go with the group before
    them (an accent with its letter) up to the first white space, which goes with the next (with its word).
    """
    is_event = text.event != Event.NONE
    symbols = text.bounds + np.concatenate([[0], np.cumsum(is_event)])
    start, end = spans.T
    end_before = np.maximum.accumulate(end)
    start_behind = np.minimum.accumulate(start[::-1])[::-1]
    nothing = start >= end
    divided = (end_before[:-1] <= start_behind[1:]) & ~nothing[:-1] & ~nothing[1:]
    inner = np.flatnonzero(divided) + 1
    source = start_behind[inner]
    ends = end_before[inner - 1]
    for g in np.flatnonzero(ends < source).tolist():
        source[g] = ends[g] + _num_before_space(data[ends[g] : source[g]])
    borders = np.concatenate([[0], inner, [len(text)]])
    return _Groups(
        source=np.concatenate([[0], source, [len(data)]]),
        used=np.append(ends, end_before[-1]),
        spelled=text.bounds[borders],
        symbols=symbols[borders],
        has_event=np.diff(np.concatenate([[0], np.cumsum(is_event)])[borders]) > 0,
    )


def _spells(groups: _Groups, g: int, data: bytes, text: TokenText) -> bool:
    """Whether a group spells just what was used of its source."""
    spelled = text.data[groups.spelled[g] : groups.spelled[g + 1]]
    return data[groups.source[g] : groups.used[g]] == spelled


def _num_before_space(dropped: bytes) -> int:
    word = re.match(r"\S*", dropped.decode(errors="surrogateescape"))
    assert word is not None
    return len(word[0].encode(errors="surrogateescape"))


def _spells_source(data: bytes, spelled: bytes, groups: _Groups) -> Bool[np.ndarray, " G"]:
    """Which groups spell just the bytes they were made of."""
    sizes = np.diff(groups.spelled)
    equal = np.diff(groups.source) == sizes
    group_of = np.repeat(np.arange(len(sizes)), sizes)
    compared = equal[group_of]
    place = np.flatnonzero(compared)
    group_of = group_of[compared]
    source = place - groups.spelled[group_of] + groups.source[group_of]
    symbols = np.frombuffer(spelled, np.uint8)[place]
    equal[group_of[np.frombuffer(data, np.uint8)[source] != symbols]] = False
    return equal


def _says(spelled: bytes, source: bytes, normalise: Normalise) -> bool:
    """Whether tokens spell, white space aside, what the tokenizer makes of their source."""
    if spelled.count(_UNREADABLE) > source.count(_UNREADABLE):
        return False
    try:
        wanted = spelled.decode()
    except UnicodeDecodeError:
        return False
    return "".join(wanted.split()) == "".join(normalise(source).decode().split())


def _join(g: int, first: int, last: int, believed: Callable[[int, int], bool]) -> tuple[int, int] | None:
    """The smallest stretch of groups around g, within `first:last`, that can be believed."""
    for size in range(2, _MOST_JOINED + 1):
        for start in range(g, g - size, -1):
            if start >= first and start + size <= last and believed(start, start + size):
                return start, start + size
    return None
