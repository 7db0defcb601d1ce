"""A judge for `Tokenization.place`, and what the normalisers of tokenizers do by Python's own tables."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

from dragoman.text import Placed
from dragoman.types import Event, PairKind, TokenText

Normal = Callable[[str], str]


def check_placed(data: bytes, placed: Placed, normal: Normal) -> None:
    """Assert that every row tells the truth: the bytes of both sides are the same, or what `normal` makes
    of the source, white space aside; and so is, of readable text, all that stands before its end.
    """
    text, pairs = placed.text, placed.correspondence
    if pairs is None:
        assert text.data == data
        return
    symbols = symbols_of(text)
    readable = None not in symbols and "\ufffd" not in data.decode(errors="replace")
    for (a, b, c, d), kind in zip(pairs.spans.tolist(), pairs.kind.tolist(), strict=True):
        assert 0 <= a < b <= len(data) and 0 <= c < d <= len(symbols)
        spelled = b"".join(symbol for symbol in symbols[c:d] if symbol is not None)
        assert len(spelled) == d - c, f"an event is paired with {data[a:b]!r}"
        if kind == PairKind.EXACT:
            assert spelled == data[a:b]
        else:
            assert kind == PairKind.NORMALISED
            assert solid(spelled.decode()) == solid(normal(data[a:b].decode(errors="replace")))
        if readable:
            before = b"".join(symbol for symbol in symbols[:d] if symbol is not None)
            assert solid(before.decode(errors="ignore")) == solid(normal(data[:b].decode(errors="ignore")))


def symbols_of(text: TokenText) -> list[bytes | None]:
    """The bytes of a text one by one; None for an event."""
    found: list[bytes | None] = []
    for i in range(len(text)):
        found += [bytes([byte]) for byte in text.token_bytes(i)]
        found += [None] if text.event[i] != Event.NONE else []
    return found


def solid(text: str) -> str:
    """Without white space."""
    return "".join(text.split())


def lower(text: str) -> str:
    """Character by character: a tokenizer knows no final sigma."""
    return "".join(character.lower() for character in text)


def nfc(text: str) -> str:
    """Composed."""
    return unicodedata.normalize("NFC", text)


def nfkc(text: str) -> str:
    """Composed, compatibility forms folded."""
    return unicodedata.normalize("NFKC", text)


def without_accents(text: str) -> str:
    """Decomposed, all marks dropped."""
    return "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c)[0] != "M")


def bert(text: str) -> str:
    """BERT's: control characters and non-spacing marks dropped, lower case."""
    clean = (c for c in text if c in "\t\n\r" or unicodedata.category(c)[0] != "C")
    bare = (c for c in unicodedata.normalize("NFD", "".join(clean)) if unicodedata.category(c) != "Mn")
    return lower("".join(c for c in bare if c != "\ufffd"))


def nmt(text: str) -> str:
    """SentencePiece's `nmt_nfkc`, in which controls vanish and what separates becomes white space.

    The wave dash's full-width form is kept.
    """
    dropped = [*range(1, 9), 0x0B, *range(0x0E, 0x20), 0x7F, 0x8F, 0x9F]
    blank = [9, 10, 12, 13, 0x1680, *range(0x200B, 0x2010), 0x2028, 0x2029, 0x2581, 0xFEFF, 0xFFFD]
    table = dict.fromkeys(dropped, "") | dict.fromkeys(blank, " ")
    return "\uff5e".join(nfkc(part).translate(table) for part in text.split("\uff5e"))
