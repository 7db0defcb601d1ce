"""Recorded rollouts come back to the last bit, and a corrupt line is named."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dragoman.errors import DataError
from dragoman.observe import Record, read_records, write_records
from dragoman.types import (
    Alignment,
    ChunkKind,
    DropReason,
    Event,
    Message,
    Prompt,
    Rollout,
    StopReason,
    Supervision,
    TeacherScores,
    TeacherView,
    TokenText,
)

IDS = st.integers(0, 2**40)
FLOATS = st.floats(width=32)
# Lone surrogates too: a server may hand them on.
TEXTS = st.text(st.characters(codec=None), max_size=12)


def assert_same(got: Any, expected: Any, where: str = "record") -> None:
    """Equality of nested dataclasses, arrays by dtype, shape and bits (NaN equals NaN)."""
    assert type(got) is type(expected), where
    if is_dataclass(expected):
        for field in fields(expected):
            assert_same(getattr(got, field.name), getattr(expected, field.name), f"{where}.{field.name}")
    elif isinstance(expected, np.ndarray):
        assert got.dtype == expected.dtype and got.shape == expected.shape, where
        np.testing.assert_array_equal(got, expected, err_msg=where)
    else:
        assert got == expected, where


@st.composite
def token_texts(draw: st.DrawFn) -> TokenText:
    pieces = draw(st.lists(st.binary(max_size=4), max_size=6))
    size = len(pieces)
    events = [draw(st.sampled_from([Event.STOP, Event.CONTROL])) if not piece else 0 for piece in pieces]
    return TokenText(
        ids=np.array(draw(st.lists(IDS, min_size=size, max_size=size)), np.int64),
        data=b"".join(pieces),
        bounds=np.cumsum([0, *map(len, pieces)], dtype=np.int64),
        event=np.array(events, np.uint8),
        canonical=draw(hnp.arrays(np.bool_, size)),
    )


@st.composite
def rollouts(draw: st.DrawFn) -> Rollout:
    turns = st.builds(Message, role=st.sampled_from(["system", "user"]), content=TEXTS)
    conversation = st.lists(turns, min_size=1, max_size=3).map(tuple)
    prompt = draw(
        st.builds(Prompt, key=TEXTS, text=TEXTS, origin=TEXTS)
        | st.builds(Prompt, key=TEXTS, messages=conversation, origin=TEXTS)
    )
    completion = draw(token_texts())
    floats = st.none() | hnp.arrays(np.float32, len(completion), elements=FLOATS)
    return Rollout(
        prompt=prompt,
        sample=draw(st.integers(0, 9)),
        context_ids=np.array(draw(st.lists(IDS, max_size=5)), np.int64),
        completion=completion,
        behaviour_logp=draw(floats),
        entropy=draw(floats),
        temperature=draw(st.floats(0.01, 10)),
        stop=draw(st.sampled_from(StopReason)),
        policy_version=draw(st.integers(0, 99)),
    )


@st.composite
def teacher_scores(draw: st.DrawFn, size: int) -> TeacherScores:
    missing = draw(hnp.arrays(np.uint8, size, elements=st.sampled_from([0, 0, 3, 4])))
    logp = draw(hnp.arrays(np.float32, size, elements=st.floats(-(2.0**100), 0, width=32)))
    logp[missing != DropReason.NONE] = np.nan
    shape = (size, draw(st.integers(0, 3)) if size else 0)
    return TeacherScores(
        logp=logp,
        missing=missing,
        topk_ids=draw(st.none() | hnp.arrays(np.int32, shape)),
        topk_logp=draw(st.none() | hnp.arrays(np.float32, shape, elements=FLOATS)),
    )


@st.composite
def alignments(draw: st.DrawFn) -> Alignment:
    sizes = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=5))
    table = np.array([(0, 0), *sizes], np.int64).cumsum(axis=0)
    return Alignment(
        student_bounds=table[:, 0],
        teacher_bounds=table[:, 1],
        kind=draw(hnp.arrays(np.uint8, len(sizes), elements=st.sampled_from([int(k) for k in ChunkKind]))),
    )


@st.composite
def records(draw: st.DrawFn) -> Record:
    rollout = draw(rollouts())
    size = len(rollout.completion)
    view = scores = None
    if draw(st.booleans()):
        view = TeacherView(
            rollout_key=rollout.key,
            teacher=draw(TEXTS),
            ids=np.array(draw(st.lists(IDS, max_size=5)), np.int64),
            start=draw(st.integers(0, 5)),
            completion=draw(token_texts()),
        )
    if draw(st.booleans()):
        scores = draw(teacher_scores(len(view.completion) if view is not None else draw(st.integers(0, 4))))
    floats = hnp.arrays(np.float32, size, elements=FLOATS)
    supervision = st.builds(
        Supervision,
        weight=floats,
        reason=hnp.arrays(np.uint8, size, elements=st.sampled_from([int(reason) for reason in DropReason])),
        chunk_of=hnp.arrays(np.int64, size),
        credit=st.none() | floats,
        num_clamped=st.integers(0, 9),
    )
    return Record(
        rollout=rollout,
        view=view,
        scores=scores,
        alignment=draw(st.none() | alignments()),
        supervision=draw(st.none() | supervision),
        step=draw(st.integers(0, 99)),
    )


@given(st.lists(records(), max_size=3))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_round_trip_is_lossless(tmp_path: Path, written: list[Record]) -> None:
    path = tmp_path / "step-000001.jsonl"
    write_records(path, written)
    assert path.read_bytes().decode("utf-8").count("\n") == len(written)
    for got, expected in zip(read_records(path), written, strict=True):
        assert_same(got, expected)


def example() -> Record:
    """Student |H|c3|a9 llo|stop|, the é cut in two, against teacher |Héllo|stop| whose context ends there."""
    completion = TokenText(
        ids=np.array([40, 136, 9, 2], np.int64),
        data="Héllo".encode(),
        bounds=np.array([0, 1, 2, 6, 6], np.int64),
        event=np.array([0, 0, 0, Event.STOP], np.uint8),
        canonical=np.array([True, True, False, True]),
    )
    rollout = Rollout(
        prompt=Prompt(key="p:1", messages=(Message(role="user", content="Hi"),), origin="p.jsonl:1"),
        sample=0,
        context_ids=np.array([5, 6], np.int64),
        completion=completion,
        behaviour_logp=np.array([-0.1, np.nan, -2.0, -np.inf], np.float32),
    )
    teacher = TokenText(
        ids=np.array([7, 1], np.int64),
        data="Héllo".encode(),
        bounds=np.array([0, 6, 6], np.int64),
        event=np.array([0, Event.STOP], np.uint8),
        canonical=np.array([True, True]),
    )
    return Record(
        rollout=rollout,
        view=TeacherView(
            rollout_key="p:1/0", teacher="t", ids=np.array([3, 7, 1], np.int64), start=1, completion=teacher
        ),
        scores=TeacherScores(
            logp=np.array([-1.5, np.nan], np.float32),
            missing=np.array([0, DropReason.TEACHER_CONTEXT], np.uint8),
        ),
        alignment=Alignment(
            student_bounds=np.array([0, 3, 4]),
            teacher_bounds=np.array([0, 1, 2]),
            kind=np.array([ChunkKind.MANY_TO_ONE, ChunkKind.EVENT], np.uint8),
        ),
        step=3,
    )


def test_layout(tmp_path: Path) -> None:
    path = tmp_path / "rollouts" / "step-000003.jsonl"
    write_records(path, [example()])
    line = json.loads(path.read_text(encoding="utf-8"))
    # float32(-0.1) is -0.10000000149011612 as a double; base64 of "H", c3 a9, "llo" is SMOpbGxv
    assert line == {
        "key": "p:1/0",
        "step": 3,
        "prompt": {"key": "p:1", "messages": [{"role": "user", "content": "Hi"}], "origin": "p.jsonl:1"},
        "sample": 0,
        "stop": "stop",
        "temperature": 1.0,
        "policy_version": 0,
        "text": "Héllo",
        "student": {
            "context_ids": [5, 6],
            "ids": [40, 136, 9, 2],
            "bounds": [0, 1, 2, 6, 6],
            "data": "SMOpbGxv",
            "event": [0, 0, 0, 1],
            "canonical": [True, True, False, True],
            "logp": [-0.10000000149011612, None, -2.0, "-inf"],
            "entropy": None,
        },
        "teacher": {
            "name": "t",
            "ids": [3, 7, 1],
            "start": 1,
            "completion": {
                "ids": [7, 1],
                "bounds": [0, 6, 6],
                "data": "SMOpbGxv",
                "event": [0, 1],
                "canonical": [True, True],
            },
            "logp": [-1.5, None],
            "missing": [0, 3],
            "topk_ids": None,
            "topk_logp": None,
        },
        "chunks": [[0, 3, 0, 1, "n:1"], [3, 4, 1, 2, "event"]],
        "supervision": None,
    }


def test_text_is_readable_and_bytes_are_exact(tmp_path: Path) -> None:
    cut = TokenText(
        ids=np.array([1, 2], np.int64),
        data=b"\xe6\x97\xa5\xe6\x9c",
        bounds=np.array([0, 3, 5], np.int64),
        event=np.zeros(2, np.uint8),
        canonical=np.ones(2, bool),
    )
    path = tmp_path / "r.jsonl"
    rollout = replace(example().rollout, completion=cut, behaviour_logp=None)
    write_records(path, [Record(rollout=rollout, step=1)])
    assert '"text": "日\ufffd"' in path.read_text(encoding="utf-8")
    (record,) = read_records(path)
    assert record.rollout.completion.data == b"\xe6\x97\xa5\xe6\x9c"


def test_view_of_another_rollout_is_refused() -> None:
    view = example().view
    assert view is not None
    with pytest.raises(ValueError, match="belongs to 'p:2/0', not to 'p:1/0'"):
        replace(example(), view=replace(view, rollout_key="p:2/0"))


@pytest.mark.parametrize(
    ("part", "corrupt", "reason"),
    [
        ('"step"', "step", "Expecting property name"),
        ('"ids": [3, 7, 1]', '"ids": null', "NoneType"),
        ('"stop": ', '"halt": ', "no 'stop'"),
        ('"stop": "stop"', '"stop": "tired"', "tired"),
        ('"SMOpbGxv"', '"S*"', "base64|alphabet"),
        ('"SMOpbGxv"', '"SMOp"', "data has 3 bytes"),
        ("[-1.5, null]", "[-1.5]", "teacher.logp has 1 values, expected 2, one a token"),
        ("[-1.5, null]", "[-1.5, -1]", "must be NaN with a reason"),
        (
            "[3, 4, 1, 2,",
            "[2, 4, 1, 2,",
            "chunk 1 starts at tokens 2 and 1, but the one before ended at 3 and 1",
        ),
        ('"n:1"', '"n:7"', "no 'n:7'"),
        ('"p:1/0"', '"p:1/7"', "prompt and sample make it 'p:1/0'"),
        ('"missing": [0, 3]', '"missing": [0, 300]', "300"),
        ("é", "\udce9", "utf-8"),  # one byte, e9
    ],
)
def test_corrupt_line_is_named(tmp_path: Path, part: str, corrupt: str, reason: str) -> None:
    path = tmp_path / "r.jsonl"
    write_records(path, [example()])
    line = path.read_text(encoding="utf-8")
    assert part in line
    path.write_bytes((line + line.replace(part, corrupt)).encode("utf-8", "surrogateescape"))
    reader = read_records(path)
    assert_same(next(reader), example())
    with pytest.raises(DataError, match=rf"r\.jsonl:2: got a line that is not a .*\(.*({reason})"):
        next(reader)
