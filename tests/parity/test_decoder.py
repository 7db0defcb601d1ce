"""Decoding with rows that come and go against `generate`, which keeps a batch until its last has ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
)

from dragoman.models.sharing import reads_on
from dragoman.rollout import Sampling
from dragoman.rollout.chooser import Draws
from dragoman.rollout.decoder import Decoder, Job, can_decode
from dragoman.rollout.generate import generate
from dragoman.types import StopReason

NUM_IDS = 40
STOPS = [1, 3]
SIZES = (9, 2, 30, 5, 5, 17, 1, 9)
"""Lengths of the contexts."""


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=NUM_IDS,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )


def gemma() -> PreTrainedModel:
    """Two layers in three see the last eight tokens only."""
    return Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=NUM_IDS,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=1,
            head_dim=8,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        )
    )


def gpt2() -> PreTrainedModel:
    """Positions that are learnt."""
    return GPT2LMHeadModel(GPT2Config(vocab_size=NUM_IDS, n_positions=128, n_embd=32, n_layer=2, n_head=4))


MODELS: dict[str, Callable[[], PreTrainedModel]] = {"llama": llama, "gemma": gemma, "gpt2": gpt2}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(4)
    found: PreTrainedModel = MODELS[request.param]()
    with torch.no_grad():
        for values in found.parameters():
            values.mul_(3.0)
    return found.eval()


def jobs(samples: int = 1, limit: int = 12) -> list[Job]:
    """Contexts of different lengths, each `samples` times."""
    rng = np.random.default_rng(0)
    contexts = [rng.integers(4, NUM_IDS, size) for size in SIZES]
    return [
        Job(context, limit - number % 3, 100 * number + sample)
        for number, context in enumerate(contexts)
        for sample in range(samples)
    ]


def token_bytes(index: int) -> bytes:
    return bytes([65 + index])


def by_generate(model: PreTrainedModel, sampling: Sampling, wanted: list[Job]) -> list[Draws]:
    return generate(model, STOPS, sampling, token_bytes, wanted)


def by_decoder(model: PreTrainedModel, sampling: Sampling, wanted: list[Job]) -> list[Draws]:
    return Decoder(model, STOPS, sampling, token_bytes).run(wanted)


def assert_same(found: list[Draws], expected: list[Draws]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        assert one.stop is other.stop
        for name in ("logp", "entropy", "stop_logp"):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 64])
@pytest.mark.parametrize("samples", [1, 3])
def test_as_generate_writes(model: PreTrainedModel, batch_size: int, samples: int) -> None:
    sampling = Sampling(max_new_tokens=12, batch_size=batch_size)
    wanted = jobs(samples)
    found = by_decoder(model, sampling, wanted)
    assert_same(found, by_generate(model, sampling, wanted))
    lengths = {len(draws.ids) for draws in found}
    assert samples == 1 or {draws.stop for draws in found} == {StopReason.STOP, None}
    assert len(lengths) >= 3, "rows end at different times"


@pytest.mark.parametrize("batch_size", [2, 7])
def test_warped_and_ended_by_texts(model: PreTrainedModel, batch_size: int) -> None:
    sampling = Sampling(
        max_new_tokens=30,
        batch_size=batch_size,
        temperature=0.7,
        top_k=20,
        top_p=0.9,
        stop_strings=("M", "ZZ"),
    )
    wanted = jobs(2, limit=30)
    found = by_decoder(model, sampling, wanted)
    assert_same(found, by_generate(model, sampling, wanted))
    assert StopReason.STRING in {draws.stop for draws in found}


def read_by(model: PreTrainedModel) -> list[tuple[int, ...]]:
    """Rows and tokens of everything that a model reads from now on."""
    read: list[tuple[int, ...]] = []
    model.get_input_embeddings().register_forward_hook(
        lambda module, given, out: read.append(tuple(given[0].shape))
    )
    return read


def test_a_prompt_is_read_once() -> None:
    torch.manual_seed(0)
    model = llama().eval()
    read = read_by(model)
    context = np.arange(4, 20)
    by_decoder(model, Sampling(max_new_tokens=3, batch_size=8), [Job(context, 3, seed) for seed in range(5)])
    assert read[0] == (1, 15), "the last token is read by the first step"
    assert read[1] == (5, 1)
    assert all(size[1] == 1 and size[0] <= 5 for size in read[2:])


def with_one_beginning() -> list[Job]:
    """Four prompts that have 90 tokens in common, the first 40 of these, and one that has nothing of them."""
    rng = np.random.default_rng(1)
    begin = rng.integers(4, NUM_IDS, 90)
    ends = [rng.integers(4, NUM_IDS, size) for size in (5, 2, 9, 1)]
    contexts = [*(np.concatenate([begin, end]) for end in ends), begin[:40], rng.integers(4, NUM_IDS, 3)]
    return [Job(context, 6, seed) for seed, context in enumerate(contexts)]


@pytest.mark.parametrize("batch_size", [3, 6])
def test_what_prompts_begin_with_is_read_once(model: PreTrainedModel, batch_size: int) -> None:
    wanted, sampling = with_one_beginning(), Sampling(max_new_tokens=6, batch_size=batch_size)
    assert reads_on(model)
    read = read_by(model)
    found = by_decoder(model, sampling, wanted)
    if batch_size == 6:
        assert read[:3] == [(1, 90), (3, 8), (1, 2)], "one context is the beginning itself"
    else:
        assert read[0] == (1, 90)
    assert_same(found, by_generate(model, sampling, wanted))


def test_prompts_of_one_token(model: PreTrainedModel) -> None:
    wanted = [Job(np.array([4 + seed]), 6, seed) for seed in range(3)]
    for jobs_in_turn in (wanted, [*wanted, Job(np.arange(4, 12), 6, 9)]):
        for batch_size in (1, 4):
            sampling = Sampling(max_new_tokens=6, batch_size=batch_size)
            found = by_decoder(model, sampling, jobs_in_turn)
            assert_same(found, by_generate(model, sampling, jobs_in_turn))


def test_rows_that_have_ended_are_not_read() -> None:
    torch.manual_seed(0)
    model = llama().eval()
    read = read_by(model)
    limits = [2, 3, 5, 9]
    wanted = [Job(np.arange(4, 12), limit, seed) for seed, limit in enumerate(limits)]
    found = Decoder(model, [0], Sampling(max_new_tokens=9, batch_size=4), token_bytes).run(wanted)
    rows = [rows for rows, size in read if size == 1]
    assert sum(rows) == sum(len(draws.ids) for draws in found), "each token is one row of one step"
    assert rows == sorted(rows, reverse=True)


def test_training_mode_is_restored() -> None:
    model = llama().train()
    by_decoder(model, Sampling(max_new_tokens=2, batch_size=2), jobs()[:2])
    assert model.training


def test_nothing_to_write() -> None:
    assert by_decoder(llama(), Sampling(max_new_tokens=2, batch_size=2), []) == []


def test_which_models_are_decoded(tmp_path: Path) -> None:
    assert all(can_decode(make(), 100) for make in MODELS.values())
    recurrent = MambaForCausalLM(
        MambaConfig(vocab_size=NUM_IDS, hidden_size=16, num_hidden_layers=1, state_size=4)
    )
    assert not can_decode(recurrent, 100)
