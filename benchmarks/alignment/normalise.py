"""Unicode normalisation that remembers which characters every character was made of.

The algorithm is that of the Unicode Standard (annex 15): decompose, sort runs of marks by combining class
without changing the order of equals, compose a starter with a following character that nothing blocks. Only
the tables of `unicodedata` are used, and the text that comes out must be the one that `unicodedata` makes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Made = tuple[str, int, int]
"""A character made, and the first and last (exclusive) character of the text that it comes from."""


class TruthError(Exception):
    """The ground truth's sources of knowledge disagree: nothing is judged on a guess."""


@dataclass(frozen=True, kw_only=True)
class Normaliser:
    """Replacements, a normal form, replacements; to None means dropped."""

    form: Literal["NFC", "NFKC"] | None = None
    before: Mapping[str, str] = field(default_factory=dict)
    after: Mapping[str, str | None] = field(default_factory=dict)

    def __call__(self, text: str) -> str:
        """The text without its history."""
        text = text.translate(str.maketrans(dict(self.before)))
        text = unicodedata.normalize(self.form, text) if self.form else text
        return text.translate(str.maketrans(dict(self.after)))

    def trace(self, text: str) -> list[Made]:
        """The characters made, with their sources. Raises TruthError if `unicodedata` makes others."""
        made = [(self.before.get(character, character), i, i + 1) for i, character in enumerate(text)]
        if self.form:
            made = _composed(_decomposed(made, "NFD" if self.form == "NFC" else "NFKD"))
        traced = []
        for character, first, last in made:
            replaced = self.after.get(character, character)
            if replaced is not None:
                traced.append((replaced, first, last))
        if "".join(character for character, _, _ in traced) != self(text):
            raise TruthError(f"{self.form} of {text[:40]!r} cannot be traced")
        return traced


def _decomposed(made: list[Made], form: Literal["NFD", "NFKD"]) -> list[Made]:
    parts = [
        (part, first, last)
        for character, first, last in made
        for part in unicodedata.normalize(form, character)
    ]
    ordered: list[Made] = []
    start = 0
    for i, (character, _, _) in enumerate([*parts, ("x", 0, 0)]):
        if not unicodedata.combining(character):
            ordered += sorted(parts[start:i], key=lambda part: unicodedata.combining(part[0]))
            ordered += parts[i : i + 1]
            start = i + 1
    return ordered


def _composed(parts: list[Made]) -> list[Made]:
    made: list[Made] = []
    starter: int | None = None
    for character, first, last in parts:
        mark = unicodedata.combining(character)
        if starter is not None:
            before = unicodedata.combining(made[-1][0]) if len(made) - 1 > starter else None
            blocked = before is not None and not before < mark
            both = unicodedata.normalize("NFC", made[starter][0] + character)
            if not blocked and len(both) == 1:
                made[starter] = (both, min(made[starter][1], first), max(made[starter][2], last))
                continue
        if not mark:
            starter = len(made)
        made.append((character, first, last))
    return made
