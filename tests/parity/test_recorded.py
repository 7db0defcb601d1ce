"""Recorded turns: what becomes a rollout, its context, and its log-probs under the student."""

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
from dragoman.models import TokenScorer, load_model
from dragoman.render import Renderer
from dragoman.rollout import RecordedEngine, Request
from dragoman.types import Message, Prompt, Rollout, StopReason, ToolCall

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
ASK = Message(role="user", content="Is the sea calm?")
CALL = Message(
    role="assistant",
    reasoning_content="I should look.",
    content="Let me see.",
    tool_calls=(ToolCall(name="look", arguments='{"at": "sea"}', id="c1"),),
    sampled=True,
)
RESULT = Message(role="tool", content="calm", tool_call_id="c1")
SAID = Message(role="assistant", content="It is.", sampled=True)
ASIDE = Message(role="assistant", content="Anything else?")
TALK = Prompt(key="talk", messages=(ASK, CALL, RESULT, SAID, ASK, ASIDE, ASK), tools=(TOOL,))
SHORT = Prompt(key="short", messages=(ASK, SAID), origin="p.jsonl:2")
REQUESTS = [Request(prompt=TALK, sample=0), Request(prompt=SHORT, sample=0), Request(prompt=TALK, sample=1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.byte_level_model(tmp_path_factory.mktemp("model"), seed=1, chat_template=tiny.HERMES)


@pytest.fixture(scope="module")
def renderer(folder: Path) -> Renderer:
    return Renderer.from_config(StudentConfig(model=str(folder)))


@pytest.fixture
def model(folder: Path) -> PreTrainedModel:
    return load_model(StudentConfig(model=str(folder)))


def engine_of(model: PreTrainedModel, renderer: Renderer, batch_tokens: int = 300) -> RecordedEngine:
    scorer = TokenScorer(model, renderer.tokenization.stop_ids, logit_slice=16, entropy=True)
    return RecordedEngine(scorer, renderer, batch_tokens)


def recorded(engine: RecordedEngine, requests: Sequence[Request] = REQUESTS) -> list[Rollout]:
    return engine.rollouts(requests, seed=0, step=3)


def test_one_rollout_a_recorded_turn(model: PreTrainedModel, renderer: Renderer) -> None:
    rollouts = recorded(engine_of(model, renderer))
    assert [r.key for r in rollouts] == ["talk/0", "talk/0.1", "short/0", "talk/1", "talk/1.1"]
    first, second = rollouts[:2]
    assert first.prompt == replace(TALK, messages=(ASK,))
    assert second.prompt == replace(TALK, messages=(ASK, CALL, RESULT))
    for rollout, message in ((first, CALL), (second, SAID)):
        assert rollout.context_ids.tolist() == renderer.context_ids(rollout.prompt).tolist()
        assert rollout.stop is StopReason.STOP and rollout.completion.num_stops == 1
        assert (rollout.policy_version, rollout.temperature) == (3, 1.0)
        said = renderer.parse(rollout.completion)
        assert (said.content, said.reasoning_content) == (message.content, message.reasoning_content)
        assert [(c.name, c.arguments) for c in said.tool_calls] == [
            (c.name, c.arguments) for c in message.tool_calls
        ]


def test_log_probs_are_the_models_own(model: PreTrainedModel, renderer: Renderer) -> None:
    stops = sorted(renderer.tokenization.stop_ids)
    for rollout in recorded(engine_of(model, renderer)):
        ids = torch.from_numpy(np.concatenate([rollout.context_ids, rollout.completion.ids]))
        with torch.no_grad():
            table = model(ids[None]).logits[0].double().log_softmax(-1)[len(rollout.context_ids) - 1 : -1]
        expected = table.gather(-1, torch.from_numpy(rollout.completion.ids)[:, None])[:, 0].numpy()
        stopping = table[:, stops].logsumexp(-1).numpy()
        expected[-1] = stopping[-1]
        assert rollout.behaviour_logp is not None and rollout.entropy is not None
        assert rollout.stop_logp is not None
        assert rollout.behaviour_logp.dtype == rollout.stop_logp.dtype == np.float32
        np.testing.assert_allclose(rollout.behaviour_logp, expected, atol=1e-5)
        np.testing.assert_allclose(rollout.stop_logp, stopping, atol=1e-5)
        np.testing.assert_allclose(rollout.entropy, -(table.exp() * table).sum(-1).numpy(), atol=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 10**6])
def test_batches_do_not_matter(model: PreTrainedModel, renderer: Renderer, batch_tokens: int) -> None:
    expected = recorded(engine_of(model, renderer))
    for one, other in zip(recorded(engine_of(model, renderer, batch_tokens)), expected, strict=True):
        np.testing.assert_allclose(one.behaviour_logp, other.behaviour_logp, atol=1e-5)


def test_the_weights_of_the_moment_without_dropout(model: PreTrainedModel, renderer: Renderer) -> None:
    engine = engine_of(model, renderer)
    before = recorded(engine)[0].behaviour_logp
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    model.train()
    assert np.array_equal(recorded(engine)[0].behaviour_logp, before)
    with torch.no_grad():
        model.get_output_embeddings().weight *= 1.5
    assert not np.allclose(recorded(engine)[0].behaviour_logp, before, atol=1e-3)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        (
            (ASK,),
            r"prompt 'p' \(p\.jsonl:1\) has no recorded turn, so rollout\.engine=recorded finds nothing",
        ),
        ((ASK, ASIDE, ASK), "has no recorded turn"),
        ((ASK, Message(role="assistant", sampled=True)), "message 1 is sampled but has no words"),
    ],
)
def test_nothing_recorded(
    model: PreTrainedModel, renderer: Renderer, messages: tuple[Message, ...], problem: str
) -> None:
    prompt = Prompt(key="p", messages=messages, origin="p.jsonl:1")
    engine = engine_of(model, renderer)
    with pytest.raises(DataError, match=problem):
        engine.check_prompts([SHORT, prompt])
    with pytest.raises(DataError, match=problem):
        recorded(engine, [Request(prompt=prompt, sample=0)])
    with pytest.raises(DataError, match="has no recorded turn"):
        engine.check_prompts([Prompt(key="p", text="Hi")])


def test_a_turn_beyond_the_context(
    model: PreTrainedModel, renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(model, renderer)
    (rollout,) = recorded(engine, [Request(prompt=SHORT, sample=0)])
    size = len(rollout.context_ids) + len(rollout.completion)
    monkeypatch.setattr("dragoman.rollout.recorded.context_length", lambda model: size)
    engine.check_prompts([SHORT])
    monkeypatch.setattr("dragoman.rollout.recorded.context_length", lambda model: size - 1)
    with pytest.raises(RenderError, match=rf"'short' \(p\.jsonl:2\): message 1 ends after {size} tokens"):
        engine.check_prompts([SHORT])
