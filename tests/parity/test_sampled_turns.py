"""Conversations sampled turn by turn: contexts, seeds, endings, and room that runs out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

import tiny
from dragoman.config import StudentConfig
from dragoman.errors import DataError, RenderError
from dragoman.models import load_model
from dragoman.render import Renderer
from dragoman.rollout import Request, Sampler, Sampling
from dragoman.rollout.engine import draw_seed
from dragoman.rollout.episodes import Episode
from dragoman.types import Message, Prompt, Rollout, StopReason, ToolCall
from recorded import example

ASK = Message(role="user", content="What is 12 + 30?")
MORE = Message(role="user", content="And then?")
SLOT = Message(role="assistant", sampled=True)
TALK = Prompt(key="talk", messages=(ASK, SLOT, MORE, SLOT, ASK), origin="talk.jsonl:1")
PLAIN = Prompt(key="plain", messages=(ASK,))
CLOSED = Prompt(key="closed", messages=(MORE, SLOT))
REQUESTS = [Request(prompt=prompt, sample=k) for k in range(4) for prompt in (TALK, PLAIN, CLOSED)]
SAMPLING = Sampling(max_new_tokens=12, batch_size=5, stop_strings=("e", " "))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in which the stops are likely after some tokens."""
    place = tiny.byte_level_model(tmp_path_factory.mktemp("model"), seed=1, chat_template=tiny.HERMES)
    model = load_model(StudentConfig(model=str(place)))
    with torch.no_grad():
        model.get_output_embeddings().weight[[0, 2]] *= 3.0
    model.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def renderer(folder: Path) -> Renderer:
    return Renderer.from_config(StudentConfig(model=str(folder)))


@pytest.fixture
def model(folder: Path) -> PreTrainedModel:
    return load_model(StudentConfig(model=str(folder)))


def sample(
    model: PreTrainedModel,
    renderer: Renderer,
    requests: Sequence[Request] = REQUESTS,
    sampling: Sampling = SAMPLING,
) -> list[Rollout]:
    return Sampler(model, renderer, sampling).rollouts(requests, seed=7, step=3)


def of(rollouts: list[Rollout], key: str, number: int) -> list[Rollout]:
    return [r for r in rollouts if (r.prompt.key, r.sample) == (key, number)]


def test_turns_come_in_the_order_of_requests(model: PreTrainedModel, renderer: Renderer) -> None:
    rollouts = sample(model, renderer)
    names = [(r.prompt.key, r.sample) for r in rollouts]
    assert list(dict.fromkeys(names)) == [(r.prompt.key, r.sample) for r in REQUESTS]
    sizes = set()
    for request in REQUESTS:
        turns = of(rollouts, request.prompt.key, request.sample)
        first = names.index((request.prompt.key, request.sample))
        assert rollouts[first : first + len(turns)] == turns
        assert [r.turn for r in turns] == list(range(len(turns)))
        if request.prompt is not TALK:
            assert len(turns) == 1
            continue
        sizes.add(len(turns))
        # All but the last ended by themselves, and the last one did not or was the third
        assert all(r.stop in (StopReason.STOP, StopReason.STRING) for r in turns[:-1])
        assert len(turns) == 3 or turns[-1].stop is StopReason.LENGTH
    assert 3 in sizes


def test_every_turn_stands_on_those_before(model: PreTrainedModel, renderer: Renderer) -> None:
    turns = next(t for k in range(4) if len(t := of(sample(model, renderer), "talk", k)) == 3)
    said = [renderer.parse(rollout.completion) for rollout in turns]
    first, second = (replace(message, sampled=bool(message.content)) for message in said[:2])
    expected = [(ASK,), (ASK, first, MORE), (ASK, first, MORE, second, ASK)]
    assert [r.prompt.messages for r in turns] == expected
    for rollout in turns:
        assert (rollout.prompt.key, rollout.prompt.origin) == ("talk", "talk.jsonl:1")
        assert rollout.context_ids.tolist() == renderer.context_ids(rollout.prompt).tolist()
        assert rollout.key == "talk/{}{}".format(rollout.sample, f".{rollout.turn}" if rollout.turn else "")


def test_later_turns_are_drawn_as_prompts_of_their_own(
    model: PreTrainedModel, renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = next(t for k in range(4) if len(t := of(sample(model, renderer), "talk", k)) == 3)
    second = turns[1]
    seed = draw_seed(7, 3, "talk", second.sample, 1)
    monkeypatch.setattr("dragoman.rollout.sampler.draw_seed", lambda *name: seed)
    (alone,) = sample(model, renderer, [Request(prompt=unmarked(second.prompt), sample=0)])
    assert alone.completion.ids.tolist() == second.completion.ids.tolist()


def unmarked(prompt: Prompt) -> Prompt:
    assert prompt.messages is not None
    return replace(prompt, messages=tuple(replace(m, sampled=False) for m in prompt.messages))


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_no_turn_depends_on_its_batch(model: PreTrainedModel, renderer: Renderer, batch_size: int) -> None:
    expected = sample(model, renderer)
    for requests in (REQUESTS, REQUESTS[::-1]):
        found = sample(model, renderer, requests, replace(SAMPLING, batch_size=batch_size))
        assert {r.key: r.completion.ids.tolist() for r in found} == {
            r.key: r.completion.ids.tolist() for r in expected
        }


def after_one_turn(prompt: Prompt) -> Episode:
    episode = Episode(Request(prompt=prompt, sample=0))
    episode.add(example().rollout)
    assert not episode.is_over
    return episode


def test_calls_take_the_ids_of_the_results_behind_them() -> None:
    tool = Message(role="tool", content="1", tool_call_id="a")
    prompt = Prompt(key="p", messages=(ASK, SLOT, tool, replace(tool, tool_call_id="b"), MORE))
    calls = tuple(ToolCall(name=name, arguments="{}") for name in ("f", "g", "h"))
    episode = after_one_turn(prompt)
    episode.answer(Message(role="assistant", tool_calls=calls))
    assert episode.prompt.messages is not None
    answer = episode.prompt.messages[1]
    assert [call.id for call in answer.tool_calls] == ["a", "b", None]
    assert answer.sampled and not answer.is_slot


def test_an_empty_turn_is_not_open_again() -> None:
    prompt = Prompt(key="p", messages=(ASK, SLOT, MORE))
    episode = after_one_turn(prompt)
    episode.answer(Message(role="assistant"))
    assert episode.prompt.messages == (ASK, Message(role="assistant"), MORE)


# --- endings


def test_a_recorded_turn_is_not_sampled_over(model: PreTrainedModel, renderer: Renderer) -> None:
    said = replace(SLOT, content="42")
    recorded = Prompt(key="r", messages=(ASK, said, MORE), origin="r.jsonl:4")
    sampler = Sampler(model, renderer, SAMPLING)
    message = r"prompt 'r' \(r\.jsonl:4\): message 1 is a recording .* rollout\.engine=recorded"
    with pytest.raises(DataError, match=message):
        sampler.check_prompts([recorded])
    with pytest.raises(DataError, match=message):
        sampler.rollouts([Request(prompt=recorded, sample=0)], seed=0, step=1)


def limited(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr("dragoman.rollout.sampler.context_length", lambda model: limit)


def test_the_limit_is_the_room(
    model: PreTrainedModel, renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = replace(SAMPLING, stop_strings=())
    requests = [Request(prompt=prompt, sample=k) for k in range(20) for prompt in (PLAIN, CLOSED)]
    whole = sample(model, renderer, requests, free)
    assert len({len(r.context_ids) for r in whole}) == 2
    limit = max(len(r.context_ids) for r in whole) + 4
    limited(model, monkeypatch, limit)
    seen = set()
    for before, after in zip(whole, sample(model, renderer, requests, free), strict=True):
        room = limit - len(before.context_ids)
        size = min(room, len(before.completion))
        assert after.completion.ids.tolist() == before.completion.ids[:size].tolist()
        stopped = before.stop is StopReason.STOP and len(before.completion) <= room
        cut = StopReason.CONTEXT if room < free.max_new_tokens else StopReason.LENGTH
        assert after.stop is (StopReason.STOP if stopped else cut)
        seen.add(after.stop)
    assert StopReason.CONTEXT in seen


def test_an_episode_ends_where_there_is_no_room(
    model: PreTrainedModel, renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = next(t for k in range(4) if len(t := of(sample(model, renderer), "talk", k)) == 3)
    request = Request(prompt=TALK, sample=turns[0].sample)
    for limit, expected in ((len(turns[2].context_ids) + 1, 3), (len(turns[2].context_ids), 2)):
        limited(model, monkeypatch, limit)
        assert len(sample(model, renderer, [request])) == expected
    limited(model, monkeypatch, len(turns[0].context_ids))
    with pytest.raises(RenderError, match="prompt 'talk'"):
        sample(model, renderer, [request])


def test_only_the_first_turn_is_known_beforehand(
    model: PreTrainedModel, renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(renderer.context_ids(replace(TALK, messages=(ASK,))))
    limited(model, monkeypatch, size + SAMPLING.max_new_tokens)
    Sampler(model, renderer, SAMPLING).check_prompts([TALK])
    limited(model, monkeypatch, size + SAMPLING.max_new_tokens - 1)
    with pytest.raises(RenderError, match=f"has {size} tokens"):
        Sampler(model, renderer, SAMPLING).check_prompts([TALK])


def test_a_template_that_refuses_what_was_written_ends_the_episode(
    model: PreTrainedModel,
    renderer: Renderer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    context_ids = Renderer.context_ids

    def refusing(self: Renderer, prompt: Prompt) -> np.ndarray:
        if len(prompt.messages or ()) > 1:
            raise RenderError("one turn is enough")
        return context_ids(self, prompt)

    requests = [request for request in REQUESTS if request.prompt is TALK]
    whole = sample(model, renderer, requests)
    monkeypatch.setattr(Renderer, "context_ids", refusing)
    rollouts = sample(model, renderer, requests)
    assert [r.key for r in rollouts] == [r.key for r in whole if r.turn == 0]
    assert "ends before turn 1, as the template refuses what was written: one turn is enough" in caplog.text
