"""Places at which a tokenizer always divides a text, and each side as if it stood alone.

No token lies across a place whose two bytes no token holds side by side. What BPE joins on one side of it
then does not depend on the other, provided that the text is cut into words (pre-tokens) no differently: a
space begins one for all patterns in use. That is tried, for each byte that may stand before the space.
"""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
from jaxtyping import Bool

from dragoman.text.strings import ByteStrings
from dragoman.text.tokenization import Tokenization

_SPACE = 0x20
_INK = range(0x21, 0x7F)
_BEFORE = (b"", b"x", b".", b" ")
"""What the last byte before the space is tried with."""
_BEHIND = (b" x", b"  x", b" X'd", b" 's", b" 12", b" .x", " é".encode())
"""What begins with the space."""


def divided_before_space(tokenization: Tokenization) -> Bool[np.ndarray, " 256"]:
    """Bytes behind which a space, if any ink follows it, always begins a text of its own to the tokenizer.

    Visible ASCII alone, and of BPE alone: another algorithm may weigh the division of a whole text.

    >>> divided = divided_before_space(Tokenization.from_pretrained("assets:gpt-oss"))
    >>> bool(divided[ord("e")]), bool(divided[ord(" ")])
    (True, False)
    """
    divided = np.zeros(256, bool)
    if tokenization.structure.algorithm != "BPE":
        return divided
    strings = tokenization.strings
    known = np.isin(np.arange(256), strings.data)
    if known[_SPACE]:
        divided[_INK] = known[_INK] & ~_followed_by(strings, _SPACE)[_INK]
    return divided & _tried(tokenization, divided)


def _followed_by(strings: ByteStrings, symbol: int) -> Bool[np.ndarray, " 256"]:
    """Bytes that some string has right before a given one."""
    starts_one = np.zeros(len(strings.data) + 1, bool)
    starts_one[strings.bounds] = True
    places = np.flatnonzero((strings.data == symbol) & ~starts_one[:-1])
    return np.isin(np.arange(256), strings.data[places - 1])


def _tried(tokenization: Tokenization, asked: Bool[np.ndarray, " 256"]) -> Bool[np.ndarray, " 256"]:
    """Bytes of which all texts tried are, in tokens, what their two sides are."""
    lasts = [bytes([byte]) for byte in np.flatnonzero(asked).tolist()]
    sides = [(before + last, behind) for last, before, behind in product(lasts, _BEFORE, _BEHIND)]
    whole = _tokens(tokenization, [before + behind for before, behind in sides])
    alone = dict.fromkeys(side for pair in sides for side in pair)
    tokens = dict(zip(alone, _tokens(tokenization, list(alone)), strict=True))
    found = np.ones(256, bool)
    for (before, behind), own in zip(sides, whole, strict=True):
        found[before[-1]] &= own == tokens[before] + tokens[behind]
    return found


def _tokens(tokenization: Tokenization, data: list[bytes]) -> list[list[int]]:
    bounds, ids = tokenization.encode_many(data)
    return [ids[start:stop].tolist() for start, stop in pairwise(bounds.tolist())]
