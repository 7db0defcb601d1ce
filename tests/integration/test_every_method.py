"""Every method trains: one step of each on tiny models, through the loop of any run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from dragoman.api import Distillation
from dragoman.config import Config
from dragoman.methods import Writer, get_method, methods
from dragoman.observe import read_records
from dragoman.pipeline import Pipeline
from dragoman.rollout import Request
from dragoman.train.setup import build_session
from dragoman.types import Rollout, TeacherView

Run = Callable[..., Distillation]
ReadMetrics = Callable[[Path], list[dict[str, Any]]]
Refused = Callable[..., Any]
Settings = Callable[..., Config]

ONE_STEP = {"train.steps": 1, "train.prompts_per_step": 2, "eval.samples": 1, "data.heldout_limit": 1}


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Further models: one with the student's tokenizer, one with the teacher's, in weights of their own."""
    place = tmp_path_factory.mktemp("family")
    return {
        "student": tiny.byte_level_model(place / "student", seed=3),
        "teacher": tiny.sentencepiece_model(place / "teacher", seed=4),
    }


def settings(name: str, family: Mapping[str, Path]) -> dict[str, Any]:
    """What a method needs to run at all."""
    method = get_method(name)
    changes = {"method.name": name, **ONE_STEP}
    if method.equal_tokenizers:
        changes["teacher.model"] = str(family["student"])
    if name == "compass":
        changes["teacher.reference.model"] = str(family["teacher"])
    return changes


@pytest.mark.parametrize("name", list(methods()))
def test_a_step_of_every_method(
    name: str, run: Run, family: Mapping[str, Path], metrics: ReadMetrics
) -> None:
    found = run(changes=settings(name, family))
    (step,) = [line for line in metrics(found.path) if line["phase"] == "train"]
    assert step["supervised_rate"] > 0
    assert np.isfinite(step["loss"])
    assert step["grad_norm"] > 0
    records = list(read_records(found.path / "rollouts" / "step-000001.jsonl"))
    assert records
    scored = get_method(name).writer is Writer.STUDENT
    assert all((record.scores is not None) == scored for record in records)


@pytest.mark.parametrize("name", ["chunk", "bpm", "shared", "mixed", "simct", "xtoken", "uld", "gold", "alm"])
def test_a_refused_response_alone_in_a_micro_batch(
    name: str,
    run: Run,
    family: Mapping[str, Path],
    metrics: ReadMetrics,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A teacher's template that refuses a conversation leaves a response without anything to train on."""
    view = Pipeline._view

    def refuse_one(self: Pipeline, rollout: Rollout) -> TeacherView | None:
        return None if rollout.key == first else view(self, rollout)

    rollouts = run("all", settings(name, family)).path / "rollouts" / "step-000001.jsonl"
    first = next(iter(read_records(rollouts))).rollout.key
    monkeypatch.setattr(Pipeline, "_view", refuse_one)
    found = run("one", settings(name, family) | {"train.micro_batch_tokens": 1, "data.heldout": None})
    (step,) = [line for line in metrics(found.path) if line["phase"] == "train"]
    assert 0 < step["dropped/refused"] < 1
    assert np.isfinite(step["loss"]) and step["grad_norm"] > 0


# --- models beside the two


def test_an_evaluation_does_not_ask_the_reference(run: Run, family: Mapping[str, Path]) -> None:
    spent = [
        run(name, settings(name, family) | {"train.lr": 1e-30}).summary["flops"]
        for name in ("chunk", "compass")
    ]
    assert spent[0]["eval"] == spent[1]["eval"] > 0
    assert spent[0]["teacher"] < spent[1]["teacher"]


def test_penalty_towards_the_student_before_training(
    run: Run, family: Mapping[str, Path], metrics: ReadMetrics
) -> None:
    """Before the first update there is no distance to the reference; behind it there is."""
    changes = {"train.steps": 2, "method.reference_kl": 0.5, "train.lr": 1e-2}
    found = run(changes=changes)
    first, second = [line for line in metrics(found.path) if line["phase"] == "train"]
    assert first["reference_kl"] == pytest.approx(0.0, abs=1e-9)
    assert second["reference_kl"] > 1e-6
    for step in (1, 2):
        for record in read_records(found.path / "rollouts" / f"step-{step:06d}.jsonl"):
            rollout = record.rollout
            assert rollout.behaviour_logp is not None
            assert rollout.reference_logp is not None
            moved = np.abs(rollout.behaviour_logp - rollout.reference_logp).max()
            assert (moved < 1e-5) == (step == 1)


def test_adapters_are_switched_off_for_the_reference(configured: Settings, tmp_path: Path) -> None:
    """The reference of a student with adapters is the model under them, in the very same weights."""
    config = configured({"student.lora": {"r": 4}, "method.reference_kl": 0.5})
    session = build_session(config, tmp_path / "run")
    reference = session.pipeline.reference
    assert reference is not None
    request = [Request(prompt=session.prompts[0], sample=0)]
    rollouts = session.pipeline.engine.rollouts(request, seed=0, step=1)
    before = reference.scored(rollouts)[0].reference_logp
    with torch.no_grad():
        for name, weight in session.model.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.5)
    after = reference.scored(rollouts)[0].reference_logp
    assert before is not None
    np.testing.assert_array_equal(before, after)
    now = session.pipeline.engine.rollouts(request, seed=0, step=1)[0]
    assert now.behaviour_logp is not None
    assert rollouts[0].behaviour_logp is not None
    assert not np.allclose(now.behaviour_logp[0], rollouts[0].behaviour_logp[0], atol=1e-3)


def test_the_teachers_reference_scores_the_same_tokens(run: Run, family: Mapping[str, Path]) -> None:
    """A reference equal to the teacher gives the teacher's values, another one others."""
    for reference, equal in ((None, True), (family["teacher"], False)):
        changes = settings("compass", family)
        if reference is None:
            changes["teacher.reference.model"] = changes["teacher.model"] = str(family["teacher"])
        found = run(f"equal-{equal}", changes)
        for record in read_records(found.path / "rollouts" / "step-000001.jsonl"):
            assert record.scores is not None
            assert record.scores.reference_logp is not None
            close = np.allclose(record.scores.logp, record.scores.reference_logp, atol=1e-5)
            assert close == equal


def test_a_reference_with_other_ids(refused: Refused, family: Mapping[str, Path]) -> None:
    changes = {"method.name": "compass", "teacher.reference.model": str(family["student"])}
    code, message = refused(changes)
    assert code == 2
    assert f"teacher.reference {str(family['student'])!r} has other token ids than the teacher" in message


def test_a_reference_that_nothing_asks_for(refused: Refused, family: Mapping[str, Path]) -> None:
    code, message = refused({"teacher.reference.model": str(family["teacher"])})
    assert code == 2
    assert f"teacher.reference is {str(family['teacher'])!r}, which method 'span' would ignore" in message


def test_compass_without_a_reference(refused: Refused) -> None:
    code, message = refused({"method.name": "compass"})
    assert code == 2
    assert "needs a teacher of level 3 (reference)" in message
    assert "teacher.reference.model" in message


def test_gkd_of_unequal_tokenizers(refused: Refused) -> None:
    code, message = refused({"method.name": "gkd"})
    assert code == 2
    assert "'gkd' compares distributions id by id" in message


def test_rows_of_a_teacher_without_likely_tokens(refused: Refused) -> None:
    code, message = refused({"method.name": "retok", "teacher.topk": 0})
    assert code == 2
    assert "needs a teacher of level 1 (topk), but" in message
    assert "set teacher.topk=128" in message
