"""Recorded conversations with tools and thinking through two training steps: real tokenizers and
templates, tiny models, every supervised span aligned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dragoman
import tiny
from dragoman.observe import Record, read_records
from dragoman.types import DropReason, StopReason

pytestmark = pytest.mark.assets
RECORDED = Path(__file__).parents[1] / "data" / "conversations.jsonl"
TURNS = {"tools": 4, "thinking": 2}


@pytest.fixture(scope="module")
def models(asset: Any, tmp_path_factory: Any) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("models")
    names = ("qwen3", "deepseek-v3", "gemma3")
    return {name: tiny.model_around(Path(asset(name)), base / name, seed) for seed, name in enumerate(names)}


def trained(models: dict[str, Path], teacher: str, out: Path, **settings: Any) -> list[Record]:
    result = dragoman.distill(
        student=str(models["qwen3"]),
        teacher=str(models[teacher]),
        prompts=str(RECORDED),
        steps=2,
        out=out,
        settings={
            "rollout.engine": "recorded",
            "train.prompts_per_step": 2,
            "train.lr": 1e-3,
            "run.trackers": [],
            **settings,
        },
    )
    assert np.isfinite(result.summary["seconds"])
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    losses = [line["loss"] for line in lines if line["phase"] == "train"]
    assert len(losses) == 2 and all(np.isfinite(losses)) and losses[0] != losses[1]
    return [record for path in sorted((out / "rollouts").glob("*.jsonl")) for record in read_records(path)]


def check_spans(records: list[Record]) -> None:
    """Every turn of both conversations in both steps; without a signal are only markup of tools, and the
    empty thinking that this student's template puts before an answer without one."""
    for step in (1, 2):
        found = [(r.rollout.prompt.key, r.rollout.turn) for r in records if r.step == step]
        assert sorted(found) == sorted((key, turn) for key, count in TURNS.items() for turn in range(count))
    for record in records:
        assert record.alignment is not None and record.supervision is not None
        assert record.rollout.stop is StopReason.STOP
        reasons = record.supervision.reason
        assert set(reasons.tolist()) <= {DropReason.NONE, DropReason.TOOL_SYNTAX, DropReason.STUDENT_ONLY}
        opening = np.flatnonzero(reasons == DropReason.STUDENT_ONLY).tolist()
        # Where a call follows at once, the opening is part of its markup.
        assert opening in ([], [0, 1, 2, 3])
        assert not (opening and record.rollout.prompt.key == "thinking")
        assert record.supervision.weight[-1] == 1.0, "the stop of every turn has a signal"


def test_teacher_with_another_syntax_of_calls(models: dict[str, Path], tmp_path: Path) -> None:
    records = trained(models, "deepseek-v3", tmp_path / "run")
    check_spans(records)
    first = next(r for r in records if r.rollout.key == "tools/0")
    assert first.view is not None and first.supervision is not None
    assert b"<tool_call>" not in first.view.completion.data
    assert 0 < first.supervision.dropped["tool_syntax"] < len(first.rollout.completion) / 2
    supervised = b"".join(
        first.rollout.completion.token_bytes(i) for i in np.flatnonzero(first.supervision.weight > 0)
    ).decode()
    for words in ("I will look at both places.\n", "get_weather", "Zürich", "Oslo", "days"):
        assert words in supervised
    thinking = [r for r in records if r.rollout.prompt.key == "thinking"]
    assert all(r.alignment is not None and r.alignment.coverage == 1.0 for r in thinking)


def test_teacher_without_tools(models: dict[str, Path], tmp_path: Path) -> None:
    records = trained(models, "gemma3", tmp_path / "run", **{"teacher.tools": "text"})
    check_spans(records)
    assert all(DropReason.TOOL_SYNTAX not in r.alignment.reasons for r in records if r.alignment is not None)


def test_thinking_can_be_kept_from_the_teacher(models: dict[str, Path], tmp_path: Path) -> None:
    records = trained(
        models, "gemma3", tmp_path / "run", **{"teacher.tools": "text", "teacher.thinking": "drop"}
    )
    thinking = [r for r in records if r.rollout.prompt.key == "thinking"]
    for record in thinking:
        assert record.view is not None and record.supervision is not None
        assert b"42 is 21" not in record.view.completion.data
        assert record.supervision.dropped["thinking"] > 5
