"""The benchmark of tables on small tokenizers: cold and warm, a cut vocabulary, a plot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import table_build
from test_align_speed import byte_level
from tokenizers import Tokenizer

from dragoman.text.stored import LEAST_BYTES

PARTS = {"loading", "bytes", "words", "counterparts", "spellings", "trie", "projection", "others"}


LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN"


def test_a_pair_and_its_growth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    # so many that their tables are worth a file
    for name, letters in (("student", LETTERS), ("teacher", LETTERS[::-1])):
        byte_level(tmp_path / name, [(a, b) for a in letters for b in letters])
    file, plot = tmp_path / "found.json", tmp_path / "growth.svg"
    pair = f"{tmp_path / 'student'},{tmp_path / 'teacher'}"
    asked = ["--pairs", pair, "--largest", "1024", "--repeats", "1", "--json", str(file), "--plot", str(plot)]
    assert table_build.main(asked) == 0
    found = json.loads(file.read_text())
    # 256 bytes and 40 x 40 merges
    assert found["pairs"][pair]["ids"] == [1856, 1856]
    assert found["threads"]["RAYON_NUM_THREADS"] == "1"
    for row in (found["pairs"][pair], found["growth"]["sizes"]["1024"]):
        assert row["bytes_on_disk"] > LEAST_BYTES
        for state in table_build.STATES:
            seconds = row["median_seconds"][state]
            assert seconds.keys() == PARTS | {"all"}
            assert seconds["all"] == pytest.approx(sum(seconds[part] for part in PARTS - {"loading"}))
    assert plot.read_text().startswith("<?xml")


def test_a_warm_process_that_makes_a_table_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(student: Path, teacher: Path, home: Path) -> dict[str, object]:
        (home / f"{len([*home.iterdir()])}.npy").touch()
        return {"ids": [1, 1], "seconds": {"loading": 0.0}, "cpu_seconds": {"loading": 0.0}}

    monkeypatch.setattr(table_build, "asked", asked)
    with pytest.raises(RuntimeError, match=r"warm process made \['1.npy'\]"):
        table_build.measured("pair", tmp_path, tmp_path, 1)


def test_a_cut_vocabulary_keeps_its_first_ids(tmp_path: Path) -> None:
    source = byte_level(tmp_path / "all", [("t", "h"), ("th", "e"), ("h", "e"), ("e", "r")])
    folder = table_build.shortened(tmp_path / "all", 258, tmp_path / "cut")
    cut = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert cut.get_vocab() == {token: index for token, index in source.get_vocab().items() if index < 258}
    assert cut.encode("there").tokens == ["the", "r", "e"]
