"""Records as tests write them down, and equality of records to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from dragoman.alignment import align
from dragoman.observe import Record
from dragoman.supervise import SampledSettings, supervise_sampled
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
    TeacherScores,
    TeacherView,
    TokenText,
)
from naive import token_text


def assert_same(got: Any, expected: Any, where: str = "record") -> None:
    """Equality of nested dataclasses, arrays by dtype, shape and bits (NaN equals NaN)."""
    assert type(got) is type(expected), where
    if is_dataclass(expected):
        for field in fields(expected):
            assert_same(getattr(got, field.name), getattr(expected, field.name), f"{where}.{field.name}")
    elif isinstance(expected, list):
        for index, (one, other) in enumerate(zip(got, expected, strict=True)):
            assert_same(one, other, f"{where}[{index}]")
    elif isinstance(expected, np.ndarray):
        assert got.dtype == expected.dtype and got.shape == expected.shape, where
        np.testing.assert_array_equal(got, expected, err_msg=where)
    else:
        assert got == expected, where


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
        stop_logp=np.array([-4.0, np.nan, -np.inf, 0.0], np.float32),
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
            rollout_key="p:1/0",
            teacher="t",
            ids=np.array([3, 7, 1], np.int64),
            start=1,
            completion=teacher,
            correspondence=Correspondence(
                spans=np.array([[0, 6, 0, 6], [6, 7, 6, 7]]),
                kind=np.array([PairKind.EXACT, PairKind.MARKER], np.uint8),
            ),
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


def record_of(
    student: Sequence[bytes | Event],
    student_logp: Sequence[float],
    teacher: Sequence[bytes | Event],
    teacher_logp: Sequence[float],
    settings: SampledSettings | None = None,
) -> Record:
    """A record of one rollout; a teacher's NaN is missing as not finite."""
    completion, seen = token_text(student), token_text(teacher)
    rollout = Rollout(
        prompt=Prompt(key="p", text="x"),
        sample=0,
        context_ids=np.array([7]),
        completion=completion,
        behaviour_logp=np.array(student_logp, np.float32),
        entropy=np.full(len(completion), 0.5, np.float32),
        stop=StopReason.STOP if completion.num_stops else StopReason.LENGTH,
    )
    logp = np.array(teacher_logp, np.float32)
    missing = np.where(np.isnan(logp), DropReason.NON_FINITE, DropReason.NONE).astype(np.uint8)
    scores = TeacherScores(logp=logp, missing=missing)
    alignment = align(completion, seen)
    ids = np.append([3], seen.ids)
    view = TeacherView(rollout_key=rollout.key, teacher="t", ids=ids, start=1, completion=seen)
    supervision = None if settings is None else supervise_sampled(rollout, scores, alignment, settings)
    return Record(
        rollout=rollout, view=view, scores=scores, alignment=alignment, supervision=supervision, step=1
    )


# |Hel|lo| wor|ld|stop| meets |Hello| world|stop|
STUDENT, STUDENT_LOGP = (b"Hel", b"lo", b" wor", b"ld", Event.STOP), (-1.0, -2.0, -0.5, -0.25, -4.0)
TEACHER, TEACHER_LOGP = (b"Hello", b" world", Event.STOP), (-2.0, -1.0, -1.5)
