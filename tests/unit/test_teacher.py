"""The in-process teacher: its numbers are the model's own, whatever a view is scored beside."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

import tiny
from dragoman.config import TeacherConfig
from dragoman.models import load_model
from dragoman.render import Renderer
from dragoman.teach import InProcessTeacher
from dragoman.types import (
    DropReason,
    Event,
    Message,
    Prompt,
    Rollout,
    StopReason,
    TeacherLevel,
    TeacherScores,
    TeacherView,
)

ANSWERS = (
    (b"the answer", StopReason.STOP),
    (b"a much longer sentence, with more tokens in it than the others have", StopReason.LENGTH),
    (b"x", StopReason.STOP),
    ("é🙂".encode()[:3], StopReason.LENGTH),
    (b"", StopReason.STOP),
)

Make = Callable[..., InProcessTeacher]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.sentencepiece_model(tmp_path_factory.mktemp("teacher"), seed=2)


@pytest.fixture(scope="module")
def model(folder: Path) -> PreTrainedModel:
    return load_model(TeacherConfig(model=str(folder)))


@pytest.fixture
def make(folder: Path, model: PreTrainedModel) -> Make:
    def build(**settings: Any) -> InProcessTeacher:
        config = TeacherConfig(model=str(folder), **settings)
        return InProcessTeacher(model, Renderer.from_config(config), config)

    return build


def view_of(teacher: InProcessTeacher, data: bytes, stop: StopReason, key: str = "p") -> TeacherView:
    """The teacher's view of an answer whose student tokens do not matter."""
    completion = teacher.renderer.completion(data, stop)
    prompt = Prompt(key=key, messages=(Message(role="user", content="What is the answer?"),))
    rollout = Rollout(
        prompt=prompt,
        sample=0,
        context_ids=np.array([0]),
        completion=completion,
        behaviour_logp=None,
        stop=stop,
    )
    return teacher.view(rollout)


def views_of(teacher: InProcessTeacher) -> list[TeacherView]:
    return [view_of(teacher, data, stop, f"p{i}") for i, (data, stop) in enumerate(ANSWERS)]


def table(model: PreTrainedModel, view: TeacherView) -> torch.Tensor:
    """The log-probs [T, V] from which the tokens of a view were drawn, of the view alone."""
    with torch.no_grad():
        logits: torch.Tensor = model(torch.from_numpy(view.ids)[None]).logits[0].double()
    return logits.log_softmax(-1)[view.start - 1 : len(view.ids) - 1]


def test_realised_tokens_are_looked_up_by_id(make: Make, model: PreTrainedModel) -> None:
    teacher = make()
    best = 0
    for view, scores in zip(views_of(teacher), teacher.score(views_of(teacher)), strict=True):
        rows = table(model, view)
        is_text = view.completion.event == Event.NONE
        ids = torch.from_numpy(view.completion.ids)
        expected = rows.gather(-1, ids[:, None])[:, 0].numpy()
        np.testing.assert_allclose(scores.logp[is_text], expected[is_text], atol=1e-5)
        assert (scores.missing == DropReason.NONE).all()
        assert scores.logp.dtype == np.float32
        best += int((rows.argmax(-1) == ids).sum())
    # else looking up the most likely token would have passed too
    assert best == 0


def test_a_stop_is_the_sum_over_the_stop_set(make: Make, model: PreTrainedModel) -> None:
    teacher = make()
    stops = sorted(teacher.renderer.tokenization.stop_ids)
    # `</s>` and `<end_of_turn>`
    assert stops == [1, 5]
    view = view_of(teacher, b"the answer", StopReason.STOP)
    (scores,) = teacher.score([view])
    row = table(model, view)[-1]
    assert scores.logp[-1] == pytest.approx(math.log(float(row[stops].exp().sum())), abs=1e-5)
    assert scores.logp[-1] > float(row[stops].max())


def test_the_mass_of_the_stops_is_known_at_every_place(make: Make, model: PreTrainedModel) -> None:
    teacher = make(batch_tokens=40)
    for view, scores in zip(views_of(teacher), teacher.score(views_of(teacher)), strict=True):
        expected = table(model, view)[:, [1, 5]].logsumexp(-1).numpy()
        assert scores.stop_logp is not None
        np.testing.assert_allclose(scores.stop_logp, expected, atol=1e-5)
        stops = view.completion.event == Event.STOP
        np.testing.assert_array_equal(scores.stop_logp[stops], scores.logp[stops])


@pytest.mark.parametrize("settings", [{"batch_tokens": 1}, {"batch_tokens": 40}, {"logit_slice": 1}])
def test_scores_do_not_depend_on_the_batches(make: Make, settings: dict[str, int]) -> None:
    together, apart = make(), make(**settings)
    for one, two in zip(together.score(views_of(together)), apart.score(views_of(apart)), strict=True):
        np.testing.assert_allclose(one.logp, two.logp, atol=1e-5)


def test_scores_do_not_depend_on_order_and_companions(make: Make) -> None:
    teacher = make()
    views = views_of(teacher)
    expected = teacher.score(views)
    order = [3, 0, 4, 2, 1]
    for index, scores in zip(order, teacher.score([views[i] for i in order]), strict=True):
        np.testing.assert_allclose(scores.logp, expected[index].logp, atol=1e-5)
    for view, scores in zip(views, expected, strict=True):
        np.testing.assert_allclose(teacher.score([view])[0].logp, scores.logp, atol=1e-5)
        assert len(scores.logp) == len(view.completion)


def test_no_views_no_scores(make: Make) -> None:
    assert make().score([]) == []


def test_an_answer_without_tokens_has_no_scores(make: Make) -> None:
    teacher = make()
    empty = view_of(teacher, b"", StopReason.LENGTH)
    scores, other = teacher.score([empty, view_of(teacher, b"the answer", StopReason.STOP)])
    assert len(scores.logp) == len(scores.missing) == 0
    assert np.isfinite(other.logp).all()
    (alone,) = teacher.score([empty])
    assert len(alone.logp) == 0


@pytest.mark.parametrize("beyond", [1, 3])
def test_what_is_beyond_the_context_is_missing_and_the_rest_the_same(make: Make, beyond: int) -> None:
    whole = make()
    view = view_of(whole, ANSWERS[1][0], StopReason.LENGTH)
    short = make(max_length=len(view.ids) - beyond, topk=2)
    other = view_of(whole, b"x", StopReason.STOP)
    scores, fits = short.score([view, other])
    expected = whole.score([view])[0].logp
    assert np.isnan(scores.logp[-beyond:]).all()
    assert (scores.missing[-beyond:] == DropReason.TEACHER_CONTEXT).all()
    assert (scores.missing[:-beyond] == DropReason.NONE).all()
    np.testing.assert_allclose(scores.logp[:-beyond], expected[:-beyond], atol=1e-5)
    assert scores.topk_logp is not None
    assert np.isneginf(scores.topk_logp[-beyond:]).all()
    assert scores.stop_logp is not None
    assert np.isnan(scores.stop_logp).tolist() == [False] * (len(expected) - beyond) + [True] * beyond
    assert (fits.missing == DropReason.NONE).all()


def test_a_context_that_ends_in_the_prompt_leaves_no_score(make: Make) -> None:
    teacher = make(max_length=3)
    views = views_of(teacher)
    for view, scores in zip(views, teacher.score(views), strict=True):
        assert len(scores.logp) == len(view.completion)
        assert np.isnan(scores.logp).all()
        assert (scores.missing == DropReason.TEACHER_CONTEXT).all()


def test_the_shorter_of_the_two_limits_counts(make: Make) -> None:
    assert make().max_length == 1024
    assert make(max_length=5000).max_length == 1024
    assert make(max_length=64).max_length == 64


def test_the_most_likely_tokens(make: Make, model: PreTrainedModel) -> None:
    teacher = make(topk=5)
    assert teacher.caps.level is TeacherLevel.TOPK
    assert make().caps.level is TeacherLevel.REALISED
    for view, scores in zip(views_of(teacher), teacher.score(views_of(teacher)), strict=True):
        assert scores.topk_ids is not None
        assert scores.topk_logp is not None
        assert scores.topk_ids.shape == scores.topk_logp.shape == (len(view.completion), 5)
        rows = table(model, view).numpy()
        np.testing.assert_allclose(scores.topk_logp, -np.sort(-rows, axis=-1)[:, :5], atol=1e-5)
        taken = np.take_along_axis(rows, scores.topk_ids.astype(np.int64), axis=-1)
        np.testing.assert_allclose(scores.topk_logp, taken, atol=1e-5)
        # a realised token that is among them has the same value there
        same = (scores.topk_ids == view.completion.ids[:, None]) & (view.completion.event == 0)[:, None]
        for place, k in zip(*np.nonzero(same), strict=True):
            assert scores.topk_logp[place, k] == pytest.approx(scores.logp[place], abs=1e-5)


def test_without_topk_none_are_kept(make: Make) -> None:
    (scores,) = make().score([view_of(make(), b"the answer", StopReason.STOP)])
    assert scores.topk_ids is None
    assert scores.topk_logp is None


def test_weights_that_are_no_numbers_give_a_reason_and_no_zero(folder: Path) -> None:
    config = TeacherConfig(model=str(folder))
    broken = load_model(config)
    with torch.no_grad():
        broken.get_parameter("lm_head.weight")[7] = float("nan")
    teacher = InProcessTeacher(broken, Renderer.from_config(config), config)
    scores: TeacherScores
    for scores in teacher.score(views_of(teacher)):
        assert np.isnan(scores.logp).all()
        assert (scores.missing == DropReason.NON_FINITE).all()


def test_the_teacher_is_never_trained(make: Make) -> None:
    teacher = make()
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    assert not teacher.model.training
