"""Whole distributions of the in-process teacher."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

import tiny
from dragoman.config import TeacherConfig
from dragoman.models import load_model
from dragoman.render import Renderer
from dragoman.teach import InProcessTeacher
from dragoman.types import DropReason, Prompt, Rollout, StopReason, TeacherLevel, TeacherView


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.sentencepiece_model(tmp_path_factory.mktemp("teacher"), seed=2)


@pytest.fixture(scope="module")
def model(folder: Path) -> PreTrainedModel:
    return load_model(TeacherConfig(model=str(folder)))


def teacher_of(folder: Path, model: PreTrainedModel, **settings: object) -> InProcessTeacher:
    config = TeacherConfig.model_validate({"model": str(folder), **settings})
    return InProcessTeacher(model, Renderer.from_config(config), config)


def views_of(teacher: InProcessTeacher) -> list[TeacherView]:
    return [
        teacher.view(
            Rollout(
                prompt=Prompt(key=f"p{len(data)}", text="What is the answer?"),
                sample=0,
                context_ids=np.array([0]),
                completion=teacher.renderer.completion(data, StopReason.STOP),
                behaviour_logp=None,
            )
        )
        for data in (b"the answer is 42", b"", b"a longer sentence than the other two")
    ]


def test_levels(folder: Path, model: PreTrainedModel) -> None:
    caps = {topk: teacher_of(folder, model, topk=topk).caps for topk in (0, 3, "all")}
    assert [c.level for c in caps.values()] == [TeacherLevel.REALISED, TeacherLevel.TOPK, TeacherLevel.LOGITS]
    assert [c.full_row for c in caps.values()] == [0, 0, model.config.hidden_size]


def test_rows_are_the_models_own(folder: Path, model: PreTrainedModel) -> None:
    teacher = teacher_of(folder, model, topk="all", batch_tokens=60, logit_slice=3)
    for view, scores in zip(views_of(teacher), teacher.score(views_of(teacher)), strict=True):
        with torch.no_grad():
            logits = model(torch.from_numpy(view.ids)[None]).logits[0].double()
        expected = logits.log_softmax(-1)[view.start - 1 : -1].numpy()
        assert scores.full_logp is not None
        rows = scores.full_logp.rows(slice(None))
        assert rows.dtype == np.float32 and len(rows) == len(scores.full_logp) == len(scores.logp)
        np.testing.assert_allclose(rows, expected, atol=1e-5)
        text = view.completion.event == 0
        own = rows[np.arange(len(text)), view.completion.ids]
        np.testing.assert_allclose(own[text], scores.logp[text], atol=2e-6)
        assert scores.full_logp.usable.all()
        assert scores.topk_logp is None


def test_rows_beyond_the_context_are_missing(folder: Path, model: PreTrainedModel) -> None:
    whole = teacher_of(folder, model, topk="all")
    view = views_of(whole)[0]
    short = teacher_of(folder, model, topk="all", max_length=view.start + 3)
    (scores,), (expected,) = short.score([view]), whole.score([view])
    assert scores.full_logp is not None and expected.full_logp is not None
    assert (scores.missing[3:] == DropReason.TEACHER_CONTEXT).all() and len(scores.missing) > 3
    # never 0, which would be certainty
    assert np.isnan(scores.full_logp.rows(slice(3, None))).all()
    assert scores.full_logp.usable.tolist() == [True] * 3 + [False] * (len(scores.logp) - 3)
    known, mixed = scores.full_logp.rows(slice(0, 3)), scores.full_logp.rows(slice(1, 5))
    np.testing.assert_allclose(known, expected.full_logp.rows(slice(0, 3)), atol=1e-5)
    np.testing.assert_array_equal(mixed[:2], known[1:])
    assert np.isnan(mixed[2:]).all() and np.isnan(scores.full_logp.at(4, np.array([0, 7]))).all()


def test_no_rows_unless_asked_for(folder: Path, model: PreTrainedModel) -> None:
    teacher = teacher_of(folder, model, topk=3)
    assert all(scores.full_logp is None for scores in teacher.score(views_of(teacher)))
