"""Runs that are refused for what the pair, the data and the method are to each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator, DistributedType

Refused = Callable[..., Any]


def test_recorded_turns_for_a_method_in_which_the_teacher_writes(refused: Refused) -> None:
    code, message = refused({"method.name": "sft", "rollout.engine": "recorded"})
    assert code == 2
    assert "rollout.engine='recorded' would be ignored" in message


def test_weights_that_are_divided_among_processes(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.FSDP)
    code, message = refused({})
    assert code == 2
    assert "divide weights among processes (FSDP); expected replicas" in message
    assert not (tmp_path / "run").exists()


def test_a_teacher_without_room(refused: Refused, tmp_path: Path) -> None:
    code, message = refused({"teacher.max_length": 2})
    assert code == 1
    assert message.startswith("error: this pair is not safe to train")
    assert "its context has 2: what lies beyond gets no signal" in message
    assert not (tmp_path / "run").exists()


def test_a_teacher_without_room_to_score_may_write(run: Callable[..., Any]) -> None:
    changes = {"method.name": "sft", "teacher.max_length": 2, "data.heldout": None, "train.steps": 1}
    assert run("imitated", changes).summary["tokens"]["supervised"] > 0


def test_not_one_token_with_a_signal(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no look at the prompts foresees is noticed in the first step."""
    monkeypatch.setattr("dragoman.train.setup.require_safe", lambda mapping, least: ())
    code, message = refused({"teacher.max_length": 2})
    assert code == 1
    assert message.startswith("error: step 1: not one student token has a signal (teacher_context 100.0%)")
    assert not (tmp_path / "run" / "final").exists()
