"""What a step would cost: who is charged for what, memory by parts, and how time is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import shaped
import tiny
from dragoman.audit import cost
from dragoman.audit.cost import Update, estimate_cost, time_update
from dragoman.audit.pair_facts import Cost
from dragoman.config import StudentConfig, TeacherConfig, load_config
from dragoman.methods import method_defaults
from dragoman.models import load_model, model_size
from dragoman.models.columns import VALUES
from dragoman.models.flops import pass_flops, student_lengths, teacher_lengths
from dragoman.observe import Record
from dragoman.pipeline import refused
from dragoman.rollout import Request, Sampler, Sampling
from dragoman.types import Prompt
from recorded import STUDENT, STUDENT_LOGP, TEACHER, TEACHER_LOGP, record_of
from sides import student as student_side

LONGEST = 30
Models = tuple[Any, Any]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("cost")
    return (
        load_model(StudentConfig(model=str(tiny.byte_level_model(folder / "student")))),
        load_model(TeacherConfig(model=str(tiny.sentencepiece_model(folder / "teacher")))),
    )


def estimated(models: Models, *settings: str) -> Cost:
    """Of two rollouts a step, from one record: six student tokens and four of the teacher, one of each
    context; the stages took 2 s, 4 s and 8 s."""
    tree = {
        "student": {"model": "s"},
        "teacher": {"model": "t"},
        "data": {"train": "x"},
        "train": {"steps": 1, "prompts_per_step": 2},
        "rollout": {"max_new_tokens": LONGEST},
    }
    none = np.zeros((0, 1))
    update = Update(seconds=8.0, lengths=np.array([6]), topk_ids=none, topk_logp=none)
    return estimate_cost(
        load_config(tree, settings, method_defaults),
        models,
        [record_of(STUDENT, STUDENT_LOGP, TEACHER, TEACHER_LOGP)],
        {"rollout": 2.0, "teacher": 4.0},
        update,
        inflation=0.6,
    )


def test_passes_by_hand(models: Models) -> None:
    size = model_size(models[0])
    dense, wide = size.num_parameters, size.num_layers * size.hidden_size
    # 2 N sum L + 2 n d sum L^2 for lengths 3 and 4
    assert pass_flops(size, np.array([3, 4])) == 2 * dense * 7 + 2 * wide * 25
    assert pass_flops(size, np.array([3, 4]), backward=True) == 3 * pass_flops(size, np.array([3, 4]))
    good = record_of(STUDENT, STUDENT_LOGP, TEACHER, TEACHER_LOGP)
    lost = Record(rollout=good.rollout, supervision=refused(good.rollout), step=0)
    assert student_lengths([good, lost]).tolist() == [6, 6]
    assert teacher_lengths([good, lost]).tolist() == [4]


def test_the_student_writes_and_the_teacher_scores(models: Models) -> None:
    student, teacher = map(model_size, models)
    found = estimated(models)
    assert (found.student_length, found.teacher_length) == (31, 19)  # 1 + 30 and 1 + 30 * 0.6
    assert found.flops == {
        "rollout": pass_flops(student, np.array([31, 31])),
        "teacher": pass_flops(teacher, np.array([19, 19])),
        "update": 3 * pass_flops(student, np.array([31, 31])),
    }
    assert found.speeds["rollout"] == pass_flops(student, np.array([6])) / 2
    assert found.seconds["teacher"] == pytest.approx(
        4 * found.flops["teacher"] / pass_flops(teacher, np.array([4]))
    )


def test_an_answer_of_the_teacher_is_written_by_it_and_not_scored(models: Models) -> None:
    student, teacher = map(model_size, models)
    found = estimated(models, "method.name=sft")
    # thirty tokens are now the teacher's; of the student's these are 30 / 0.6
    assert (found.student_length, found.teacher_length) == (51, 31)
    assert found.flops == {
        "rollout": pass_flops(teacher, np.array([31, 31])),
        "teacher": 0,
        "update": 3 * pass_flops(student, np.array([51, 51])),
    }
    assert found.seconds["teacher"] == 0


def test_replayed_rollouts_cost_no_sampling(models: Models) -> None:
    found = estimated(models, "rollout.engine=replay", "rollout.replay=somewhere")
    assert (found.flops["rollout"], found.seconds["rollout"]) == (0, 0)
    assert found.flops["teacher"] == estimated(models).flops["teacher"] > 0


def test_logits_of_a_slice_or_of_the_whole_batch(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabularies = [model.get_output_embeddings().weight.shape[0] for model in models]
    slices = ("train.logit_slice=5", "teacher.logit_slice=7")
    # one float32 buffer of the larger slice; the teacher's are few enough to exist at once
    plain = [4 * 5 * vocabularies[0], 4 * 7 * vocabularies[1]]
    assert estimated(models, *slices).memory_bytes["logits"] == max(plain)
    # a second one of the student's with rows; whole distributions are made when that of the pass is gone
    rows = (*slices, "method.name=bpm", "teacher.topk=8")
    assert estimated(models, *rows).memory_bytes["logits"] == max(2 * plain[0], plain[1])
    full = (*slices, "teacher.topk=all")
    assert estimated(models, *full).memory_bytes["logits"] == max(2 * plain[0], plain[1])

    # all 2 x 31 tokens of the student's batch, five times in its float32, besides the slice
    monkeypatch.setattr(models[0].config, "final_logit_softcapping", 30.0, raising=False)
    whole = 5 * 4 * 62 * vocabularies[0] + 2 * 4 * 5 * vocabularies[0]
    assert estimated(models, *slices).memory_bytes["logits"] == whole
    # no more than a micro-batch of 40
    whole = 5 * 4 * 40 * vocabularies[0] + 2 * 4 * 5 * vocabularies[0]
    assert estimated(models, *slices, "train.micro_batch_tokens=40").memory_bytes["logits"] == whole


def test_a_teacher_makes_some_columns_at_a_time(models: Models) -> None:
    size = models[1].get_output_embeddings().weight.shape[0]
    large = ("train.logit_slice=1", "teacher.logit_slice=100000")
    assert estimated(models, *large).memory_bytes["logits"] == 4 * VALUES["cpu"]
    rows = (*large, "method.name=bpm", "teacher.topk=9")
    assert estimated(models, *rows).memory_bytes["logits"] == 4 * 100_000 * size


def test_logits_of_a_teacher_without_a_plain_head(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    size = models[1].get_output_embeddings().weight.shape[0]
    monkeypatch.setattr(models[1].config, "final_logit_softcapping", 30.0, raising=False)
    # 2 x 19 tokens, three times as nothing is kept for a gradient, and two copies of 38 positions' slice
    found = estimated(models, "teacher.logit_slice=512", "train.logit_slice=1")
    assert found.memory_bytes["logits"] == 3 * 4 * 38 * size + 2 * 4 * 512 * size


def test_logits_of_a_scaled_head(models: Models) -> None:
    scaled = shaped.make("granite", 60)
    settings = ("train.logit_slice=512", "teacher.logit_slice=512")
    # made again for a gradient, a slice at a time; without one they are scaled in place
    found = estimated((scaled, models[1]), *settings, "teacher.logit_slice=1")
    assert found.memory_bytes["logits"] == 3 * 4 * 512 * 60
    found = estimated((models[0], scaled), *settings, "train.logit_slice=1")
    assert found.memory_bytes["logits"] == 4 * 512 * 60


def test_time_is_taken_when_the_device_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    cost.seconds_when_done(torch.device("cpu"))
    assert waited == []
    cost.seconds_when_done(torch.device("cuda"))
    assert waited == [torch.device("cuda")]


def test_an_update_is_timed_by_that_clock_and_changes_nothing(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = student_side(tiny.byte_level(tmp_path / "student"))
    sampler = Sampler(models[0], side, Sampling(max_new_tokens=3, batch_size=1))
    request = Request(prompt=Prompt(key="p", text="Hello"), sample=0)
    (rollout,) = sampler.rollouts([request], seed=0, step=0)
    clock = iter([10.0, 12.5])
    monkeypatch.setattr(cost, "seconds_when_done", lambda device: next(clock))
    before = {name: value.clone() for name, value in models[0].named_parameters()}
    found = time_update(models[0], sorted(side.tokenization.stop_ids), [Record(rollout=rollout, step=0)], 8)
    assert found.seconds == 2.5
    assert found.lengths.tolist() == [len(rollout.context_ids) + len(rollout.completion)]
    assert all(torch.equal(before[name], value) for name, value in models[0].named_parameters())
    assert all(value.grad is None for value in models[0].parameters())
