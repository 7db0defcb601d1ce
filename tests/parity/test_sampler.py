"""The sampler against the model's own distribution and against `TokenScorer`."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

import tiny
from dragoman.config import LoraConfig, StudentConfig
from dragoman.errors import RenderError
from dragoman.models import TokenScorer, TokenScores, load_model
from dragoman.models.loading import add_lora
from dragoman.padding import right_padded
from dragoman.render import Renderer
from dragoman.rollout import Request, Sampler, Sampling
from dragoman.rollout.engine import draw_seed
from dragoman.types import Event, Message, Prompt, Rollout, StopReason

# The byte-level tokenizer's end of sequence and end of turn.
STOPS = {0, 2}

PROMPTS = [
    Prompt(key="short", text="Hi", origin="prompts.jsonl:1"),
    Prompt(key="long", text="The interpreter stood between two courts and said every sentence twice."),
    Prompt(key="turns", messages=(Message(role="user", content="What is 12 + 30?"),)),
]
REQUESTS = [Request(prompt=prompt, sample=sample) for prompt in PROMPTS for sample in range(4)]
SAMPLING = Sampling(max_new_tokens=12, batch_size=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in which both stops are likely after some tokens, and neither after others."""
    place = tiny.byte_level_model(tmp_path_factory.mktemp("model"), seed=1)
    model = load_model(StudentConfig(model=str(place)))
    with torch.no_grad():
        model.get_output_embeddings().weight[sorted(STOPS)] *= 3.0
    model.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def renderer(folder: Path) -> Renderer:
    found = Renderer.from_config(StudentConfig(model=str(folder)))
    assert found.tokenization.stop_ids == STOPS
    return found


@pytest.fixture
def model(folder: Path) -> PreTrainedModel:
    return load_model(StudentConfig(model=str(folder)))


def sample(
    model: PreTrainedModel,
    renderer: Renderer,
    requests: list[Request] = REQUESTS,
    sampling: Sampling = SAMPLING,
    seed: int = 7,
    step: int = 3,
) -> list[Rollout]:
    return Sampler(model, renderer, sampling).rollouts(requests, seed=seed, step=step)


def ids_of(rollouts: list[Rollout]) -> list[list[int]]:
    return [rollout.completion.ids.tolist() for rollout in rollouts]


def next_logp(model: PreTrainedModel, context: np.ndarray) -> np.ndarray:
    """Log-probs of the next token, in float64."""
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(context)[None]).logits[0, -1]
    logp: np.ndarray = logits.double().log_softmax(-1).numpy()
    return logp


def rescored(model: PreTrainedModel, rollouts: list[Rollout]) -> TokenScores:
    """All rollouts, padded on the right, as the trainer scores them."""
    ids, _ = right_padded([np.concatenate([r.context_ids, r.completion.ids]) for r in rollouts])
    row = np.repeat(np.arange(len(rollouts)), [len(r.completion) for r in rollouts])
    place = np.concatenate([len(r.context_ids) + np.arange(len(r.completion)) for r in rollouts])
    is_stop = np.concatenate([r.completion.event == Event.STOP for r in rollouts])
    arrays = (ids, row, place - 1, ids[row, place], is_stop)
    with torch.no_grad():
        scores: TokenScores = TokenScorer(model, STOPS, logit_slice=16, entropy=True)(
            *map(torch.from_numpy, arrays)
        )
    return scores


def first_tokens(model: PreTrainedModel, renderer: Renderer, sampling: Sampling, count: int) -> Counter[int]:
    requests = [Request(prompt=PROMPTS[0], sample=number) for number in range(count)]
    rollouts = sample(model, renderer, requests, replace(sampling, max_new_tokens=1, batch_size=500))
    return Counter(int(rollout.completion.ids[0]) for rollout in rollouts)


# --- the distribution


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_frequencies_are_the_models(model: PreTrainedModel, renderer: Renderer, temperature: float) -> None:
    count = 4000
    counts = first_tokens(
        model, renderer, Sampling(max_new_tokens=1, batch_size=1, temperature=temperature), count
    )
    logp = next_logp(model, renderer.context_ids(PROMPTS[0])) / temperature
    expected = np.exp(logp - np.logaddexp.reduce(logp)) * count
    observed = np.array([counts[token] for token in range(len(expected))], float)
    # Pearson's statistic, tokens expected less than five times in one bin
    rare = expected < 5
    bins = [np.append(values[~rare], values[rare].sum()) for values in (observed, expected)]
    statistic = float(((bins[0] - bins[1]) ** 2 / bins[1]).sum())
    freedom = len(bins[0]) - 1
    assert freedom > 20
    # Mean `freedom`, deviation sqrt(2 freedom); the seed is fixed, so this passes always or never
    assert abs(statistic - freedom) < 3.5 * np.sqrt(2 * freedom)


def test_the_chi_square_can_fail(model: PreTrainedModel, renderer: Renderer) -> None:
    # Drawn at temperature 0.6, expected at 1
    counts = first_tokens(model, renderer, Sampling(max_new_tokens=1, batch_size=1, temperature=0.6), 1000)
    expected = np.exp(next_logp(model, renderer.context_ids(PROMPTS[0]))) * 1000
    often = expected >= 5
    observed = np.array([counts[token] for token in np.flatnonzero(often).tolist()])
    statistic = float(((observed - expected[often]) ** 2 / expected[often]).sum())
    assert statistic > often.sum() + 10 * np.sqrt(2 * often.sum())


@pytest.mark.parametrize(
    "change", [{"top_k": 3}, {"top_p": 0.5}, {"temperature": 0.5, "top_k": 5}, {"top_k": 1}]
)
def test_truncation_restricts_and_nothing_else(
    model: PreTrainedModel, renderer: Renderer, change: dict[str, Any]
) -> None:
    sampling = replace(SAMPLING, **change)
    drawn = first_tokens(model, renderer, sampling, 200)
    logp = next_logp(model, renderer.context_ids(PROMPTS[0]))
    order = np.argsort(-logp)
    # The fewest most likely tokens that reach the mass, or the k most likely
    tempered = np.exp(logp / sampling.temperature)
    mass = np.cumsum(tempered[order] / tempered.sum())
    size = sampling.top_k or int(np.searchsorted(mass, sampling.top_p)) + 1
    allowed = set(order[:size].tolist())
    kept = tempered[list(allowed)].sum()
    likely = {token for token in allowed if 200 * tempered[token] / kept > 10}
    assert likely
    assert likely <= set(drawn) <= allowed


@pytest.mark.parametrize("change", [{}, {"top_k": 3}, {"top_p": 0.5}, {"temperature": 0.5}])
def test_log_probs_are_the_scorers(
    model: PreTrainedModel, renderer: Renderer, change: dict[str, Any]
) -> None:
    # Prompts of 3 lengths, so that rows are padded on the left; of the whole distribution at
    # temperature 1, whatever they were drawn from
    rollouts = sample(model, renderer, sampling=replace(SAMPLING, **change))
    assert len({len(rollout.context_ids) for rollout in rollouts}) == 3
    scores = rescored(model, rollouts)
    behaviour = np.concatenate([rollout.behaviour_logp for rollout in rollouts])
    entropy = np.concatenate([rollout.entropy for rollout in rollouts])
    stopping = np.concatenate([rollout.stop_logp for rollout in rollouts])
    assert behaviour.dtype == entropy.dtype == stopping.dtype == np.float32
    np.testing.assert_allclose(stopping, scores.stop_logp.numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(behaviour, scores.logp.numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(entropy, scores.entropy.numpy(), rtol=0, atol=1e-4)


def test_both_stops_are_drawn_and_have_the_mass_of_the_set(
    model: PreTrainedModel, renderer: Renderer
) -> None:
    rollouts = sample(model, renderer, [replace(REQUESTS[0], sample=n) for n in range(60)])
    last = {int(r.completion.ids[-1]) for r in rollouts if r.stop is StopReason.STOP}
    assert last == STOPS
    for rollout in (r for r in rollouts if r.stop is StopReason.STOP):
        logp = next_logp(model, np.concatenate([rollout.context_ids, rollout.completion.ids[:-1]]))
        assert rollout.behaviour_logp is not None
        mass = np.logaddexp(*logp[sorted(STOPS)])
        assert rollout.behaviour_logp[-1] == pytest.approx(mass, abs=1e-4)
        assert rollout.stop_logp is not None
        assert rollout.stop_logp[-1] == rollout.behaviour_logp[-1]


# --- what was sampled is what is trained on


def test_ids_are_those_the_clocks_chose(
    model: PreTrainedModel, renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What `generate` put out, beside what the rollouts hold
    put_out: list[torch.Tensor] = []
    monkeypatch.setattr("dragoman.rollout.sampler.can_decode", lambda model, longest: False)
    generate = model.generate

    def recording(**kwargs: object) -> torch.Tensor:
        put_out.append(generate(**kwargs))
        return put_out[-1]

    monkeypatch.setattr(model, "generate", recording)
    rollouts = sample(model, renderer, sampling=replace(SAMPLING, batch_size=len(REQUESTS)))
    (table,) = put_out
    width = max(len(rollout.context_ids) for rollout in rollouts)
    for row, rollout in zip(table.tolist(), rollouts, strict=True):
        size = len(rollout.completion)
        assert row[width - len(rollout.context_ids) : width + size] == [
            *rollout.context_ids.tolist(),
            *rollout.completion.ids.tolist(),
        ]


def test_exactly_one_stop_iff_finished(model: PreTrainedModel, renderer: Renderer) -> None:
    rollouts = sample(model, renderer, [replace(REQUESTS[0], sample=n) for n in range(40)])
    assert {rollout.stop for rollout in rollouts} == {StopReason.STOP, StopReason.LENGTH}
    for rollout in rollouts:
        text = rollout.completion
        if rollout.stop is StopReason.STOP:
            assert text.num_stops == 1
            assert text.event[-1] == Event.STOP
        else:
            assert text.num_stops == 0
            assert len(text) == SAMPLING.max_new_tokens
        assert rollout.behaviour_logp is not None
        assert rollout.entropy is not None
        assert len(rollout.behaviour_logp) == len(rollout.entropy) == len(text)


def test_rollouts_answer_their_requests(model: PreTrainedModel, renderer: Renderer) -> None:
    rollouts = sample(model, renderer, sampling=replace(SAMPLING, temperature=0.5))
    assert [(r.prompt, r.sample) for r in rollouts] == [(r.prompt, r.sample) for r in REQUESTS]
    assert {(r.temperature, r.policy_version) for r in rollouts} == {(0.5, 3)}
    for rollout in rollouts:
        assert rollout.context_ids.tolist() == renderer.context_ids(rollout.prompt).tolist()


# --- seeds


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_a_response_does_not_depend_on_its_batch(
    model: PreTrainedModel, renderer: Renderer, batch_size: int
) -> None:
    expected = sample(model, renderer)
    found = sample(model, renderer, sampling=replace(SAMPLING, batch_size=batch_size))
    assert ids_of(found) == ids_of(expected)
    backwards = sample(model, renderer, REQUESTS[::-1], replace(SAMPLING, batch_size=batch_size))
    assert ids_of(backwards)[::-1] == ids_of(expected)
    some = sample(model, renderer, REQUESTS[2:7], replace(SAMPLING, batch_size=batch_size))
    assert ids_of(some) == ids_of(expected)[2:7]


def test_same_arguments_give_the_same_bits(model: PreTrainedModel, renderer: Renderer) -> None:
    torch.manual_seed(1)
    one = sample(model, renderer)
    torch.manual_seed(2)
    other = sample(model, renderer)
    for a, b in zip(one, other, strict=True):
        assert np.array_equal(a.completion.ids, b.completion.ids)
        assert a.behaviour_logp is not None
        assert b.behaviour_logp is not None
        assert np.array_equal(a.behaviour_logp, b.behaviour_logp)


def test_every_part_of_the_name_changes_the_draw(model: PreTrainedModel, renderer: Renderer) -> None:
    base = ids_of(sample(model, renderer))
    assert ids_of(sample(model, renderer, seed=8)) != base
    assert ids_of(sample(model, renderer, step=4)) != base
    assert len({tuple(ids) for ids in base}) == len(base)


def test_the_global_generator_is_left_alone(model: PreTrainedModel, renderer: Renderer) -> None:
    before = torch.get_rng_state()
    sample(model, renderer)
    assert torch.equal(torch.get_rng_state(), before)


def test_draw_seed() -> None:
    names = [(s, t, k, n) for s in (0, 1) for t in (0, 11) for k in ("a", "1/a") for n in (0, 1)]
    seeds = {draw_seed(*name) for name in names}
    assert len(seeds) == len(names)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert draw_seed(0, 0, "a", 0) == draw_seed(0, 0, "a", 0)
    # blake2b of "7/3/long/2": a first turn draws as it did before there were turns
    assert draw_seed(7, 3, "long", 2, 0) == 2231827517794240856
    turns = {draw_seed(0, 0, "a", 0, turn) for turn in range(12)}
    assert len(turns | seeds) == 12 - 1 + len(seeds)


# --- the model is left as it was


def test_generation_settings_of_the_model_are_ignored(
    folder: Path, renderer: Renderer, model: PreTrainedModel, tmp_path: Path
) -> None:
    plain = sample(model, renderer)
    shipped = tmp_path / "shipped"
    model.save_pretrained(shipped)
    settings = json.loads((shipped / "generation_config.json").read_text())
    penalties = {"repetition_penalty": 5.0, "do_sample": True, "top_k": 1, "temperature": 0.1}
    forced = {"max_length": 3, "bad_words_ids": [[65]], "min_new_tokens": 9, "no_repeat_ngram_size": 1}
    (shipped / "generation_config.json").write_text(json.dumps({**settings, **penalties, **forced}))
    opinionated = load_model(StudentConfig(model=str(shipped)))
    generation = opinionated.generation_config
    assert generation.repetition_penalty == 5.0
    assert ids_of(sample(opinionated, renderer)) == ids_of(plain)
    assert opinionated.generation_config is generation
    assert generation.repetition_penalty == 5.0


@pytest.mark.parametrize("training", [True, False])
def test_training_mode_is_restored(model: PreTrainedModel, renderer: Renderer, training: bool) -> None:
    modes: list[bool] = []
    model.train(training)
    model.register_forward_pre_hook(lambda *call: modes.append(model.training))
    rollouts = sample(model, renderer, REQUESTS[:2])
    assert model.training is training
    assert set(modes) == {False}
    assert len(rollouts) == 2


@pytest.mark.parametrize("decodes", [False, True])
def test_all_is_restored_when_sampling_fails(
    model: PreTrainedModel, renderer: Renderer, monkeypatch: pytest.MonkeyPatch, decodes: bool
) -> None:
    def failing(**kwargs: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model, "forward" if decodes else "generate", failing)
    monkeypatch.setattr("dragoman.rollout.sampler.can_decode", lambda model, longest: decodes)
    model.train()
    generation = model.generation_config
    with pytest.raises(RuntimeError, match="out of memory"):
        sample(model, renderer)
    assert model.training
    assert model.generation_config is generation


def test_a_model_with_adapters(model: PreTrainedModel, renderer: Renderer) -> None:
    plain = sample(model, renderer)
    adapted = add_lora(model, LoraConfig(r=2))
    generation = model.generation_config
    # Fresh adapters change nothing
    assert ids_of(sample(adapted, renderer)) == ids_of(plain)
    assert model.generation_config is generation


# --- prompts


def test_a_prompt_that_leaves_no_room(model: PreTrainedModel, renderer: Renderer) -> None:
    limit = model.config.max_position_embeddings
    size = len(renderer.context_ids(PROMPTS[0]))
    Sampler(model, renderer, replace(SAMPLING, max_new_tokens=limit - size)).check_prompts(PROMPTS[:1])
    sampler = Sampler(model, renderer, replace(SAMPLING, max_new_tokens=limit - size + 1))
    message = (
        rf"prompt 'short' \(prompts\.jsonl:1\) has {size} tokens; with {limit - size + 1} for the response "
        rf"that is more than the {limit} of the model"
    )
    with pytest.raises(RenderError, match=message):
        sampler.check_prompts(PROMPTS[:1])


def test_a_model_that_says_no_limit(
    model: PreTrainedModel, renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragoman.rollout.sampler.context_length", lambda model: None)
    Sampler(model, renderer, replace(SAMPLING, max_new_tokens=10**6)).check_prompts(PROMPTS)
