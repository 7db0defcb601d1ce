"""`dragoman lab`: tables, JSON and page; what cannot be meant is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FAST = ("--quick", "--updates", 8, "--samples", 8, "--seeds", 2, "--size", 20)


def test_everything_by_one_command(call: Callable[..., Any], tmp_path: Path) -> None:
    done = call(
        *("lab", "--world", "lexicon", "--seed", 1, "--teacher-merges", 50, "--student-merges", 20),
        *("--methods", "dpca,chunk[guard=off],bpm", *FAST),
        *("--json", tmp_path / "lab.json", "--page", tmp_path / "lab.html"),
    )
    assert done.code == 0
    assert "lexicon-50-20-s1" in done.out and "chunk[guard=off]" in done.out
    assert "Text KL after 8 updates" in done.out and "Rows against q*" in done.out
    tree = json.loads((tmp_path / "lab.json").read_text(encoding="utf-8"))
    assert tree["world"]["name"] == "lexicon-50-20-s1" and tree["world"]["size"] == 20
    assert set(tree["methods"]) == {"dpca", "chunk[guard=off]", "bpm"}
    assert len(tree["methods"]["dpca"]["by_seed"]) == 2
    assert "<!doctype html>" in (tmp_path / "lab.html").read_text(encoding="utf-8")


def test_json_on_stdout_is_all_there_is_and_repeatable(call: Callable[..., Any]) -> None:
    arguments = ("lab", "--world", "markov", "--methods", "span", *FAST, "--rates", "0.02", "--json", "-")
    first, again = (json.loads(call(*arguments).out) for _ in range(2))
    for tree in (first, again):
        for method in tree["methods"].values():
            method.pop("seconds"), method.pop("seconds_a_run")
    assert first == again
    assert first["methods"]["span"]["lr"] == 0.02


def test_all_worlds_in_one_file(call: Callable[..., Any]) -> None:
    done = call("lab", "--all-worlds", "--methods", "gkd,span", *FAST, "--rates", "0.03", "--json", "-")
    assert done.code == 0
    worlds = json.loads(done.out)["worlds"]
    kinds = {world["world"]["kind"] for world in worlds}
    assert kinds == {"lexicon", "context", "markov", "arithmetic", "indentation", "multibyte", "same"}
    assert {world["world"]["name"] for world in worlds if "gkd" in world["methods"]} >= {"same-150-150-s0"}
    assert "without gkd" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--world", "novel"), "expected one of lexicon"),
        (("--methods", "chunky"), "did you mean 'chunk'"),
        (("--methods", "chunk,chunk"), "twice"),
        (("--methods", "gkd"), "same token ids"),
        (("--rates", "fast"), "numbers with commas"),
        (("--rates", "0,0.1"), "above 0"),
        (("--all-worlds", "--teacher-merges", "5"), "merges of its own"),
        (("--world", "same", "--teacher-merges", "5", "--student-merges", "6"), "one tokenizer"),
        (("--updates", "0"), "0"),
    ],
)
def test_what_cannot_be_meant(call: Callable[..., Any], arguments: tuple[str, ...], message: str) -> None:
    done = call("lab", *FAST, *arguments)
    assert done.code == 2
    assert message in done.err.replace("\n", " ")
    assert "Traceback" not in done.err and done.out == ""
