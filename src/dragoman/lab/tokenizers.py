"""Small tokenizers for enumerable worlds: real byte-level BPE, its merges learnt from weighted counts."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from jaxtyping import Float64
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from dragoman.text import Tokenization
from dragoman.text.files import TokenizerFiles

STOP = "<stop>"
_COUNTS = 20_000
"""Texts a law is turned into for the trainer, which counts whole texts."""


class Pieces(StrEnum):
    """What the merges may not cross."""

    WHOLE = "whole"
    """Nothing: merges run over the whole text."""
    WORDS = "words"
    """The pieces of GPT-2's pattern: a word with the blank before it, digits, signs, white space."""
    DIGITS = "digits"
    """Every digit is a token of its own."""
    TRIPLES = "triples"
    """Digits are merged, up to three from the left."""


def train_tokenizer(
    name: str, texts: Sequence[bytes], weights: Float64[np.ndarray, " N"], *, merges: int, pieces: Pieces
) -> Tokenization:
    """A BPE of at most `merges` merges over the bytes that occur, and a stop token.

    Texts are weighted by `weights` (any scale); every text counts at least once, so that every byte has a
    token. Texts must be valid UTF-8.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = _pre_tokenizer(pieces)
    backend.decoder = decoders.ByteLevel()
    counts = np.maximum(np.round(weights / weights.sum() * _COUNTS), 1).astype(int)
    lines = [text.decode() for text in texts]
    marks = {
        mark for line in lines for piece, _ in backend.pre_tokenizer.pre_tokenize_str(line) for mark in piece
    }
    trainer = trainers.BpeTrainer(
        vocab_size=len(marks) + 1 + merges,
        special_tokens=[AddedToken(STOP, special=True)],
        initial_alphabet=sorted(marks),
        show_progress=False,
    )
    repeated = (line for line, count in zip(lines, counts.tolist(), strict=True) for _ in range(count))
    backend.train_from_iterator(repeated, trainer)
    return Tokenization(TokenizerFiles(name=name, backend=backend, config={"eos_token": STOP}))


def num_merges(tokenization: Tokenization) -> int:
    """How many tokens a tokenizer of `train_tokenizer` has that merges made: texts and pieces may allow fewer
    than were asked for."""
    return sum(len(data) > 1 for data in tokenization.vocabulary_bytes())


def _pre_tokenizer(pieces: Pieces) -> pre_tokenizers.PreTokenizer:
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if pieces is Pieces.WORDS:
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pieces is Pieces.DIGITS:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_only])
    if pieces is Pieces.TRIPLES:
        split = pre_tokenizers.Split(Regex(r"\d{1,3}"), behavior="isolated")
        return pre_tokenizers.Sequence([split, bytes_only])
    return bytes_only
