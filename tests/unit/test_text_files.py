"""What a tokenizer's folder must hold, and which of its files say what ends a response."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tiny
from dragoman.errors import TokenizerError
from dragoman.text import Tokenization


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="no folder"):
        Tokenization.from_pretrained(str(tmp_path / "absent"))


def test_no_tokenizer_json(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json.*Convert it once"):
        Tokenization.from_pretrained(str(tmp_path))


def test_broken_tokenizer_json(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"not a readable tokenizer\.json"):
        Tokenization.from_pretrained(str(tmp_path))


@pytest.mark.parametrize(("content", "message"), [("{", "not valid JSON"), ("[]", "JSON object, got list")])
def test_broken_configuration(tmp_path: Path, content: str, message: str) -> None:
    (tiny.byte_level(tmp_path) / "tokenizer_config.json").write_text(content)
    with pytest.raises(TokenizerError, match=message):
        Tokenization.from_pretrained(str(tmp_path))


def test_config_is_asked_only_without_a_generation_config(tmp_path: Path) -> None:
    folder = tiny.byte_level(tmp_path, eos=None)
    (folder / "config.json").write_text(json.dumps({"eos_token_id": 1}))
    assert Tokenization.from_pretrained(str(folder)).stop_ids == {1}
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 2]}))
    assert Tokenization.from_pretrained(str(folder)).stop_ids == {0, 2}
