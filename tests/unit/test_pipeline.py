"""A teacher whose template refuses a conversation: an error in a first turn, counted in a later one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from dragoman.errors import RenderError
from dragoman.evaluate import measure
from dragoman.pipeline import Pipeline
from dragoman.rollout import Request
from dragoman.supervise import CREDITS, SampledSettings, supervise_sampled
from dragoman.train.collate import collate
from dragoman.types import (
    DropReason,
    Prompt,
    Rollout,
    TeacherCaps,
    TeacherLevel,
    TeacherScores,
    TeacherView,
    TokenText,
)

TEXT = TokenText(
    ids=np.array([3, 4]),
    data=b"ab",
    bounds=np.array([0, 1, 2]),
    event=np.zeros(2, np.uint8),
    canonical=np.ones(2, bool),
)
FIRST = Rollout(
    prompt=Prompt(key="p", text="Say it."),
    sample=0,
    context_ids=np.array([1]),
    completion=TEXT,
    behaviour_logp=np.array([-1.0, -1.0], np.float32),
)


class Engine:
    def __init__(self, *rollouts: Rollout) -> None:
        self._found = list(rollouts)

    def rollouts(self, requests: Sequence[Request], *, seed: int, step: int) -> list[Rollout]:
        return self._found


class Refusing:
    """Refuses the turns it is told to; gives every token -0.5 nats."""

    name = "refusing"
    caps = TeacherCaps(level=TeacherLevel.REALISED, generates=False)

    def __init__(self, turn: int) -> None:
        self._turn = turn

    def view(self, rollout: Rollout) -> TeacherView:
        if rollout.turn == self._turn:
            raise RenderError("one call at a time")
        return TeacherView(
            rollout_key=rollout.key, teacher=self.name, ids=np.array([1, 3, 4]), start=1, completion=TEXT
        )

    def score(self, views: Sequence[TeacherView]) -> list[TeacherScores]:
        one = TeacherScores(logp=np.array([-0.5, -0.5], np.float32), missing=np.zeros(2, np.uint8))
        return [one] * len(views)


def pipeline(refused_turn: int) -> Pipeline:
    settings = SampledSettings(credit=CREDITS["chunk"])
    return Pipeline(
        student=None,  # type: ignore[arg-type]
        engine=Engine(replace(FIRST, turn=1), FIRST),
        teacher=Refusing(refused_turn),
        supervise=lambda rollout, scores, alignment: supervise_sampled(rollout, scores, alignment, settings),
    )


def test_a_refused_later_turn_is_counted() -> None:
    refused, kept = pipeline(1).records([], seed=0, step=1)
    assert refused.view is None and refused.supervision is not None and kept.supervision is not None
    assert refused.supervision.dropped == {"refused": 2} and kept.supervision.dropped == {}
    # t - p = -0.5 + 1
    assert kept.supervision.credit is not None and kept.supervision.credit.tolist() == [0.5, 0.5]
    assert measure(refused).values()["dropped/refused"] == 1.0
    batch = collate([refused, kept], "token")
    assert batch.credit is not None and batch.row.tolist() == [1, 1]
    assert DropReason.REFUSED.label == "refused"


def test_a_refused_first_turn_is_an_error() -> None:
    with pytest.raises(RenderError, match="one call at a time"):
        pipeline(0).records([], seed=0, step=1)
