"""Runs that measure forward KL: where it is reported, what it may not depend on, and where it is nothing."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import tiny
from dragoman.api import Distillation
from dragoman.config import Config
from dragoman.train.setup import build_session

Run = Callable[..., Distillation]
ReadMetrics = Callable[[Path], list[dict[str, Any]]]
Settings = Callable[..., Config]

NAME = "forward_kl_per_byte"
FORWARD = {"eval.forward": True, "train.lr": 1e-2}


class PowerCutError(Exception):
    """What ends a run from outside."""


def before(found: Distillation) -> float:
    value: float = found.summary["before"][NAME]
    return value


def test_a_run_reports_it_at_every_evaluation(run: Run, metrics: ReadMetrics) -> None:
    found = run(changes=FORWARD | {"eval.every": 1})
    for line in metrics(found.path):
        assert (NAME in line) == (line["phase"] == "eval")
        if line["phase"] == "eval":
            assert line[f"{NAME}_low"] <= line[NAME] <= line[f"{NAME}_high"]
            assert line["forward_coverage"] == 1.0
    summary = json.loads((found.path / "summary.json").read_text())
    first, last = summary["before"], summary["after"]
    # Two random models of two tokenizers are far apart, and two steps make a difference
    assert first[NAME] > 0.1
    assert math.isfinite(last[NAME])
    assert last[NAME] != first[NAME]
    assert summary["change"]["forward_relative"] == pytest.approx(last[NAME] / first[NAME] - 1)
    low, high = summary["change"]["forward_relative_ci"]
    assert low <= summary["change"]["forward_relative"] <= high


def test_it_changes_nothing_else(run: Run, metrics: ReadMetrics) -> None:
    plain, measured = run("plain"), run("measured", {"eval.forward": True})
    lines = [
        {key: value for key, value in line.items() if not key.startswith("forward_")}
        for line in metrics(measured.path)
    ]
    assert metrics(plain.path) == lines
    assert "forward_relative" not in plain.summary["change"]
    costs = [found.summary["flops"]["eval"] for found in (plain, measured)]
    assert costs[0] < costs[1]


def test_a_student_that_is_the_teacher(run: Run, student: Path) -> None:
    """The odd segmentations of an untrained model are read as they were drawn, so nothing is left over."""
    found = run(changes={"eval.forward": True, "teacher.model": str(student), "train.lr": 0.0})
    for part in ("before", "after"):
        assert found.summary[part][NAME] == pytest.approx(0.0, abs=1e-4)
        assert found.summary[part]["forward_coverage"] == 1.0


def test_the_texts_are_the_teachers_own(run: Run, tmp_path: Path) -> None:
    """They depend on neither how nor what the student writes."""
    changes = {"eval.forward": True, "train.steps": 1, "train.lr": 0.0}
    plain = before(run("plain", changes))
    sharp = {"rollout.temperature": 0.5, "rollout.top_k": 3, "method.name": "sft", "eval.samples": 2}
    assert before(run("sharp", changes | sharp)) == plain
    assert before(run("seed", changes | {"eval.seed": 5})) != plain
    longer = before(run("longer", changes | {"eval.max_new_tokens": 12}))
    assert longer != plain
    other = tiny.byte_level_model(tmp_path / "stranger", seed=9)
    assert before(run("other", changes | {"student.model": str(other)})) != plain


def test_texts_of_the_length_asked_for(configured: Settings, tmp_path: Path) -> None:
    config = configured({"eval.forward": True, "eval.max_new_tokens": 5, "rollout.temperature": 0.5})
    session = build_session(config, tmp_path / "run")
    assert session.forward is not None
    texts = [text for own in session.forward.texts(session.heldout, seed=1) for text in own]
    assert [text.written.prompt.key for text in texts] == [prompt.key for prompt in session.heldout]
    assert max(len(text.written.completion) for text in texts) == 5
    assert {text.written.temperature for text in texts} == {1.0}
    for text in texts:
        assert text.reading is not None
        assert text.reading.completion.data == text.written.completion.data
        assert text.reading.completion.canonical.all()


def test_resumed_equals_uninterrupted(run: Run, metrics: ReadMetrics) -> None:
    changes = FORWARD | {"train.steps": 3, "train.save_every": 1}

    def cut(phase: str, step: int, steps: int, values: Mapping[str, float]) -> None:
        if (phase, step) == ("train", 2):
            raise PowerCutError

    expected = run("whole", changes)
    with pytest.raises(PowerCutError):
        run("cut", changes, progress=cut)
    found = run("cut", changes, resume=True)
    assert metrics(found.path) == metrics(expected.path)
    for key in ("before", "after", "change", "flops"):
        assert found.summary[key] == expected.summary[key]


def test_without_heldout_prompts(refused: Callable[..., Any]) -> None:
    code, message = refused({"eval.forward": True, "data.heldout": None})
    assert code == 2
    assert "eval.forward is true, but data.heldout is not set" in message


def test_a_prompt_without_room_in_the_teachers_context(
    refused: Callable[..., Any], teacher: Path, tmp_path: Path
) -> None:
    """The student has 1,024 positions, this teacher 64, too few for a response of that length."""
    short = tmp_path / "short"
    shutil.copytree(teacher, short)
    settings = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 64}))
    changes = {"teacher.model": str(short), "eval.max_new_tokens": 60, "eval.forward": True}
    code, message = refused(changes)
    assert code == 1
    assert "with 60 for the response that is more than the 64 of the model" in message
    assert repr(str(short)) in message
