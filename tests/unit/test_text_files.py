"""What a tokenizer's folder must hold, and which of its files say what ends a response."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

import tiny
from dragoman.errors import TokenizerError
from dragoman.text import Tokenization, files


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


def test_the_digest_is_that_of_what_was_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tiny.byte_level(tmp_path) / "tokenizer.json"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()

    class Replaced:
        @staticmethod
        def from_buffer(buffer: bytes) -> Tokenizer:
            file.write_text("written by another process")
            return Tokenizer.from_buffer(buffer)

    monkeypatch.setattr(files, "Tokenizer", Replaced)
    assert files.read_tokenizer_files(str(tmp_path)).digest == digest


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
