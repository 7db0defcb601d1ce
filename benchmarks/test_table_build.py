"""The benchmark of tables on small tokenizers: cold and warm, a cut vocabulary, a plot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import table_build
from test_align_speed import byte_level
from tokenizers import Tokenizer

PARTS = {"loading", "bytes", "words", "counterparts", "spellings", "trie", "projection", "others"}


def test_a_pair_and_its_growth(tmp_path: Path) -> None:
    byte_level(tmp_path / "student", [("t", "h"), ("th", "e")])
    byte_level(tmp_path / "teacher", [("h", "e"), ("e", "r")])
    file, plot = tmp_path / "found.json", tmp_path / "growth.svg"
    pair = f"{tmp_path / 'student'},{tmp_path / 'teacher'}"
    asked = ["--pairs", pair, "--largest", "1024", "--repeats", "1", "--json", str(file), "--plot", str(plot)]
    assert table_build.main(asked) == 0
    found = json.loads(file.read_text())
    # 256 bytes and two merges
    assert found["pairs"][pair]["ids"] == [258, 258]
    for row in (found["pairs"][pair], found["growth"]["sizes"]["1024"]):
        for state in table_build.STATES:
            seconds = row["median_seconds"][state]
            assert seconds.keys() == PARTS | {"all"}
            assert seconds["all"] == pytest.approx(sum(seconds[part] for part in PARTS - {"loading"}))
    assert plot.read_text().startswith("<?xml")


def test_a_cut_vocabulary_keeps_its_first_ids(tmp_path: Path) -> None:
    source = byte_level(tmp_path / "all", [("t", "h"), ("th", "e"), ("h", "e"), ("e", "r")])
    folder = table_build.shortened(tmp_path / "all", 258, tmp_path / "cut")
    cut = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert cut.get_vocab() == {token: index for token, index in source.get_vocab().items() if index < 258}
    assert cut.encode("there").tokens == ["the", "r", "e"]
