"""`compass` credits against two references, and credits joined with rows, on one hand-made response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from dragoman.alignment import align
from dragoman.config import MethodConfig
from dragoman.supervise.compass import supervise_compass
from dragoman.supervise.mixed import joined
from dragoman.types import (
    DropReason,
    Event,
    Prompt,
    Rollout,
    RowLabel,
    Rows,
    Supervision,
    TeacherScores,
)
from naive import token_text

NAN = float("nan")

# |Hel|lo| wor|stop| meets |Hello| wor|stop|: chunks 2:1, 1:1, event.
STUDENT = (b"Hel", b"lo", b" wor", Event.STOP)
TEACHER = (b"Hello", b" wor", Event.STOP)
BEFORE = (-1.5, -2.5, -0.5, -3.0)
SMALLER = (-3.0, -1.0, -2.0)


def credited(
    before: Sequence[float] | None = BEFORE,
    smaller: Sequence[float] | None = SMALLER,
    config: MethodConfig | None = None,
    canonical: Sequence[bool] = (True,) * 4,
) -> Supervision:
    text = replace(token_text(STUDENT), canonical=np.array(canonical))
    rollout = Rollout(
        prompt=Prompt(key="p", text="x"),
        sample=0,
        context_ids=np.array([7]),
        completion=text,
        behaviour_logp=np.array([-1.0, -2.0, -0.5, -4.0], np.float32),
        reference_logp=None if before is None else np.array(before, np.float32),
    )
    scores = TeacherScores(
        logp=np.array([-2.0, -1.0, -1.5], np.float32),
        missing=np.zeros(3, np.uint8),
        reference_logp=None if smaller is None else np.array(smaller, np.float32),
    )
    alignment = align(text, token_text(TEACHER))
    return supervise_compass(rollout, scores, alignment, config or MethodConfig())


def test_credits_by_hand() -> None:
    # |Hello|: (-2 + 3) - .5 (-3 + 4) = .5; | wor|: (-1 + 1) - .5 (0) = 0; stop: (-1.5 + 2) - .5 (-4 + 3) = 1
    found = credited()
    assert found.credit is not None
    assert found.credit.tolist() == [0.5, 0.5, 0.0, 1.0]
    assert found.weight.tolist() == [1.0] * 4


def test_alpha() -> None:
    # alpha 0: the teacher's change alone; alpha 1: all of the student's own is taken off.
    for alpha, expected in ((0.0, [1.0, 1.0, 0.0, 0.5]), (1.0, [0.0, 0.0, 0.0, 1.5])):
        found = credited(config=MethodConfig(reference_alpha=alpha))
        assert found.credit is not None
        assert found.credit.tolist() == expected


def test_guard_and_clamp_are_those_of_every_credit() -> None:
    config = MethodConfig(guard="penalty", guard_penalty=3.0, clamp=0.75)
    found = credited(config=config, canonical=(True, False, True, True))
    assert found.credit is not None
    assert found.credit.tolist() == [-3.0, -3.0, 0.0, 0.75]
    assert found.num_clamped == 1


@pytest.mark.parametrize(
    ("before", "smaller"),
    [((NAN, -2.5, -0.5, -3.0), SMALLER), (BEFORE, (NAN, -1.0, -2.0))],
    ids=["student", "teacher"],
)
def test_a_gap_of_a_reference_costs_its_chunk(before: Sequence[float], smaller: Sequence[float]) -> None:
    found = credited(before, smaller)
    assert found.credit is not None
    assert found.credit.tolist() == [0.0, 0.0, 0.0, 1.0]
    assert found.dropped == {"non_finite": 2}


def test_behind_the_end_of_a_references_context() -> None:
    found = credited(smaller=(-3.0, NAN, NAN))
    assert found.credit is not None
    assert found.credit.tolist() == [0.5, 0.5, 0.0, 0.0]
    assert found.dropped == {"teacher_context": 2}


@pytest.mark.parametrize("lacking", ["before", "smaller"])
def test_a_reference_that_was_not_asked(lacking: str) -> None:
    with pytest.raises(ValueError, match=r"set teacher\.reference\.model"):
        credited(**{lacking: None})


def test_credits_and_rows_together() -> None:
    # Token 0 has both, 1 a credit alone, 2 a row alone, 3 neither: the credit's reason remains.
    long, none = DropReason.CHUNK_TOO_LONG, DropReason.NONE
    credit = Supervision(
        weight=np.array([1, 1, 0, 0], np.float32),
        reason=np.array([none, none, long, long], np.uint8),
        chunk_of=np.arange(4),
        credit=np.array([0.5, -0.5, 0.0, 0.0], np.float32),
        num_clamped=1,
    )
    rows = Rows(
        bounds=np.array([0, 1, 1, 2, 2]),
        ids=np.array([5, 6]),
        logp=np.zeros(2, np.float32),
        residual=np.zeros(4, np.float32),
        label=np.array([RowLabel.EXACT, 0, RowLabel.EXACT, 0], np.uint8),
    )
    no_row = DropReason.NO_ROW
    by_row = Supervision(
        weight=np.array([1, 0, 1, 0], np.float32),
        reason=np.array([none, no_row, none, no_row], np.uint8),
        chunk_of=np.arange(4),
        credit=None,
        rows=rows,
    )
    found = joined(credit, by_row)
    assert found.weight.tolist() == [1, 1, 1, 0]
    assert found.credit is not None
    assert found.credit.tolist() == [0.5, -0.5, 0.0, 0.0]
    assert found.dropped == {"chunk_too_long": 1}
    assert found.rows is rows
    assert found.num_clamped == 1
