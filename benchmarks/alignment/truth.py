"""Ground truth: which bytes of a response every token of the teacher stands for.

Two independent sources are put together, and must meet; neither imports anything of dragoman:

* what a tokenizer's tokens spell, read from `tokenizer.json` (`facts.Speller`);
* what its normaliser makes of the response, traced character by character (`normalise`).

The pieces that the tokens spell must concatenate to exactly what the normaliser should have made, or
`TruthError` is raised: nothing is judged on a guess. A token's *source* is then the bytes of the response
that its own bytes come from: those of the same character, byte by byte, or where the normaliser made
another character, all bytes of all characters that it was made of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from facts import Speller
from normalise import TruthError
from units import given_units
from wordpiece import bert_pieces

Mapped = tuple[bytes, int, int, bool, bool]
"""Bytes made, first and last source byte, whether they are these very bytes, whether they replace others."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where tokens come from: token j from bytes `start[j]:stop[j]` of the response.

    `foreign` tokens stand for no text of the response: control tokens, unknown words, replacement
    characters in place of broken bytes. Tokens without a source (made of nothing) have `start == stop`.
    """

    start: np.ndarray
    stop: np.ndarray
    foreign: np.ndarray


def sources(speller: Speller, ids: Sequence[int], data: bytes, text: str | None = None) -> Sources:
    """The sources of a teacher's tokens in the response `data`.

    `text` is what was given to the tokenizer, if not the bytes themselves. Raises TruthError.
    """
    if speller.facts.spelling == "wordpiece":
        return _wordpiece_sources(speller, ids, data, text)
    mapped = list(_mapped(speller, data, text))
    made = b"".join(part for part, *_ in mapped)
    start, stop, foreign = (np.zeros(len(made), np.int64) for _ in range(3))
    at = 0
    for part, first, last, same, replaced in mapped:
        here = slice(at, at + len(part))
        start[here] = np.arange(first, last) if same else first
        stop[here] = np.arange(first, last) + 1 if same else last
        foreign[here] = replaced
        at += len(part)
    pieces = [speller.spell(index) for index in ids]
    bounds = np.cumsum([0, *map(len, pieces)])
    spelled = b"".join(pieces)
    if spelled != made:
        dummies = _dummy_spaces(speller, ids, pieces, bounds)
        spelled = np.delete(np.frombuffer(spelled, np.uint8), dummies).tobytes()
        for place in dummies:  # they come from nothing
            start, stop, foreign = (np.insert(part, place, 0) for part in (start, stop, foreign))
    if spelled != made:
        at = next((i for i, (a, b) in enumerate(zip(spelled, made, strict=False)) if a != b), -1)
        got, expected = (side[max(at - 9, 0) : at + 9] for side in (spelled, made))
        raise TruthError(
            f"tokens spell {got!r}, expected {expected!r}, which part at byte {at} (-1: one ends first)"
        )
    of = np.repeat(np.arange(len(ids)), np.diff(bounds))
    first_of, last_of = np.full(len(ids), len(data)), np.zeros(len(ids), np.int64)
    placed = stop > start
    np.minimum.at(first_of, of[placed], start[placed])
    np.maximum.at(last_of, of[placed], stop[placed])
    alien = np.isin(ids, list(speller.special))
    np.logical_or.at(alien, of, foreign.astype(bool))
    return Sources(start=np.minimum(first_of, last_of), stop=last_of, foreign=alien)


def changes(speller: Speller, data: bytes) -> bool:
    """Whether the tokenizer cannot spell the response as it is."""
    if speller.facts.spelling == "wordpiece":
        return True
    return b"".join(part for part, *_ in _mapped(speller, data, None)) != data


def _mapped(speller: Speller, data: bytes, text: str | None) -> Iterator[Mapped]:
    """What is made of the response, in order."""
    normaliser = speller.facts.normaliser
    at = 0
    for source, given in given_units(data, text):
        end = at + len(source)
        if isinstance(given, bytes):
            known = speller.known(given)
            yield known, at, end, known == given, False
        elif given.encode() != source:
            yield normaliser(given).encode(), at, end, False, True
        else:
            places = np.cumsum([at, *(len(character.encode()) for character in given)]).tolist()
            for made, first, last in normaliser.trace(given):
                yield made.encode(), places[first], places[last], made == given[first:last], False
        at = end


def _dummy_spaces(
    speller: Speller, ids: Sequence[int], pieces: Sequence[bytes], bounds: np.ndarray
) -> list[int]:
    """Bytes spelled that are dummy spaces: before the text and before what follows a control token."""
    return [
        int(bounds[i])
        for i, piece in enumerate(pieces)
        if piece.startswith(b" ")
        and ids[i] not in speller.special
        and (i == 0 or ids[i - 1] in speller.special)
    ]


def _wordpiece_sources(speller: Speller, ids: Sequence[int], data: bytes, text: str | None) -> Sources:
    unknown = next(index for index, piece in speller.piece.items() if piece == "[UNK]")
    characters, start, stop = "", [], []
    at = 0
    for source, given in given_units(data, text):
        end = at + len(source)
        shown = given if isinstance(given, str) else "\ufffd"
        widths = [len(character.encode()) for character in shown]
        if sum(widths) == len(source):
            bounds = np.cumsum([at, *widths]).tolist()
            start, stop = start + bounds[:-1], stop + bounds[1:]
        else:
            start, stop = start + [at] * len(shown), stop + [end] * len(shown)
        characters += shown
        at = end
    try:
        spans = bert_pieces([speller.piece[index] for index in ids], characters)
    except ValueError as error:
        raise TruthError(str(error)) from None
    first, last = np.array(spans, np.int64).reshape(-1, 2).T
    return Sources(
        start=np.array(start, np.int64)[first],
        stop=np.array(stop, np.int64)[last - 1],
        foreign=np.isin(ids, [unknown, *speller.special]),
    )
