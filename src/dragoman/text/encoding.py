"""From bytes to the ids a tokenizer itself would produce, for any bytes, valid UTF-8 or not.

A tokenizer takes characters, a language model writes bytes. Where the bytes are no UTF-8 (a response
cut inside a character, a stray byte), each broken piece is given to the tokenizer as one stand-in
character, and the pieces of text that hold a stand-in are tokenised again from their true bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
from jaxtyping import Int64
from tokenizers import Encoding, Tokenizer

from dragoman.text.spelling import SPACE_MARK, Spelling, Structure, byte_alphabet

Token = tuple[int, int, int]
"""An id and the bytes it was made of, first and last plus one."""

_REPLACEMENT = "\ufffd"
_BATCH = 16384
"""Strings tokenised in one call; their encodings exist at once."""


@dataclass(frozen=True, kw_only=True)
class StandIn:
    """Text in which each broken piece of the data is one character."""

    text: str
    sources: list[bytes]
    """The bytes behind every character."""
    broken: frozenset[int]
    """Which characters are stand-ins."""

    @cached_property
    def starts(self) -> list[int]:
        """Where the bytes of every character start, and where the last ends."""
        return list(accumulate(map(len, self.sources), initial=0))


def stand_in(data: bytes) -> StandIn:
    """Replace every piece that is no UTF-8 by one character.

    The beginning of a character (a cut) becomes a character that begins so, which a pre-tokenizer
    will treat as what was being written; any other byte becomes U+FFFD.
    """
    characters: list[str] = []
    sources: list[bytes] = []
    broken: set[int] = set()
    start = 0
    while start < len(data):
        try:
            valid, bad, stop = data[start:].decode("utf-8"), b"", len(data)
        except UnicodeDecodeError as error:
            valid = data[start : start + error.start].decode("utf-8")
            bad = data[start + error.start : start + error.end]
            stop = start + error.end
        characters.extend(valid)
        sources.extend(character.encode() for character in valid)
        if bad:
            broken.add(len(characters))
            characters.append(_complete(bad))
            sources.append(bad)
        start = stop
    return StandIn(text="".join(characters), sources=sources, broken=frozenset(broken))


def _complete(piece: bytes) -> str:
    """A character whose UTF-8 begins with `piece`, or U+FFFD where none does."""
    lead = piece[0]
    size = 2 if 0xC2 <= lead < 0xE0 else 3 if 0xE0 <= lead < 0xF0 else 4 if 0xF0 <= lead < 0xF5 else 1
    for fill in (0x80, 0x90, 0xA0):
        try:
            character = (piece + bytes([fill] * (size - len(piece)))).decode("utf-8")
        except UnicodeDecodeError:
            continue
        if len(character) == 1:
            return character
    return _REPLACEMENT


class Encoder:
    """Bytes to canonical ids, with neither special tokens added nor a dummy leading space."""

    def __init__(self, backend: Tokenizer, structure: Structure) -> None:
        self._backend = backend
        self._structure = structure
        self._alphabet = {byte: character for character, byte in byte_alphabet().items()}
        ids = {byte: backend.token_to_id(f"<0x{byte:02X}>") for byte in range(0x80, 0x100)}
        self._byte_ids = {byte: index for byte, index in ids.items() if index is not None}
        unknown = getattr(backend.model, "unk_token", None)
        self._dropped = frozenset(
            byte
            for byte, character in self._alphabet.items()
            if unknown is None and backend.token_to_id(character) is None
        )
        self._spells_bytes = structure.byte_fallback and len(self._byte_ids) == len(ids)

    def ids(self, data: bytes) -> list[int]:
        """The canonical ids of `data`."""
        return self.many([data])[0]

    def many(self, data: Sequence[bytes]) -> list[list[int]]:
        """`ids` of each of many strings, which share nothing."""
        texts: list[str] = []
        places: list[int] = []
        found: list[list[int]] = [[]] * len(data)
        for place, piece in enumerate(data):
            try:
                texts.append(piece.decode("utf-8"))
            except UnicodeDecodeError:
                found[place] = [index for index, _, _ in self._broken(stand_in(piece))]
            else:
                places.append(place)
        for start in range(0, len(texts), _BATCH):
            piece_of = slice(start, start + _BATCH)
            # Fast, as places are not asked for.
            encodings = self._backend.encode_batch_fast(texts[piece_of], add_special_tokens=False)
            for place, encoding in zip(places[piece_of], encodings, strict=True):
                found[place] = encoding.ids
        return found

    def spans(self, data: bytes) -> Int64[np.ndarray, "S 2"]:
        """The bytes of `data` that the tokenizer reports for each of its ids, first and last plus one.

        Tokens made of one character have all of its bytes.
        """
        try:
            offsets = self._encode(data.decode("utf-8")).offsets
        except UnicodeDecodeError:
            spans = [(start, stop) for _, start, stop in self._broken(stand_in(data))]
            return np.array(spans, np.int64).reshape(-1, 2)
        starts = np.flatnonzero((np.frombuffer(data, np.uint8) & 0xC0) != 0x80)
        return np.append(starts, len(data))[np.array(offsets, np.int64).reshape(-1, 2)]

    def normalised(self, data: bytes) -> bytes:
        """What the tokenizer makes of some bytes before it divides them, as its tokens spell it."""
        text = data.decode("utf-8", errors="replace")
        if self._backend.normalizer is not None:
            text = self._backend.normalizer.normalize_str(text)
        if self._structure.spelling is Spelling.SENTENCEPIECE:
            text = text.replace(SPACE_MARK, " ")
        return text.encode()

    def _encode(self, text: str) -> Encoding:
        return self._backend.encode(text, add_special_tokens=False)

    def _broken(self, text: StandIn) -> list[Token]:
        """Tokens of text in which some bytes are no UTF-8."""
        if self._structure.spelling is Spelling.BYTE_LEVEL:
            return self._broken_byte_level(text)
        if self._spells_bytes:
            return self._broken_byte_fallback(text)
        whole = "".join(_REPLACEMENT if i in text.broken else c for i, c in enumerate(text.text))
        return _tokens(self._encode(whole), text.starts)

    def _broken_byte_level(self, text: StandIn) -> list[Token]:
        """Tokenise the pre-tokens that hold a stand-in again, from their bytes."""
        encoding = self._encode(text.text)
        tokens = _tokens(encoding, text.starts)
        offsets = encoding.offsets
        if not offsets:
            # The normaliser drops all stand-ins, such as those that are accents.
            return self._tokenise_bytes(b"".join(text.sources), 0)
        found: list[Token] = []
        for first, last in _words(encoding.word_ids, offsets):
            # What the normaliser dropped behind a word is part of it.
            start = offsets[first][0] if first else 0
            stop = offsets[last][0] if last < len(offsets) else len(text.sources)
            if text.broken.isdisjoint(range(start, stop)):
                found.extend(tokens[first:last])
            else:
                data = b"".join(text.sources[start:stop])
                found.extend(self._tokenise_bytes(data, text.starts[start]))
        return found

    def _tokenise_bytes(self, data: bytes, start: int) -> list[Token]:
        """Tokens of one pre-token of a byte-level tokenizer, which begins at byte `start`."""
        # Bytes that the model has no token for it would drop, and then count on without them.
        kept = [place for place, byte in enumerate(data) if byte not in self._dropped]
        characters = [self._alphabet[data[place]] for place in kept]
        # The model reports bytes of the alphabet's own UTF-8.
        sizes = list(accumulate((len(c.encode()) for c in characters), initial=0))
        first = dict(zip(sizes[:-1], kept, strict=True))
        last = {size: place + 1 for size, place in zip(sizes[1:], kept, strict=True)}
        return [
            (token.id, start + first[token.offsets[0]], start + last[token.offsets[1]])
            for token in self._backend.model.tokenize("".join(characters))
        ]

    def _broken_byte_fallback(self, text: StandIn) -> list[Token]:
        """Tokenise what lies between the broken pieces; those become byte tokens, which never merge."""
        found: list[Token] = []
        start = 0
        for place in [*sorted(text.broken), len(text.text)]:
            if place > start:
                found.extend(_tokens(self._encode(text.text[start:place]), text.starts[start:]))
            if place < len(text.text):
                for at, byte in enumerate(text.sources[place], text.starts[place]):
                    found.append((self._byte_ids[byte], at, at + 1))
            start = place + 1
        return found


def _tokens(encoding: Encoding, starts: Sequence[int]) -> list[Token]:
    return [
        (index, starts[start], starts[stop])
        for index, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True)
    ]


def _words(word_ids: Sequence[int | None], offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Token ranges of the pre-tokens; those made of a common character are one."""
    starts = [
        i
        for i, word in enumerate(word_ids)
        if i == 0 or (word != word_ids[i - 1] and offsets[i - 1][1] <= offsets[i][0])
    ]
    return list(zip(starts, [*starts[1:], len(word_ids)], strict=True))
