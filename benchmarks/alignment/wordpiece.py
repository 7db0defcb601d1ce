"""Where the pieces of an uncased BERT tokenizer come from, from its published rules.

Control characters go, white space separates, Chinese characters and punctuation stand alone, the rest is
decomposed, loses its marks (category Mn) and is lower-cased. A word is spelled by its pieces in order or, if
the vocabulary cannot spell it, is one `[UNK]`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

_HAN = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)

Word = list[tuple[str, int]]
"""Characters of a word and, for each, the place of the character it comes from."""


def bert_pieces(pieces: Sequence[str], text: str) -> list[tuple[int, int]]:
    """First and last character (exclusive) of the text for each piece.

    A control token such as `[CLS]` may stand where the text spells its name. Raises ValueError if pieces and
    text part.
    """
    words = _words(text)
    spans: list[tuple[int, int]] = []
    rest: Word = []
    for piece in pieces:
        goes_on = piece.startswith("##") and len(piece) > 2
        if bool(rest) != goes_on:
            raise ValueError(f"a word goes on with {_spelled(rest)!r}, got {piece!r}")
        body = piece[2:] if goes_on else piece
        if not goes_on and piece.startswith("[") and (name := _named(piece, words)):
            taken, rest, words = name, [], words[3:]
        else:
            if not goes_on:
                rest, words = (words[0], words[1:]) if words else ([], [])
            size = len(rest) if piece == "[UNK]" else len(body)
            taken, rest = rest[:size], rest[size:]
            if not taken or (piece != "[UNK]" and _spelled(taken) != body):
                raise ValueError(f"expected {_spelled(taken)!r}, got {piece!r}")
        spans.append((taken[0][1], taken[-1][1] + 1))
    if rest or words:
        raise ValueError("the pieces end before the text")
    return spans


def _named(piece: str, words: list[Word]) -> Word | None:
    """The three words `[`, name, `]` that spell a control token, if they come next."""
    found = [character for word in words[:3] for character in word]
    return found if len(piece) > 1 and _spelled(found) == piece.lower() else None


def _spelled(word: Word) -> str:
    return "".join(character for character, _ in word)


def _words(text: str) -> list[Word]:
    words: list[Word] = [[]]
    for place, original in enumerate(text):
        for character in _cleaned(original):
            if character.isspace():
                words.append([])
            elif _alone(character):
                words += [[(character, place)], []]
            else:
                words[-1].append((character, place))
    return [word for word in words if word]


def _cleaned(character: str) -> str:
    """What the normaliser makes of one character."""
    if character in "\t\n\r":
        return " "
    if character == "\ufffd" or unicodedata.category(character) in ("Cc", "Cf", "Co"):
        return ""
    if character.isspace():
        return " "
    if _is_han(character):
        return f" {character} "
    parts = unicodedata.normalize("NFD", character)
    return "".join(c for c in parts if unicodedata.category(c) != "Mn").lower()


def _alone(character: str) -> bool:
    ascii_symbol = character.isascii() and character.isprintable() and not character.isalnum()
    return ascii_symbol or unicodedata.category(character).startswith("P")


def _is_han(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in _HAN)
