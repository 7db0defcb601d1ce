"""Replay: all turns of a conversation, of the latest recording, and never of two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tiny
from dragoman.errors import DataError
from dragoman.observe import Record, write_records
from dragoman.rollout import ReplayEngine, Request
from dragoman.text import Tokenization
from dragoman.types import Prompt, Rollout

TALK, OTHER = Prompt(key="talk", text="Hi"), Prompt(key="other", text="Ho")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Tokenization:
    return Tokenization.from_pretrained(str(tiny.byte_level(tmp_path_factory.mktemp("student"))))


def written(student: Tokenization, prompt: Prompt, sample: int, turn: int, version: int) -> Rollout:
    text = student.encode(f"turn {turn} of {version}".encode())
    return Rollout(
        prompt=prompt,
        sample=sample,
        context_ids=np.array([5]),
        completion=text,
        behaviour_logp=np.full(len(text), -1.0, np.float32),
        policy_version=version,
        turn=turn,
    )


def recorded(folder: Path, step: int, rollouts: Sequence[Rollout]) -> None:
    path = folder / f"step-{step:06d}.jsonl"
    write_records(path, [Record(rollout=rollout, step=step) for rollout in rollouts])


def test_all_turns_of_the_latest_recording(student: Tokenization, tmp_path: Path) -> None:
    recorded(tmp_path, 1, [written(student, TALK, 0, turn, 1) for turn in range(3)])
    # A later conversation of two turns, recorded in another order, has no third of the earlier one
    later = [written(student, TALK, 0, turn, 2) for turn in (1, 0)]
    recorded(tmp_path, 2, [*later, written(student, TALK, 1, 0, 2), written(student, OTHER, 0, 0, 2)])
    engine = ReplayEngine(tmp_path, student)
    requests = [
        Request(prompt=prompt, sample=sample) for prompt, sample in ((OTHER, 0), (TALK, 0), (TALK, 1))
    ]
    found = engine.rollouts(requests, seed=0, step=9)
    assert [r.key for r in found] == ["other/0", "talk/0", "talk/0.1", "talk/1"]
    assert {r.policy_version for r in found} == {2}
    assert found[2].completion.data == b"turn 1 of 2"


def test_a_conversation_recorded_twice_in_a_file(student: Tokenization, tmp_path: Path) -> None:
    path = tmp_path / "both.jsonl"
    first = [written(student, TALK, 0, turn, 1) for turn in range(2)]
    again = [replace(rollout, policy_version=2) for rollout in first[:1]]
    write_records(path, [Record(rollout=rollout, step=1) for rollout in (*first, *again)])
    found = ReplayEngine(path, student).rollouts([Request(prompt=TALK, sample=0)], seed=0, step=1)
    assert [(r.turn, r.policy_version) for r in found] == [(0, 2)]


def test_what_is_not_recorded(student: Tokenization, tmp_path: Path) -> None:
    recorded(tmp_path, 1, [written(student, TALK, 0, 0, 1)])
    engine = ReplayEngine(tmp_path, student)
    with pytest.raises(DataError, match=r"step 4 asks for rollout talk/1, which .* does not hold"):
        engine.rollouts([Request(prompt=TALK, sample=1)], seed=0, step=4)
