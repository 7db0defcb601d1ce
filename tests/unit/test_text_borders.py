"""Where a tokenizer begins anew at a space: read off its vocabulary, and tried."""

from __future__ import annotations

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

import toy
from dragoman.text import Tokenization
from dragoman.text.borders import divided_before_space
from dragoman.text.files import TokenizerFiles


def divided(side: Tokenization) -> bytes:
    found = divided_before_space(side)
    return bytes(byte for byte in range(256) if found[byte])


def with_pattern(pattern: str) -> Tokenization:
    """A BPE that joins a space and the x behind it, in words of some pattern."""
    symbols = ["a", "b", "x", "Ġ", "Ġx"]
    backend = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(symbols)}, merges=[("Ġ", "x")]))
    words = pre_tokenizers.Split(Regex(pattern), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    return Tokenization(TokenizerFiles(name="words", backend=backend, generation={}))


@pytest.mark.parametrize(
    ("merges", "expected"),
    [((), b"ab"), (("Ġ a", "a b"), b"ab"), (("a Ġ",), b"b"), (("a b", "Ġ a", "ab Ġa"), b"a")],
)
def test_no_token_holds_the_byte_and_a_space(merges: tuple[str, ...], expected: bytes) -> None:
    assert divided(toy.bpe("s", *merges, letters="abĠ")) == expected


def test_a_vocabulary_without_spaces_divides_nowhere() -> None:
    assert divided(toy.bpe("s", "a b")) == b""


def test_a_word_that_ends_behind_the_space_is_found_out() -> None:
    # A word begins at the space, and then |a| x| is |a|, | x|
    assert divided(with_pattern(" ?x+")) == b"abx"
    # "b " is a word, so |b| x| is |b|, | |, |x|
    assert divided(with_pattern("b ")) == b"ax"


def test_other_algorithms_are_not_relied_upon() -> None:
    vocab = [("<unk>", 0.0), ("a", -1.0), ("▁", -1.0), ("▁a", -1.5)]
    backend = Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    backend.decoder = decoders.Metaspace(prepend_scheme="never")
    assert divided(Tokenization(TokenizerFiles(name="u", backend=backend, generation={}))) == b""
