"""The table from files made up by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import lab_tables as tables

SETTINGS = {"updates": 240, "samples": 128, "seeds": 10, "rates": [0.01, 0.03]}


def method(text_kl: float, half: float | None, noncanonical: float, total_variation: float | None) -> Any:
    return {
        "text_kl": text_kl,
        "text_kl_ci": None if half is None else [text_kl - half, text_kl + half],
        "noncanonical": noncanonical,
        "total_variation": total_variation,
        "row_rate": None if total_variation is None else 0.5,
    }


def world(kind: str, methods: dict[str, Any], seed: int = 0, **settings: Any) -> dict[str, Any]:
    merges = {"teacher_merges": 60, "student_merges": 20}
    return {
        "world": {"name": f"{kind}-60-20-s{seed}", "kind": kind, "seed": seed, **merges},
        "settings": {**SETTINGS, **settings},
        "facts": {"text_kl": 0.42},
        "methods": methods,
    }


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """All worlds in the first file, one more method of one of them in the second."""
    several = [
        world("markov", {"dpca": method(0.17061, 0.00104, 0.017, None), "bpm": method(0.2, None, 0, 0.0884)}),
        world("lexicon", {"dpca": method(0.00001, 0.00001, 0.002, None)}),
    ]
    more = world("markov", {"span": method(0.0046, 0.0004, 0.013, None)}, quick=True)
    found = [tmp_path / "all.json", tmp_path / "more.json"]
    found[0].write_text(json.dumps({"worlds": several}))
    found[1].write_text(json.dumps(more))
    return [str(file) for file in found]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert tables.main(arguments) == 0
    return capsys.readouterr().out.splitlines()


def test_text_kl(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, *files) == [
        "| world | start | `dpca` | `bpm` | `span` |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| markov 60/20 | 0.420 | 0.1706 [0.1696, 0.1717] (1.7 %) | 0.2000 (0.0 %) | "
        "**0.0046 [0.0042, 0.0050] (1.3 %)** |",
        "| lexicon 60/20 | 0.420 | **<0.0001 [0.0000, <0.0001] (0.2 %)** | – | – |",
        "",
        "Text KL at the end, nats a text. In brackets: share of non-canonical text. "
        "240 updates of 128 texts, 10 seeds.",
    ]
    assert printed(capsys, *files, "--methods", "span,dpca")[0] == "| world | start | `span` | `dpca` |"


def test_total_variation_of_methods_that_have_rows(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(capsys, *files, "--figure", "total_variation")
    assert lines[0] == "| world | `bpm` |"
    assert lines[2:4] == ["| markov 60/20 | **0.088 (50.0 %)** |", "| lexicon 60/20 | – |"]


def test_worlds_of_several_seeds_have_their_whole_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "seeds.json"
    of_seeds = [world("markov", {"span": method(0.1, None, 0, None)}, seed) for seed in (0, 7)]
    file.write_text(json.dumps({"worlds": of_seeds}))
    lines = printed(capsys, str(file))
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| markov-60-20-s0", "| markov-60-20-s7"]


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        ("{", (), "cannot be read"),
        ("[]", (), "holds no worlds"),
        ('{"worlds": [{}]}', (), "holds no worlds"),
        (json.dumps(world("same", {}, updates=1)), (), "do not compare"),
        (json.dumps(world("markov", {"dpca": method(0.1, None, 0, None)})), (), "has dpca of"),
        (json.dumps(world("same", {})), ("--methods", "chunk"), "there are dpca, bpm, span"),
    ],
)
def test_files_that_make_no_table(
    files: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str,
    more: tuple[str, ...],
    message: str,
) -> None:
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        tables.main([*files, str(tmp_path / "other.json"), *more])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
