"""From bytes to the ids a tokenizer itself would produce, for any bytes, valid UTF-8 or not.

A tokenizer takes characters, a language model writes bytes. Where the bytes are no UTF-8 (a response
cut inside a character, a stray byte), each broken piece is given to the tokenizer as one stand-in
character, and the pieces of text that hold a stand-in are tokenised again from their true bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Encoding, Tokenizer

from dragoman.text.spelling import Spelling, Structure, byte_alphabet

_REPLACEMENT = "\ufffd"


@dataclass(frozen=True, kw_only=True)
class StandIn:
    """Text in which each broken piece of the data is one character."""

    text: str
    sources: list[bytes]
    """The bytes behind every character."""
    broken: frozenset[int]
    """Which characters are stand-ins."""


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
        self._spells_bytes = structure.byte_fallback and len(self._byte_ids) == len(ids)

    def ids(self, data: bytes) -> list[int]:
        """The canonical ids of `data`."""
        try:
            return self._encode(data.decode("utf-8")).ids
        except UnicodeDecodeError:
            pass
        if self._structure.spelling is Spelling.BYTE_LEVEL:
            return self._ids_byte_level(stand_in(data))
        if self._spells_bytes:
            return self._ids_byte_fallback(stand_in(data))
        return self._encode(data.decode("utf-8", errors="replace")).ids

    def _encode(self, text: str) -> Encoding:
        return self._backend.encode(text, add_special_tokens=False)

    def _ids_byte_level(self, text: StandIn) -> list[int]:
        """Tokenise the pre-tokens that hold a stand-in again, from their bytes."""
        encoding = self._encode(text.text)
        ids: list[int] = []
        for first, last in _words(encoding.word_ids):
            start, stop = encoding.offsets[first][0], encoding.offsets[last - 1][1]
            if text.broken.isdisjoint(range(start, stop)):
                ids.extend(encoding.ids[first:last])
            else:
                data = b"".join(text.sources[start:stop])
                piece = "".join(self._alphabet[byte] for byte in data)
                ids.extend(token.id for token in self._backend.model.tokenize(piece))
        return ids

    def _ids_byte_fallback(self, text: StandIn) -> list[int]:
        """Tokenise what lies between the broken pieces; those become byte tokens, which never merge."""
        ids: list[int] = []
        start = 0
        for place in [*sorted(text.broken), len(text.text)]:
            if place > start:
                ids.extend(self._encode(text.text[start:place]).ids)
            if place < len(text.text):
                ids.extend(self._byte_ids[byte] for byte in text.sources[place])
            start = place + 1
        return ids


def _words(word_ids: Sequence[int | None]) -> list[tuple[int, int]]:
    """Token ranges of the pre-tokens."""
    starts = [i for i, word in enumerate(word_ids) if i == 0 or word != word_ids[i - 1]]
    return list(zip(starts, [*starts[1:], len(word_ids)], strict=True))
