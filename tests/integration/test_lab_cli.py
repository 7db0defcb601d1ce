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
    assert "lexicon-50-20-s1-n20" in done.out and "chunk[guard=off]" in done.out
    assert "Text KL after 8 updates" in done.out and "Rows against q*" in done.out
    tree = json.loads((tmp_path / "lab.json").read_text(encoding="utf-8"))
    assert tree["world"]["name"] == "lexicon-50-20-s1-n20" and tree["world"]["size"] == 20
    assert tree["settings"]["quick"]
    assert set(tree["methods"]) == {"dpca", "chunk[guard=off]", "bpm"}
    assert len(tree["methods"]["dpca"]["by_seed"]) == 2
    assert "<!doctype html>" in (tmp_path / "lab.html").read_text(encoding="utf-8")
    # stderr is no terminal here, and has a line for each method
    assert done.err.splitlines() == [
        f"lexicon-50-20-s1-n20: {label}" for label in ("dpca", "chunk[guard=off]", "bpm")
    ]


def test_json_to_a_file_has_its_page_beside_it(call: Callable[..., Any], tmp_path: Path) -> None:
    short = ("lab", "--methods", "chunk", *FAST, "--rates", "0.03")
    call(*short, "--json", tmp_path / "one.json")
    assert "Text KL" in (tmp_path / "one.html").read_text(encoding="utf-8")
    call(*short, "--json", tmp_path / "two.json", "--page", tmp_path / "other.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("one.html", "one.json", "other.html", "two.json")
    ]
    same = call(*short, "--json", tmp_path / "three.html")
    assert same.code == 2 and "three.html" in same.err.replace("\n", "") and same.out == ""


def test_merges_that_texts_do_not_allow_are_told(call: Callable[..., Any]) -> None:
    merges = ("--teacher-merges", 200, "--student-merges", 5)
    done = call("lab", "--world", "arithmetic", *merges, "--methods", "chunk", *FAST, "--json", "-")
    facts = json.loads(done.out)["facts"]
    assert facts["student_merges"] == 0 and 5 < facts["teacher_merges"] < 200
    told = " ".join(done.err.split())
    assert f"the teacher's tokenizer has {facts['teacher_merges']} merges, not 200" in told
    assert "the student's tokenizer has 0 merges, not 5" in told
    fitting = call("lab", "--teacher-merges", 20, "--student-merges", 5, "--methods", "chunk", *FAST)
    assert "merges" not in fitting.err


def test_json_on_stdout_is_all_there_is_and_repeatable(call: Callable[..., Any]) -> None:
    arguments = ("lab", "--world", "markov", "--methods", "span", *FAST, "--rates", "0.02", "--json", "-")
    first, again = (json.loads(call(*arguments).out) for _ in range(2))
    for tree in (first, again):
        for method in tree["methods"].values():
            method.pop("seconds"), method.pop("seconds_a_run")
    assert first == again
    assert first["methods"]["span"]["lr"] == 0.02


def test_all_worlds_in_one_file(call: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "all.json"
    done = call("lab", "--all-worlds", "--methods", "gkd,span", *FAST, "--rates", "0.03", "--json", file)
    assert done.code == 0
    # the last table has them all
    assert "* the least of its world" in " ".join(done.out.split()[-60:])
    worlds = json.loads(file.read_text(encoding="utf-8"))["worlds"]
    kinds = {world["world"]["kind"] for world in worlds}
    assert kinds == {"lexicon", "context", "markov", "arithmetic", "indentation", "multibyte", "same"}
    assert {world["world"]["name"] for world in worlds if "gkd" in world["methods"]} == {
        "same-150-150-s0-n20"
    }
    assert "without gkd" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--world", "novel"), "expected one of lexicon"),
        (("--methods", "chunky"), "did you mean 'chunk'"),
        (("--methods", "chunk,chunk"), "twice"),
        (("--rates", "fast"), "numbers with commas"),
        (("--rates", "0,0.1"), "above 0"),
        (("--all-worlds", "--teacher-merges", "5"), "merges of its own"),
        (("--world", "same", "--teacher-merges", "5", "--student-merges", "6"), "one tokenizer"),
        (("--updates", "0"), "0"),
        (("--json", "."), "directory"),
        (("--json", "/dev/null/lab.json"), "cannot be written"),
        (("--methods", "chunk,gkd"), "same token ids"),
        (("--world", "indentation", "--size", "500"), "108 texts"),
        (("--world", "markov", "--size", "5000"), "3276 texts"),
        (("--start-kl", "40"), "at most"),
    ],
)
def test_what_cannot_be_meant(call: Callable[..., Any], arguments: tuple[str, ...], message: str) -> None:
    done = call("lab", *FAST, *arguments)
    assert done.code == 2
    assert message in done.err.replace("\n", " ")
    assert "Traceback" not in done.err and done.out == ""
