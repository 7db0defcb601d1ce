"""Full rows of a teacher: a few responses' at a time, gone when their supervision is made."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np
import pytest

import dragoman.pipeline as module
from dragoman.errors import RenderError
from dragoman.pipeline import Pipeline, full_row_groups
from dragoman.rollout import Request
from dragoman.types import (
    Alignment,
    DropReason,
    HeldLogp,
    Prompt,
    Rollout,
    Supervision,
    TeacherCaps,
    TeacherLevel,
    TeacherScores,
    TeacherView,
    TokenText,
)

VOCABULARY = 10


def text_of(size: int) -> TokenText:
    return TokenText(
        ids=np.arange(size),
        data=b"x" * size,
        bounds=np.arange(size + 1),
        event=np.zeros(size, np.uint8),
        canonical=np.ones(size, bool),
    )


def rollout_of(sample: int, size: int) -> Rollout:
    return Rollout(
        prompt=Prompt(key="p", text="?"),
        sample=sample,
        context_ids=np.array([1]),
        completion=text_of(size),
        behaviour_logp=np.full(size, -1.0, np.float32),
        turn=1,
    )


class Engine:
    def __init__(self, sizes: Sequence[int]) -> None:
        self._found = [rollout_of(sample, size) for sample, size in enumerate(sizes)]

    def rollouts(self, requests: Sequence[Request], *, seed: int, step: int) -> list[Rollout]:
        return self._found


class Teacher:
    """Counts the responses of each call, and the values of full rows that are alive at once."""

    name = "t"

    def __init__(self, full_row: int, refused: int | None = None) -> None:
        self.caps = TeacherCaps(level=TeacherLevel.LOGITS, generates=False, full_row=full_row)
        self.calls: list[int] = []
        self.rests: list[int] = []
        self.most_alive = 0
        self._alive = 0
        self._refused = refused

    def view(self, rollout: Rollout) -> TeacherView:
        if rollout.sample == self._refused:
            raise RenderError("no")
        size = len(rollout.completion)
        return TeacherView(
            rollout_key=rollout.key, teacher="t", ids=np.arange(size), start=1, completion=text_of(size)
        )

    def score(self, views: Sequence[TeacherView]) -> list[TeacherScores]:
        self.calls.append(len(views))
        return [self._scores(len(view.completion)) for view in views]

    def rest(self) -> None:
        self.rests.append(len(self.calls))

    def _scores(self, size: int) -> TeacherScores:
        full = np.full((size, VOCABULARY), -np.log(VOCABULARY), np.float32)
        self._alive += full.size
        self.most_alive = max(self.most_alive, self._alive)
        weakref.finalize(full, self._gone, full.size)
        logp = np.full(size, -float(size), np.float32)
        return TeacherScores(logp=logp, missing=np.zeros(size, np.uint8), full_logp=HeldLogp(full))

    def _gone(self, size: int) -> None:
        self._alive -= size


def supervise(rollout: Rollout, scores: TeacherScores, alignment: Alignment) -> Supervision:
    """Sees the full rows and the teacher's tokens."""
    assert scores.full_logp is not None and scores.tokens is not None
    assert len(scores.full_logp) == len(scores.tokens) == len(rollout.completion)
    return Supervision(
        weight=np.ones(len(rollout.completion), np.float32),
        reason=np.zeros(len(rollout.completion), np.uint8),
        chunk_of=alignment.chunk_of,
        credit=scores.logp,
    )


def pipeline(teacher: Teacher, sizes: Sequence[int]) -> Pipeline:
    return Pipeline(
        student=None,  # type: ignore[arg-type]
        engine=Engine(sizes),
        teacher=teacher,
        supervise=supervise,
    )


def test_groups_hold_so_many_values() -> None:
    views = [Teacher(0).view(rollout_of(n, size)) for n, size in enumerate((3, 4, 1, 9, 2))]
    assert full_row_groups(views, 0) == [slice(0, 5)]
    many = 2**27 // 4
    # 3 and 1 tokens reach the limit of 4 at once, 9 alone are above it
    assert full_row_groups(views, many) == [slice(0, 1), slice(1, 2), slice(2, 3), slice(3, 4), slice(4, 5)]
    assert full_row_groups(views[:1] + views[2:], many) == [slice(0, 2), slice(2, 3), slice(3, 4)]
    assert full_row_groups([], many) == [slice(0, 0)]
    assert full_row_groups([None, views[0], None, views[2], None], many) == [slice(0, 5)]


@pytest.mark.parametrize("refused", [None, 0, 3])
def test_records_do_not_depend_on_the_groups(monkeypatch: pytest.MonkeyPatch, refused: int | None) -> None:
    sizes = (3, 4, 0, 1, 9, 2, 2)
    whole, parts = Teacher(0, refused), Teacher(VOCABULARY, refused)
    expected = pipeline(whole, sizes).records([], seed=0, step=1)
    monkeypatch.setattr(module, "FULL_ROW_VALUES", 5 * VOCABULARY)
    found = pipeline(parts, sizes).records([], seed=0, step=1)
    assert len(whole.calls) == 1 and len(parts.calls) > 2 and sum(parts.calls) == whole.calls[0]
    # Once a step, behind the last group
    assert whole.rests == [1] and parts.rests == [len(parts.calls)]
    # 21 tokens in all; at most 5, or the 9 of one response, at once
    assert whole.most_alive == 10 * (21 - (sizes[refused] if refused is not None else 0))
    assert parts.most_alive == 90
    for one, two in zip(expected, found, strict=True):
        assert one.rollout is not two.rollout and one.rollout.key == two.rollout.key
        assert one.supervision is not None and two.supervision is not None
        np.testing.assert_array_equal(one.supervision.credit, two.supervision.credit)
    assert [record.rollout.sample for record in found] == list(range(7))
    if refused is not None:
        assert found[refused].supervision is not None
        assert (found[refused].supervision.reason == DropReason.REFUSED).all()


def test_records_keep_scores_without_full_rows() -> None:
    (record,) = pipeline(Teacher(VOCABULARY), [2]).records([], seed=0, step=1)
    assert record.scores is not None and record.scores.full_logp is None
    assert record.scores.logp.tolist() == [-2.0, -2.0]
