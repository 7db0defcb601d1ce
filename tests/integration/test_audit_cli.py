"""`dragoman audit`: its claims are what a run then measures; exit codes, JSON and the page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny
from dragoman.api import Distillation

Run = Callable[..., Distillation]
Audit = Callable[..., tuple[int, str, str]]


@pytest.fixture
def audit(call: Callable[..., Any]) -> Audit:
    """`audit("--fast", ...)` is `dragoman audit --fast ...`: its exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        found = call("audit", *arguments)
        return found.code, found.out, found.err

    return run


def test_claims_agree_with_what_a_run_measures(
    audit: Audit, config: Path, run: Run, metrics: Callable[[Path], list[dict[str, Any]]]
) -> None:
    code, out, _ = audit("--config", config, "--samples", 64, "--max-new-tokens", 8, "--json")
    claimed = json.loads(out)["pair"]
    sampled = claimed["sampled"]
    # a learning rate of 0 keeps the student that was audited
    done = run("measured", {"train.lr": 0.0, "train.steps": 8, "train.prompts_per_step": 8})
    steps = [line for line in metrics(done.path) if line["phase"] == "train"]
    mean = {
        name: sum(line[name] for line in steps) / len(steps)
        for name in ("coverage", "noncanonical_rate", "stop_rate", "kl_per_byte")
    }
    assert code == 0
    assert sampled["coverage"] == pytest.approx(mean["coverage"], abs=0.02)
    # 64 responses of 8 tokens each: standard errors of about .02, .03 and .1
    assert sampled["noncanonical_rate"] == pytest.approx(mean["noncanonical_rate"], abs=0.08)
    assert sampled["stop_rate"] == pytest.approx(mean["stop_rate"], abs=0.15)
    assert sampled["kl_per_byte"] == pytest.approx(mean["kl_per_byte"], rel=0.2)
    tokens = done.summary["tokens"]
    assert sampled["inflation"] == pytest.approx(tokens["teacher"] / tokens["student"], rel=0.08)
    chunk = next(row for row in claimed["methods"] if row["name"] == "chunk")
    assert chunk["supervised"] == pytest.approx(tokens["supervised"] / tokens["student"], abs=0.05)


def test_the_whole_audit_as_json(audit: Audit, student: Path, teacher: Path) -> None:
    code, out, _ = audit(student, teacher, "--samples", 4, "--max-new-tokens", 6, "--json")
    found = json.loads(out)
    # random weights know nothing: a warning, as they may well be what someone wants to train on
    assert code == 0 and found["safe"]
    assert found["mapping"]["total"]["coverage"] == 1.0
    pair = found["pair"]
    assert pair["sampled"]["figures"]["num_texts"] == 4
    by_name = {row["name"]: row["passed"] for row in pair["self_test"]}
    assert {name for name, passed in by_name.items() if passed is not True} <= {
        "known answer",
        "row",
        "greedy",
    }
    assert by_name["realised"] is True and by_name["mass"] is True
    for side in ("student_mass", "teacher_mass"):
        assert 0 <= pair[side]["shared"] <= pair[side]["shared"] + pair[side]["tail"] <= 1 + 1e-6
    cost = pair["cost"]
    assert cost["rollouts"] == 16  # train.prompts_per_step
    assert cost["flops"]["update"] == 3 * cost["flops"]["rollout"]  # forward and backward of the same tokens
    assert cost["total_seconds"] == pytest.approx(sum(cost["seconds"].values()))
    assert cost["memory_bytes"]["AdamW moments"] == 2 * cost["memory_bytes"]["gradients"]


def test_times_are_those_of_the_threads_a_run_would_have(
    audit: Audit, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", asked.append)
    audit("--config", config, "--samples", 1, "--max-new-tokens", 2, "run.threads=3")
    assert asked == [3]


def test_the_whole_audit_in_the_terminal_and_as_a_page(
    audit: Audit, student: Path, teacher: Path, tmp_path: Path
) -> None:
    page = tmp_path / "audit.html"
    options = ("--samples", 2, "--max-new-tokens", 4, "--html", page)
    code, out, _ = audit(student, teacher, *options)
    assert code == 0
    assert out.rstrip().splitlines()[-1].startswith("verdict: safe")
    html = page.read_text(encoding="utf-8")
    for title in ("The student's own samples", "Methods", "Self-test of the teacher", "Memory, by estimate"):
        assert title in out
        assert title.replace("'", "&#39;") in html


def test_fast_reads_no_weights(audit: Audit, tmp_path: Path) -> None:
    student = tiny.byte_level(tmp_path / "student")
    teacher = tiny.sentencepiece(tmp_path / "teacher")
    code, out, err = audit("--fast", student, teacher)
    assert code == 0
    assert out.rstrip().splitlines()[-1] == "verdict: safe"
    assert "Tokenizers and templates" in out and "Self-test" not in out
    assert "Traceback" not in err


def test_unsafe_ends_with_one(audit: Audit, student: Path, teacher: Path) -> None:
    code, out, _ = audit("--fast", student, teacher, "teacher.max_length=20", "rollout.max_new_tokens=10")
    assert code == 0 or "verdict: unsafe" in out
    code, out, _ = audit("--fast", student, teacher, "teacher.max_length=2")
    assert code == 1
    assert "verdict: unsafe: the teacher needs" in " ".join(out.split())


def test_the_page_is_self_contained_and_escaped(audit: Audit, tmp_path: Path) -> None:
    student = tiny.byte_level(tmp_path / "student<b>")
    teacher = tiny.sentencepiece(tmp_path / "teacher")
    page = tmp_path / "audit.html"
    assert audit("--fast", student, teacher, "--html", page)[0] == 0
    html = page.read_text(encoding="utf-8")
    assert "student<b>" not in html and "student&lt;b&gt;" in html
    assert "&lt;|im_start|&gt;" in html
    assert not re.search(r"https?://|<script|@import|url\(", html)
    assert "prefers-color-scheme: dark" in html


@pytest.mark.parametrize("arguments", [(), ("only-one",), ("a", "b", "c")])
def test_one_model_is_no_pair(audit: Audit, arguments: tuple[str, ...]) -> None:
    code, out, err = audit(*arguments)
    assert (code, out) == (2, "")
    assert "expected a student and a teacher" in err


def test_recorded_turns_are_audited_as_they_would_be_trained_on(
    audit: Audit, tree: dict[str, Any], lines: Callable[..., Path], tmp_path: Path
) -> None:
    said = {"role": "assistant", "content": "Hello students", "sampled": True}
    rows = [{"messages": [{"role": "user", "content": "Hello"}, said]}] * 2
    tree["data"]["train"] = str(lines("talk.jsonl", rows))
    tree["rollout"]["engine"] = "recorded"
    path = tmp_path / "recorded.yaml"
    path.write_text(json.dumps(tree), encoding="utf-8")
    code, out, err = audit("--config", path, "--json")
    assert code in (0, 1), err
    sampled = json.loads(out)["pair"]["sampled"]
    # two turns, or eight of them again and again: all of the recorded words, none sampled anew
    size = len("Hello students")
    assert sampled["figures"]["num_bytes"] == sampled["figures"]["num_texts"] * size
    assert sampled["stop_rate"] == 1.0
