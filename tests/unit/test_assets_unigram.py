"""A SentencePiece Unigram model trained on the spot must give the same ids as its `tokenizer.json`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.assets.unigram import convert_sentencepiece
from dragoman.errors import AssetError

sentencepiece = pytest.importorskip("sentencepiece")

LINES = [
    "the quick brown fox jumps over the lazy dog",
    "the dog, the fox (and the other dog) sleep",
    "résumé naïve café – déjà vu",
    "def f(x):  return x + 1",
    "가나다 라마바 한국어",
    "<0123456789ABCDEF> ～",
] * 20


def train(folder: Path, **changes: Any) -> Path:
    options = {
        "model_type": "unigram",
        "vocab_size": 400,
        "hard_vocab_limit": False,
        "byte_fallback": True,
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "normalization_rule_name": "nmt_nfkc",
        "control_symbols": ["<|newline|>"],
        "user_defined_symbols": [",", "(", ")"],
        "minloglevel": 2,
    } | changes
    prefix = folder / "toy"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_prefix=str(prefix), **options
    )
    return prefix.with_suffix(".model")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """SentencePiece's own processor and the converted tokenizer."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("unigram")
    model = train(folder)
    convert_sentencepiece(model, folder)
    return sentencepiece.SentencePieceProcessor(model_file=str(model)), AutoTokenizer.from_pretrained(
        str(folder)
    )


@pytest.mark.parametrize(
    "text",
    [
        "the fox",
        "  the   fox, (dog)",
        "re\u0301sume\u0301",  # composed by NFKC
        "\u1112\u1161\u11ab",  # three Hangul letters, one syllable, nine bytes
        "ﬁve ½ ｆｏｘ，（dog）～",  # compatibility forms, among them of user-defined pieces
        "x\u0331\u0304y",  # marks that compose with nothing must stay
        "line\r\nbreak\ttab\u200bzero",
        "<0x41> 😀 漢",  # the spelling of a byte piece is text; unknown characters become bytes
        "",
    ],
)
def test_ids_equal_sentencepiece(pair: tuple[Any, Any], text: str) -> None:
    processor, tokenizer = pair
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == processor.encode(text)


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="thefoxdg ,()é0<>x한ﬁ😀\t", max_size=30))
def test_ids_equal_sentencepiece_on_random_text(pair: tuple[Any, Any], text: str) -> None:
    processor, tokenizer = pair
    got = tokenizer(text, add_special_tokens=False)["input_ids"]
    expected = processor.encode(text)
    if got != expected:
        # Two segmentations of equal score are the one freedom left.
        score = [sum(map(processor.get_score, ids)) for ids in (got, expected)]
        assert score[0] == pytest.approx(score[1], abs=1e-4)


def test_special_pieces_keep_their_roles(pair: tuple[Any, Any]) -> None:
    processor, tokenizer = pair
    newline = processor.piece_to_id("<|newline|>")
    assert tokenizer("<|newline|>")["input_ids"] == [newline]
    assert newline in tokenizer.all_special_ids or tokenizer.added_tokens_decoder[newline].special
    assert not tokenizer.added_tokens_decoder[processor.piece_to_id(",")].special
    assert tokenizer.decode(tokenizer("a 😀, é")["input_ids"]) == "a 😀, é"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "bpe"}, "model_type"),
        ({"normalization_rule_name": "nmt_nfkc_cf"}, "normalizer = 'nmt_nfkc_cf', only 'nmt_nfkc'"),
        ({"add_dummy_prefix": True}, "add_dummy_prefix = True, only False"),
        ({"byte_fallback": False}, "byte_fallback = False, only True"),
        ({"user_defined_symbols": ["<"]}, "no piece for the characters '<'"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    model = train(tmp_path, **changes)
    with pytest.raises(AssetError, match=said):
        convert_sentencepiece(model, tmp_path)


def test_a_missing_sentencepiece_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(AssetError, match="pip install sentencepiece protobuf"):
        convert_sentencepiece(tmp_path / "toy.model", tmp_path)
