"""What is known of each tokenizer: how its tokens spell bytes, and what it does to text before.

Written by hand from the published `tokenizer.json` files; imports nothing of dragoman.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from normalise import Normaliser

MARK = "\u2581"
"""What SentencePiece writes for a space."""


AS_IS = Normaliser()
MARK_IS_SPACE = Normaliser(after={MARK: " "})
"""SentencePiece cannot tell its own mark from a space."""
_DROPPED = [*range(0x01, 0x09), 0x0B, *range(0x0E, 0x20), 0x7F, 0x8F, 0x9F]
_SPACES = [0x09, 0x0A, 0x0C, 0x0D, 0x1680, *range(0x200B, 0x2010), 0x2028, 0x2029, 0x2581, 0xFEFF, 0xFFFD]
NMT_NFKC = Normaliser(
    form="NFKC",
    before={"\uff5e": "\ufdd0"},
    after=dict.fromkeys(map(chr, _DROPPED)) | dict.fromkeys(map(chr, _SPACES), " ") | {"\ufdd0": "\uff5e"},
)
"""SentencePiece's `nmt_nfkc`: but for the full-width tilde; control characters dropped, odd blanks spaces."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a tokenizer: how its tokens spell, and what it does to text before."""

    spelling: str
    normaliser: Normaliser = AS_IS
    family: str = "byte-level"


BYTE_LEVEL = Facts(spelling="byte-level")
GEMMA = Facts(spelling="sentencepiece", normaliser=MARK_IS_SPACE, family="gemma")
TOKENIZERS: dict[str, Facts] = {
    "llama3.1": BYTE_LEVEL,
    "deepseek-v3": BYTE_LEVEL,
    "gpt-oss": BYTE_LEVEL,
    "gpt-4o": BYTE_LEVEL,
    "smollm2-135m-instruct": BYTE_LEVEL,
    "llama2": Facts(spelling="sentencepiece", normaliser=MARK_IS_SPACE, family="llama2"),
    "gemma3": GEMMA,
    "gemini": GEMMA,
    "gemma-3-270m": GEMMA,
    "qwen3": Facts(spelling="byte-level", normaliser=Normaliser(form="NFC"), family="nfc"),
    "claude": Facts(spelling="byte-level", normaliser=Normaliser(form="NFKC"), family="nfkc"),
    "j2": Facts(spelling="sentencepiece", normaliser=NMT_NFKC, family="nfkc"),
    "minilm": Facts(spelling="wordpiece", family="wordpiece"),
}


class Speller:
    """What the tokens of a `tokenizer.json` spell."""

    def __init__(self, folder: Path, facts: Facts) -> None:
        state = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        vocabulary = state["model"]["vocab"]
        if isinstance(vocabulary, list):  # Unigram: pairs of piece and score
            vocabulary = {piece: index for index, (piece, _) in enumerate(vocabulary)}
        self.facts = facts
        self.piece = {index: piece for piece, index in vocabulary.items()}
        added = {token["id"]: token for token in state["added_tokens"]}
        self.piece |= {index: token["content"] for index, token in added.items()}
        self.special = {index for index, token in added.items() if token["special"]}
        self._added = set(added)

    @cached_property
    def text_tokens(self) -> dict[bytes, list[int]]:
        """Every spelling in the vocabulary and the ids that have it, control tokens left out."""
        found: dict[bytes, list[int]] = {}
        for index in sorted(self.piece):
            if index not in self.special and (spelled := self.spell(index)):
                found.setdefault(spelled, []).append(index)
        return found

    def spell(self, index: int) -> bytes:
        """The bytes of a token; a control token spells its name."""
        piece = self.piece[index]
        if self.facts.spelling == "sentencepiece":
            if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
                return bytes.fromhex(piece[3:5])
            return piece.replace(MARK, " ").encode()
        if self.facts.spelling == "byte-level" and index not in self._added:
            return bytes(BYTE_OF[character] for character in piece)
        return piece.encode()

    def known(self, broken: bytes) -> bytes:
        """Broken UTF-8 without the bytes that the vocabulary has no token for."""
        return bytes(byte for byte in broken if bytes([byte]) in self.text_tokens)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: visible Latin-1 characters are their own byte, the rest follow from U+0100."""
    alphabet = {}
    for byte in range(256):
        visible = 33 <= byte <= 126 or (161 <= byte <= 255 and byte != 173)
        alphabet[chr(byte) if visible else chr(256 + sum(v >= 256 for v in map(ord, alphabet)))] = byte
    return alphabet


BYTE_OF = _byte_alphabet()
