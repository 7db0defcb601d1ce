"""The numbers of a rollout by chunk, and `dragoman align --rollout`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from dragoman.cli.align import align
from dragoman.observe import Record, write_records
from dragoman.report import chunk_numbers
from dragoman.report.numbers import numbers_table
from dragoman.types import (
    Alignment,
    ChunkKind,
    DropReason,
    Event,
    Prompt,
    Rollout,
    Supervision,
    TeacherScores,
    TeacherView,
    TokenText,
)


def text(pieces: list[bytes], events: list[int]) -> TokenText:
    return TokenText(
        ids=np.arange(len(pieces)),
        data=b"".join(pieces),
        bounds=np.cumsum([0, *map(len, pieces)]),
        event=np.array(events, np.uint8),
        canonical=np.ones(len(pieces), bool),
    )


@pytest.fixture
def record() -> Record:
    """`He|llo|stop` over `Hello|stop`; the stop was dropped."""
    rollout = Rollout(
        prompt=Prompt(key="p", text="Say hello."),
        sample=0,
        context_ids=np.array([1]),
        completion=text([b"He", b"llo", b""], [0, 0, Event.STOP]),
        behaviour_logp=np.array([-1.0, -0.5, -2.0], np.float32),
    )
    return Record(
        rollout=rollout,
        view=TeacherView(
            rollout_key="p/0",
            teacher="t",
            ids=np.array([0, 1]),
            start=0,
            completion=text([b"Hello", b""], [0, Event.STOP]),
        ),
        scores=TeacherScores(
            logp=np.array([-0.75, np.nan], np.float32),
            missing=np.array([DropReason.NONE, DropReason.NON_FINITE], np.uint8),
        ),
        alignment=Alignment(
            student_bounds=np.array([0, 2, 3]),
            teacher_bounds=np.array([0, 1, 2]),
            kind=np.array([ChunkKind.MANY_TO_ONE, ChunkKind.EVENT], np.uint8),
        ),
        supervision=Supervision(
            weight=np.array([1, 1, 0], np.float32),
            reason=np.array([0, 0, DropReason.NON_FINITE], np.uint8),
            chunk_of=np.array([0, 0, 1]),
            credit=np.array([0.75, 0.75, 0.0], np.float32),
        ),
        step=3,
    )


def test_numbers_by_chunk(record: Record) -> None:
    first, last = chunk_numbers(record)
    # p = -1 - 0.5, t = -0.75
    assert first == {
        "kind": "n:1",
        "reason": None,
        "student": ["He", "llo"],
        "teacher": ["Hello"],
        "p": -1.5,
        "t": -0.75,
        "advantage": [0.75, 0.75],
    }
    assert (last["reason"], last["p"], last["advantage"]) == ("non_finite", -2.0, [None])
    assert np.isnan(last["t"])


@pytest.mark.parametrize(
    ("credits", "shown"),
    [
        ((0.75, 0.75, 0.75), "0.750"),  # a chunk's tokens that are all alike are said once
        ((0.75, -0.5, 0.75), "0.750 −0.500 0.750"),  # else one stands for each token
    ],
)
def test_equal_advantages_in_the_table(record: Record, credits: tuple[float, ...], shown: str) -> None:
    assert record.supervision is not None and record.alignment is not None
    supervision = replace(
        record.supervision,
        weight=np.ones(3, np.float32),
        reason=np.zeros(3, np.uint8),
        credit=np.array(credits, np.float32),
    )
    one = replace(record.alignment, student_bounds=np.array([0, 3, 3]))
    table = numbers_table(replace(record, alignment=one, supervision=supervision))
    column = next(column for column in table.columns if column.header == "advantage")
    assert next(iter(column.cells)) == shown


def call(*arguments: str) -> Any:
    return CliRunner().invoke(align, list(arguments))


def test_command(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    write_records(path, [record])
    shown = call("--rollout", str(path), "--width", "100")
    assert shown.exit_code == 0
    for part in ("rollout p/0, step 3", "He|llo", "coverage 100.0%", "0.750", "non_finite"):
        assert part in shown.stdout
    found = json.loads(call("--rollout", f"{path}:1", "--json").stdout)
    assert found["key"] == "p/0" and found["numbers"][1]["t"] is None
    assert found["chunks"][0] == [0, 2, 0, 1, "n:1"]


def test_calls_that_cannot_be_meant(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    write_records(path, [Record(rollout=record.rollout, step=1)])
    assert "was not scored" in call("--rollout", str(path)).stderr
    assert "leave out the others" in call("--rollout", str(path), "text").stderr
    assert "give --student, --teacher and TEXT" in call("text").stderr
