"""Figures of how responses end, of normalised chunks and of the teacher's share of tokens, by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from dragoman.evaluate import measure
from dragoman.observe import Ratio, Record
from dragoman.pipeline import refused
from dragoman.supervise import supervise_answer
from dragoman.types import ChunkKind, StopReason
from recorded import STUDENT, STUDENT_LOGP, TEACHER, TEACHER_LOGP, record_of

NAN = float("nan")


def logs(probabilities: Sequence[float]) -> np.ndarray:
    """Float32 logarithms; that of 0 is -inf."""
    return np.array([math.log(p) if p else -math.inf for p in probabilities], np.float32)


def with_stop_masses(record: Record, student: Sequence[float], teacher: Sequence[float]) -> Record:
    assert record.scores is not None
    rollout = replace(record.rollout, stop_logp=logs(student))
    scores = replace(record.scores, stop_logp=logs(teacher))
    return replace(record, rollout=rollout, scores=scores)


def test_stop_probabilities_by_hand() -> None:
    record = record_of(STUDENT, (*STUDENT_LOGP[:-1], math.log(0.5)), TEACHER, (-2.0, -1.0, math.log(0.25)))
    record = with_stop_masses(record, (0.1, 0.2, 0.3, 0.4, 0.5), (0.1, NAN, 0.25))
    values = measure(record).values()
    assert values["stop_probability/student"] == pytest.approx(0.5)
    assert values["stop_probability/teacher"] == pytest.approx(0.25)
    # Before the stop the student was at 0.1 to 0.4; the teacher's second place is not known
    assert values["stop_mass/student"] == pytest.approx(0.25)
    assert values["stop_mass/teacher"] == pytest.approx(0.1)
    assert measure(record).ratios["stop_mass/student"].denominator == 4
    assert measure(record).ratios["stop_mass/teacher"].denominator == 1


def test_a_response_that_goes_on_has_no_stop_probability() -> None:
    record = with_stop_masses(record_of([b"a"], [-1.0], [b"a"], [-3.0]), [0.5], [0.0])
    ratios = measure(record).ratios
    assert ratios["stop_probability/student"] == ratios["stop_probability/teacher"] == Ratio(0.0, 0)
    # An impossible stop counts as 0, and every place counts
    assert ratios["stop_mass/student"].value == pytest.approx(0.5)
    assert ratios["stop_mass/teacher"] == Ratio(0.0, 1)


def test_a_teacher_whose_context_ended_before_the_stop() -> None:
    ratios = measure(record_of(STUDENT, STUDENT_LOGP, TEACHER, (-2.0, -1.0, NAN))).ratios
    assert ratios["stop_probability/teacher"] == Ratio(0.0, 0)
    assert ratios["stop_probability/student"].denominator == 1
    assert "stop_mass/teacher" not in ratios


def test_a_teacher_that_is_not_shown_the_stop_has_no_probability_of_it() -> None:
    """What follows a call that was dropped is dropped with it: the teacher's last token is no stop."""
    record = record_of(STUDENT, STUDENT_LOGP, TEACHER[:-1], (-2.0, -1.0))
    ratios = measure(with_stop_masses(record, (0.1, 0.2, 0.3, 0.4, 0.5), (0.1, 0.3))).ratios
    assert ratios["stop_probability/teacher"] == Ratio(0.0, 0)
    assert ratios["stop_probability/student"].denominator == 1
    # it went on at both of its places: (.1 + .3) / 2
    assert ratios["stop_mass/teacher"].denominator == 2
    assert ratios["stop_mass/teacher"].value == pytest.approx(0.2)
    assert ratios["stop_mass/student"].denominator == 4


def test_a_turn_the_teacher_refuses_counts_against_coverage() -> None:
    good = record_of(STUDENT, STUDENT_LOGP, TEACHER, TEACHER_LOGP)
    lost = Record(rollout=good.rollout, supervision=refused(good.rollout), step=1)
    assert measure(lost).ratios["coverage"] == Ratio(0, 5)
    # five tokens with a signal and five without
    assert measure(good).merge(measure(lost)).values()["coverage"] == 0.5
    assert "kl_per_byte" not in measure(lost).ratios


def test_answers_that_are_not_scored_have_no_coverage() -> None:
    rollout = replace(record_of(STUDENT, STUDENT_LOGP, TEACHER, TEACHER_LOGP).rollout, behaviour_logp=None)
    answer = Record(rollout=rollout, supervision=supervise_answer(rollout), step=1)
    assert "coverage" not in measure(answer).ratios


@pytest.mark.parametrize("reason", list(StopReason))
def test_ways_to_end(reason: StopReason) -> None:
    record = record_of([b"a"], [-1.0], [b"a"], [-3.0])
    ratios = measure(replace(record, rollout=replace(record.rollout, stop=reason))).ratios
    ended = {name: ratio.value for name, ratio in ratios.items() if name.startswith("ended/")}
    assert ended == {f"ended/{one.value}": float(one is reason) for one in StopReason}
    assert ratios["stop_rate"] == Ratio(float(reason is StopReason.STOP), 1)


def test_normalised_tokens_and_inflation() -> None:
    record = record_of(STUDENT, STUDENT_LOGP, TEACHER, TEACHER_LOGP)
    assert record.alignment is not None
    kind = np.array([ChunkKind.NORMALISED, *record.alignment.kind[1:]], np.uint8)
    ratios = measure(replace(record, alignment=replace(record.alignment, kind=kind))).ratios
    # |Hel|lo| of five student tokens; three teacher tokens to these five
    assert ratios["normalised_rate"] == Ratio(2, 5)
    assert ratios["token_inflation"] == Ratio(3, 5)
    assert ratios["coverage"] == Ratio(5, 5)
