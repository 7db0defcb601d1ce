"""Units of `alm` and `simct`: which chunks are one, and what stands at their start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from dragoman.alignment import align
from dragoman.config import MethodConfig
from dragoman.errors import ConfigError
from dragoman.supervise.units import build_alm, build_simct
from dragoman.types import DropReason, Prompt, Rollout, Supervision, TeacherScores, TokenText
from letters import STUDENT, TABLES, TEACHER, ids_of, scores_of

OFF = MethodConfig(guard="off")
ROW = {"abcd": 0.4, "ab": 0.3, "c": 0.2, "a": 0.1}
STOP = {"<stop>": 0.5, "a": 0.5}
# |ab|cd|c|stop| meets |abcd|c|stop|: a unit of two student tokens, then two of one
OURS = ids_of(STUDENT, "ab", "cd", "c", "<stop>")
THEIRS = ids_of(TEACHER, "abcd", "c", "<stop>")
SCORES = scores_of(THEIRS, [ROW, {"c": 0.25, "cd": 0.75}, STOP])


def rollout_of(text: TokenText, logp: Sequence[float] | None = None) -> Rollout:
    return Rollout(
        prompt=Prompt(key="p", text="x"),
        sample=0,
        context_ids=np.array([1]),
        completion=text,
        behaviour_logp=None if logp is None else np.array(logp, np.float32),
    )


def missing_at(scores: TeacherScores, index: int) -> TeacherScores:
    logp, missing = scores.logp.copy(), scores.missing.copy()
    logp[index], missing[index] = np.nan, DropReason.NON_FINITE
    return replace(scores, logp=logp, missing=missing)


def alm(scores: TeacherScores = SCORES, ours: TokenText = OURS, config: MethodConfig = OFF) -> Supervision:
    return build_alm(TABLES, config)(rollout_of(ours), scores, align(ours, THEIRS))


def simct(scores: TeacherScores = SCORES, ours: TokenText = OURS, config: MethodConfig = OFF) -> Supervision:
    return build_simct(TABLES, config)(rollout_of(ours), scores, align(ours, THEIRS))


def row(supervision: Supervision, index: int) -> dict[str, float]:
    """The candidates of a row and their mass."""
    rows = supervision.rows
    assert rows is not None
    inside = slice(*rows.bounds[index : index + 2].tolist())
    names = [STUDENT.token_name(i) for i in rows.ids[inside].tolist()]
    return dict(zip(names, np.exp(rows.logp[inside]).tolist(), strict=True))


@pytest.mark.parametrize("supervise", [alm, simct])
def test_every_comparable_chunk_is_a_unit(supervise: Callable[..., Supervision]) -> None:
    found = supervise()
    assert found.units is not None
    assert found.units.unit_of.tolist() == [0, 0, 1, 2]
    assert found.units.teacher_logp == pytest.approx(np.log([0.4, 0.25, 0.5]), rel=1e-6)
    assert found.units.num_teacher.tolist() == [1, 1, 1]
    assert (found.credit, found.weight.tolist(), found.dropped) == (None, [1.0] * 4, {})


def test_teacher_tokens_of_a_unit_are_counted() -> None:
    # |ab| meets |a|b|: log .1 + log .5
    ours, theirs = ids_of(STUDENT, "ab"), ids_of(TEACHER, "a", "b")
    scores = scores_of(theirs, [ROW, {"b": 0.5, "c": 0.5}])
    found = build_alm(TABLES, OFF)(rollout_of(ours), scores, align(ours, theirs)).units
    assert found is not None
    assert (found.num_teacher.tolist(), found.teacher_logp.tolist()) == ([2], [pytest.approx(np.log(0.05))])


@pytest.mark.parametrize("supervise", [alm, simct])
def test_a_missing_value_costs_its_unit(supervise: Callable[..., Supervision]) -> None:
    found = supervise(missing_at(SCORES, 0))
    assert found.units is not None
    assert found.units.unit_of.tolist() == [-1, -1, 0, 1]
    assert found.units.teacher_logp == pytest.approx(np.log([0.25, 0.5]), rel=1e-6)
    assert found.weight.tolist() == [0.0, 0.0, 1.0, 1.0]
    assert found.dropped == {"non_finite": 2}


@pytest.mark.parametrize("supervise", [alm, simct])
def test_odd_units_under_a_guard(supervise: Callable[..., Supervision]) -> None:
    odd = ids_of(STUDENT, "a", "b", "cd", "c", "<stop>")
    # of "abcdc" the student's own tokens are |ab|cd|c|, so "cd" is canonical, but its chunk is not
    masked = supervise(ours=odd, config=MethodConfig(guard="mask"))
    assert masked.units is not None
    assert masked.units.unit_of.tolist() == [-1, -1, -1, 0, 1]
    assert masked.dropped == {"non_canonical": 3}
    kept = supervise(ours=odd)
    assert kept.units is not None
    assert kept.units.unit_of.tolist() == [0, 0, 0, 1, 2]


@pytest.mark.parametrize("build", [build_alm, build_simct])
def test_units_have_no_credit_to_penalise(build: Callable[..., object]) -> None:
    with pytest.raises(ConfigError, match=r"set method.guard to 'mask' or 'off'"):
        build(TABLES, MethodConfig(guard="penalty"))


def test_simct_has_the_shared_tokens_at_the_start_of_every_unit() -> None:
    found = simct()
    assert found.rows is not None
    # abcd is no student token: its .4 is the residual, and the unit itself stands for it
    assert row(found, 0) == pytest.approx({"ab": 0.3, "c": 0.2, "a": 0.1}, rel=1e-5)
    assert found.rows.residual[0] == pytest.approx(0.4, rel=1e-5)
    assert found.rows.has_row.tolist() == [True, False, True, True]
    assert row(found, 2) == pytest.approx({"c": 0.25, "cd": 0.75}, rel=1e-5)
    assert row(found, 3) == pytest.approx({"<stop>": 0.5, "a": 0.5}, rel=1e-5)


def test_simct_keeps_the_largest_candidates() -> None:
    assert set(row(simct(config=MethodConfig(guard="off", row_topk=1)), 2)) == {"c"}  # the sampled token
    assert set(row(simct(config=MethodConfig(guard="off", row_topk=2)), 2)) == {"c", "cd"}


def test_simct_needs_rows() -> None:
    with pytest.raises(ValueError, match=r"need teacher.topk"):
        simct(replace(SCORES, full_logp=None))


def test_alm_needs_realised_values_alone() -> None:
    bare = replace(SCORES, full_logp=None, tokens=None)
    assert alm(bare).weight.tolist() == [1.0] * 4


@pytest.mark.parametrize("supervise", [alm, simct])
def test_axes_that_do_not_fit(supervise: Callable[..., Supervision]) -> None:
    with pytest.raises(ValueError, match="but its alignment covers"):
        supervise(scores_of(ids_of(TEACHER, "abcd"), [ROW]))
