"""The full half of an audit: figures of a few records by hand, and what is called a problem."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tiny
from dragoman.audit.offers import _supervised
from dragoman.audit.pair import _sampled
from dragoman.audit.pair_facts import Cost, PairAudit, Sampled, SideMass
from dragoman.audit.result import Severity
from dragoman.audit.run import run_audit
from dragoman.audit.verdict import pair_problems
from dragoman.config import load_config
from dragoman.methods import get_method, method_defaults
from dragoman.observe import Record
from dragoman.pipeline import refused
from dragoman.report.audit_pair_tables import pair_tables
from dragoman.supervise import CREDITS, SampledSettings
from dragoman.text import Tokenization
from dragoman.text.pair import PairTables
from dragoman.types import Prompt
from recorded import STUDENT, STUDENT_LOGP, TEACHER, record_of

NAN = float("nan")


PLAIN = SampledSettings(credit=CREDITS["chunk"])


def of_prompt(record: Record, key: str) -> Record:
    rollout = replace(record.rollout, prompt=Prompt(key=key, text="x"))
    view = None if record.view is None else replace(record.view, rollout_key=rollout.key)
    return replace(record, rollout=rollout, view=view)


@pytest.fixture
def records() -> list[Record]:
    """Prompt a: five tokens, stops of probability .5 and .1; and a turn of five that the teacher refuses.
    Prompt b: as the first, with stops of .3 and .3, and the teacher does not know the first chunk."""
    logp = STUDENT_LOGP[:-1]
    first = record_of(STUDENT, (*logp, math.log(0.5)), TEACHER, (-2.0, -1.0, math.log(0.1)), PLAIN)
    second = record_of(STUDENT, (*logp, math.log(0.3)), TEACHER, (NAN, -1.0, math.log(0.3)), PLAIN)
    lost = Record(rollout=replace(first.rollout, turn=1), supervision=refused(first.rollout), step=0)
    return [of_prompt(first, "a"), of_prompt(lost, "a"), of_prompt(second, "b")]


def test_what_is_claimed_is_what_the_evaluation_measures(records: list[Record]) -> None:
    found = _sampled(records)
    # a: 5 of 10 tokens; b: |Hel|lo| has no value, 3 of 5
    assert found.coverage == pytest.approx(8 / 15)
    assert found.coverage_interval == pytest.approx((0.5, 0.6))
    # three tokens of the teacher for five, where it has a view; both prompts alike
    assert found.inflation == pytest.approx(3 / 5)
    assert found.inflation_interval == pytest.approx((0.6, 0.6))
    # the student stops three times, with .5, .5 and .3; the teacher sees two of them, .1 and .3
    assert found.student_stop == pytest.approx(1.3 / 3)
    assert found.teacher_stop == pytest.approx(0.2)
    assert found.lost == {"non_finite": 2, "refused": 5}


def test_without_a_stop_there_is_no_probability_of_one() -> None:
    found = _sampled([record_of([b"a"], [-1.0], [b"a"], [-3.0], PLAIN)])
    assert (found.student_stop, found.teacher_stop) == (None, None)
    assert found.coverage == 1.0 and found.lost == {}


def pair_with(sampled: Sampled) -> PairAudit:
    mass = SideMass(shared=1.0, tail=0.0, num_positions=1, k=1)
    cost = Cost(
        rollouts=1,
        student_length=1,
        teacher_length=1,
        flops={},
        seconds={},
        memory_bytes={},
        available_bytes=1,
        speeds={},
    )
    return PairAudit(
        sampled=sampled, student_mass=mass, teacher_mass=mass, methods=(), self_test=(), cost=cost
    )


def test_the_measured_coverage_decides(records: list[Record]) -> None:
    """All that both sides write is comparable, yet nearly half of the tokens have no signal."""
    pair = pair_with(_sampled(records))
    assert pair.sampled.figures.coverage == 1.0
    assert pair_problems(pair, min_coverage=0.5, max_new_tokens=8) == ()
    (problem,) = pair_problems(pair, min_coverage=0.6, max_new_tokens=8)
    assert problem.severity is Severity.ERROR
    assert "53.3% of the student's tokens" in problem.what
    assert "non_finite 2" in problem.what and "refused 5" in problem.what
    rows = {row[0].text: row[1:] for row in pair_tables(pair)[0].rows}
    assert [cell.text for cell in rows["coverage"]] == ["53.3 %", "[50.0 %, 60.0 %]"]


@pytest.mark.parametrize(("name", "safe"), [("chunk", False), ("sft", True)])
def test_answers_that_are_only_imitated_need_no_coverage(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, safe: bool
) -> None:
    monkeypatch.setattr("dragoman.audit.pair.audit_pair", lambda *a, **k: pair_with(_sampled(records)))
    plain: Mapping[str, Any] = {
        "student": {"model": str(tiny.byte_level(tmp_path / "s"))},
        "teacher": {"model": str(tiny.sentencepiece(tmp_path / "t"))},
        "data": {"train": "x"},
        "train": {"steps": 1, "min_coverage": 0.9},
        "method": {"name": name},
    }
    assert run_audit(load_config(plain, [], method_defaults)).safe is safe


def test_refused_turns_are_tokens_a_method_would_not_train_on(records: list[Record], tmp_path: Path) -> None:
    sides = [Tokenization.from_pretrained(str(tiny.byte_level(tmp_path / name))) for name in "st"]
    plain: Mapping[str, Any] = {
        "student": {"model": "s"},
        "teacher": {"model": "t"},
        "data": {"train": "x"},
        "train": {"steps": 1},
    }
    config = load_config(plain, [], method_defaults)
    supervised, dropped = _supervised(config, get_method("chunk"), records, PairTables(*sides))
    assert supervised == pytest.approx(8 / 15)
    assert dropped == {"refused": 5, "non_finite": 2}
