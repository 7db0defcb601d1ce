"""Spans that begin alike are read in part once, and their scores are those of whole sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
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
    Qwen3Config,
    Qwen3ForCausalLM,
)

import shaped
from dragoman.models import Span, TokenScorer, onednn, score_spans
from dragoman.models import sharing as sharing_module
from dragoman.models import spans as spans_module
from dragoman.models.prefixes import PAIRS, Reading, readings
from dragoman.models.rope import rope_border
from dragoman.models.sharing import reads_on, shared_readings
from dragoman.rollout.decoder import can_decode

SMALL: dict[str, Any] = {**shaped.SIZES, "vocab_size": 60}
STOPS = (1, 2)
SHARING = ("llama", "eager", "qwen", "gemma", "gpt2")


def make(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    match kind:
        case "llama":
            model = LlamaForCausalLM(LlamaConfig(**SMALL))
        case "eager":
            model = LlamaForCausalLM(LlamaConfig(**SMALL, attn_implementation="eager"))
        case "qwen":
            model = Qwen3ForCausalLM(Qwen3Config(**SMALL))
        case "gemma":
            # The window is shorter than the prefix, and than what is behind it
            layers = ["sliding_attention", "full_attention"]
            model = Gemma3ForCausalLM(Gemma3TextConfig(**SMALL, sliding_window=3, layer_types=layers))
        case "gpt2":
            model = GPT2LMHeadModel(GPT2Config(vocab_size=60, n_embd=16, n_layer=2, n_head=2))
        case "longrope":
            factors = {"short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
            rope = {"rope_type": "longrope", "original_max_position_embeddings": 22, **factors}
            model = LlamaForCausalLM(LlamaConfig(**SMALL, rope_parameters={"rope_theta": 1e4, **rope}))
        case _:
            model = MambaForCausalLM(MambaConfig(vocab_size=60, hidden_size=16, num_hidden_layers=2))
    return model.eval()


def span(ids: Sequence[int] | np.ndarray, start: int) -> Span:
    return Span(ids=np.array(ids), start=start, is_stop=np.isin(ids[start:], STOPS))


def conversation() -> list[Span]:
    """Three samples of each of two prompts, a later turn behind one of them, one text twice, one alone, and
    one of which nothing is wanted."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 60, size) for size in (20, 12)]
    found = []
    for prompt in prompts:
        for size in (7, 3, 5):
            found.append(span(np.concatenate([prompt, rng.integers(3, 60, size), [2]]), len(prompt)))
    before = found[1].ids
    later = np.concatenate([before, rng.integers(3, 60, 9), [1]])
    return [
        *found,
        span(later, len(before) + 4),
        found[4],
        span(rng.integers(3, 60, 6), 1),
        span([7, 8, 9], 3),
    ]


def naive(model: PreTrainedModel, one: Span) -> tuple[np.ndarray, np.ndarray]:
    """Log-probs and the stops' mass from the sequence alone, unpadded, in the model's precision."""
    with torch.no_grad():
        table = model(input_ids=torch.from_numpy(one.ids)[None]).logits[0].log_softmax(-1)
    places = np.arange(one.start, len(one.ids))
    stop = table[places - 1][:, list(STOPS)].logsumexp(-1).numpy()
    logp = table[places - 1, one.ids[places]].numpy()
    return np.where(one.is_stop, stop, logp), stop


@pytest.fixture
def eager_sharing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is too little to be shared."""
    monkeypatch.setattr(sharing_module, "GROUP_COST", {"cpu": 0})


class Read:
    """Tokens that a model's layers have read, by call."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.tokens: list[int] = []
        model.get_input_embeddings().register_forward_hook(self._note)

    def _note(self, module: object, given: tuple[torch.Tensor], out: object) -> None:
        self.tokens.append(given[0].numel())


@pytest.mark.parametrize("kind", [*SHARING, "mamba", "longrope"])
@pytest.mark.parametrize("batch_tokens", [1, 40, 4096])
@pytest.mark.usefixtures("eager_sharing")
def test_scores_are_those_of_whole_sequences(kind: str, batch_tokens: int) -> None:
    model = make(kind)
    # Mamba's layers fail in float64
    reference = make(kind) if kind == "mamba" else make(kind).double()
    found = score_spans(TokenScorer(model, STOPS, logit_slice=5), conversation(), batch_tokens=batch_tokens)
    exact = score_spans(TokenScorer(reference, STOPS), conversation(), batch_tokens=batch_tokens)
    for one, scores, double in zip(conversation(), found, exact, strict=True):
        logp, stop = naive(reference, one)
        np.testing.assert_allclose(scores.logp, logp, atol=1e-5)
        np.testing.assert_allclose(scores.stop_logp, stop, atol=1e-5)
        np.testing.assert_allclose(double.logp, logp, atol=1e-5 if kind == "mamba" else 1e-12)


def test_lengths_that_turn_keys_otherwise() -> None:
    """Sequences on either side of such a length are not read in one batch, and short ones share as ever."""
    model = make("longrope")
    assert (rope_border(model), rope_border(make("llama"))) == (22, None)
    assert can_decode(model, 22) and not can_decode(model, 23)
    spans = conversation()
    owner, plan = shared_readings(model, [one.ids for one in spans])
    assert owner == list(range(len(spans)))
    assert [{len(spans[i].ids) > 22 for i in reading.members} for reading in plan] == [{False}, {True}]
    dynamic = LlamaConfig(**SMALL, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    assert rope_border(LlamaForCausalLM(dynamic)) == dynamic.max_position_embeddings


@pytest.mark.parametrize("kind", SHARING)
@pytest.mark.usefixtures("eager_sharing")
def test_prompts_are_read_once(kind: str) -> None:
    model = make(kind)
    assert reads_on(model)
    scorer = TokenScorer(model, STOPS)
    read = Read(model)
    score_spans(scorer, conversation(), batch_tokens=4096)
    # No last token is read. The prompt of 20, and behind it 7, 5, and the 4 + 9 of the later turn, which the
    # shorter sample is a beginning of; that of 12, and 7, 3 and 5; the 5 of one alone.
    assert sorted(read.tokens) == sorted([20, 3 * 13, 12, 3 * 7, 5])


@pytest.mark.usefixtures("eager_sharing")
def test_a_model_without_such_a_cache_reads_whole_sequences() -> None:
    model = make("mamba")
    assert not reads_on(model)
    read = Read(model)
    score_spans(TokenScorer(model, STOPS), conversation()[:3], batch_tokens=4096)
    assert read.tokens[-1] == 3 * 27


class Blind(LlamaForCausalLM):  # type: ignore[misc]
    """Takes a cache, and does not look at it."""

    def forward(self, input_ids: Any = None, past_key_values: Any = None, **others: Any) -> Any:
        return super().forward(input_ids=input_ids, **others)


def test_a_cache_that_is_not_read_is_noticed() -> None:
    torch.manual_seed(0)
    assert not reads_on(Blind(LlamaConfig(**SMALL)).eval())


def test_a_trial_without_memory_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*args: object) -> None:
        raise torch.OutOfMemoryError

    model = make("llama")
    with monkeypatch.context() as patched:
        patched.setattr(sharing_module, "repeated", exhausted)
        with pytest.raises(torch.OutOfMemoryError):
            reads_on(model)
    assert reads_on(model)


def test_low_precision_and_adapters_are_no_obstacle() -> None:
    from peft import LoraConfig, get_peft_model

    assert reads_on(make("llama").bfloat16())
    assert reads_on(get_peft_model(make("llama"), LoraConfig(r=2, target_modules="all-linear")))


@pytest.mark.usefixtures("eager_sharing")
def test_the_order_of_spans_changes_no_bit() -> None:
    scorer = TokenScorer(make("gemma"), STOPS, topk=3, entropy=True)
    given = conversation()
    order = np.random.default_rng(1).permutation(len(given))
    straight = score_spans(scorer, given, batch_tokens=60)
    mixed = score_spans(scorer, [given[i] for i in order], batch_tokens=60)
    for place, index in enumerate(order):
        for name in ("logp", "topk_ids", "topk_logp", "stop_logp", "entropy"):
            assert np.array_equal(getattr(mixed[place], name), getattr(straight[index], name)), name


def test_nothing_to_score_has_shapes() -> None:
    scorer = TokenScorer(make("llama"), STOPS, topk=3, full=True)
    (found,) = score_spans(scorer, [span([5, 6], 2)], batch_tokens=10)
    assert found.logp.shape == (0,) and found.topk_ids.shape == (0, 3)
    assert found.full_logp is not None and found.full_logp.rows(slice(None)).shape == (0, 60)
    assert score_spans(scorer, [], batch_tokens=10) == []


# --- which are read together


def plan(*texts: str, cost: int = 1) -> tuple[list[int], list[Reading]]:
    return readings([np.frombuffer(text.encode(), np.uint8).astype(np.int64) for text in texts], cost)


def test_samples_of_two_prompts() -> None:
    # "aaaa" is shared by three: 8 tokens saved, "bbb" by two: 3
    owner, found = plan("aaaax", "bbby", "aaaay", "bbbz", "aaaaz", "c")
    assert owner == [0, 1, 2, 3, 4, 5]
    assert found == [
        Reading(members=(0, 2, 4), shared=4),
        Reading(members=(1, 3), shared=3),
        Reading(members=(5,), shared=0),
    ]
    # 3 tokens do not pay for a group that costs 4
    assert plan("aaaax", "bbby", "aaaay", "bbbz", "aaaaz", "c", cost=4)[1] == [
        Reading(members=(0, 2, 4), shared=4),
        Reading(members=(1, 3, 5), shared=0),
    ]


def test_what_saves_more_is_shared() -> None:
    # All four begin with "aa" (6 tokens saved), two and two with "aabbb" and "aaccc" (5 + 5)
    assert [one.shared for one in plan("aabbbx", "aabbby", "aacccx", "aacccy")[1]] == [5, 5]
    assert [one.shared for one in plan("aabx", "aaby", "aacx", "aacy")[1]] == [2]


def test_beginnings_of_others_are_read_with_them() -> None:
    assert plan("abc", "ab", "abcd", "abcd", "x") == (
        [2, 2, 2, 2, 4],
        [Reading(members=(2, 4), shared=0)],
    ) or (plan("abc", "ab", "abcd", "abcd", "x") == ([3, 3, 3, 3, 4], [Reading(members=(3, 4), shared=0)]))


def test_long_ends_behind_a_short_prefix_are_not_worth_a_mask() -> None:
    # 100 tokens saved; of pairs one saves 100^2 and loses 2 * 1000^2, which weighs more
    prefix = np.full(100, 7)
    ends = [np.full(1000, value) for value in (8, 9)]
    assert (100**2 - 2 * 1000**2) / (2 * PAIRS) < -100
    _, found = readings([np.concatenate([prefix, end]) for end in ends], 1)
    assert [one.shared for one in found] == [0]


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=12), st.integers(0, 5)
)
def test_everything_is_read_once(texts: list[list[int]], cost: int) -> None:
    sequences = [np.array(text) for text in texts]
    owner, found = readings(sequences, cost)
    members = [index for reading in found for index in reading.members]
    assert sorted(members) == sorted(set(owner))
    for index, whose in enumerate(owner):
        assert texts[whose][: len(texts[index])] == texts[index]
    for reading in found:
        assert len({tuple(texts[i][: reading.shared]) for i in reading.members}) == 1
        assert all(len(texts[i]) > reading.shared for i in reading.members)


@pytest.mark.parametrize("by_torch", [False, True])
def test_either_product(by_torch: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (spans_module, onednn):
        monkeypatch.setattr(module, "mkl_is_at_home", lambda: by_torch)
    model, scorer = make("qwen"), TokenScorer(make("qwen"), STOPS)
    for one, scores in zip(conversation(), score_spans(scorer, conversation(), batch_tokens=60), strict=True):
        np.testing.assert_allclose(scores.logp, naive(model, one)[0], atol=1e-5)
