"""Recorded rollouts come back to the last bit, and a corrupt line is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

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
    Correspondence,
    DropReason,
    Event,
    Message,
    PairKind,
    Prompt,
    Rollout,
    StopReason,
    Supervision,
    TeacherScores,
    TeacherView,
    TokenText,
    ToolCall,
)
from recorded import assert_same, example

IDS = st.integers(0, 2**40)
FLOATS = st.floats(width=32)
# Lone surrogates too: a server may hand them on.
TEXTS = st.text(st.characters(codec=None), max_size=12)


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


CALLS = st.builds(ToolCall, name=TEXTS, arguments=TEXTS, id=st.none() | TEXTS)
MESSAGES = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=TEXTS,
    reasoning_content=st.none() | TEXTS,
    tool_calls=st.lists(CALLS, max_size=2).map(tuple),
    tool_call_id=st.none() | TEXTS,
    name=st.none() | TEXTS,
    sampled=st.booleans(),
)
TOOLS = st.lists(
    st.fixed_dictionaries({"type": st.just("function"), "function": st.dictionaries(TEXTS, TEXTS)}),
    max_size=2,
).map(tuple)


@st.composite
def rollouts(draw: st.DrawFn) -> Rollout:
    conversation = st.lists(MESSAGES, min_size=1, max_size=3).map(tuple)
    prompt = draw(
        st.builds(Prompt, key=TEXTS, text=TEXTS, tools=TOOLS, origin=TEXTS)
        | st.builds(Prompt, key=TEXTS, messages=conversation, tools=TOOLS, origin=TEXTS)
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
        stop_logp=draw(floats),
        reference_logp=draw(floats),
        temperature=draw(st.floats(0.01, 10)),
        stop=draw(st.sampled_from(StopReason)),
        policy_version=draw(st.integers(0, 99)),
        turn=draw(st.integers(0, 3)),
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
        stop_logp=draw(st.none() | hnp.arrays(np.float32, size, elements=FLOATS)),
        reference_logp=draw(st.none() | hnp.arrays(np.float32, size, elements=FLOATS)),
    )


@st.composite
def correspondences(draw: st.DrawFn) -> Correspondence:
    kinds = draw(st.lists(st.sampled_from(PairKind), max_size=4))
    rows, place, other = [], 0, 0
    for kind in kinds:
        size, gap = draw(st.integers(1, 3)), draw(st.integers(0, 2))
        width = size if kind is PairKind.EXACT else draw(st.integers(0, 3))
        rows.append((place, place + size, other + gap, other + gap + width))
        place, other = place + size, other + gap + width
    return Correspondence(spans=np.array(rows, np.int64).reshape(-1, 4), kind=np.array(kinds, np.uint8))


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
            correspondence=draw(st.none() | correspondences()),
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
        "turn": 0,
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
            "stop_logp": [-4.0, None, "-inf", 0.0],
            "reference_logp": None,
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
            "correspondence": [[0, 6, 0, 6, "exact"], [6, 7, 6, 7, "marker"]],
            "logp": [-1.5, None],
            "missing": [0, 3],
            "topk_ids": None,
            "topk_logp": None,
            "stop_logp": None,
            "reference_logp": None,
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
    rollout = replace(example().rollout, completion=cut, behaviour_logp=None, stop_logp=None)
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
        ('"p:1/0"', '"p:1/7"', "prompt, sample and turn make it 'p:1/0'"),
        ('"missing": [0, 3]', '"missing": [0, 300]', "300"),
        ('"prompt": {', '"prompt": 7, "was": {', "has no attribute"),
        ('"exact"', '"nearly"', "no 'nearly'"),
        ("[[0, 6, 0, 6, ", "[[0, 6, 0, 5, ", "two sides of an exact span must be equally long"),
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
