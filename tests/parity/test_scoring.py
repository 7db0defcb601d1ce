"""`TokenScorer` against the log-softmax of the model's own logits, values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedModel

from dragoman.config import LoraConfig
from dragoman.models import TokenScorer, TokenScores
from dragoman.models.heads import HeadShape, head_shape
from dragoman.models.loading import add_lora

STOPS = (0, 2)
LENGTHS = (9, 4, 7)
SLICES = [1, 2, 5, 16, 1000]


class Batch(NamedTuple):
    """Arguments of the scorer."""

    input_ids: Tensor
    row: Tensor
    column: Tensor
    target: Tensor
    is_stop: Tensor


class ScaledLlama(LlamaForCausalLM):  # type: ignore[misc]
    """Logits that are not the head's own, as Cohere's and Granite's are not."""

    def forward(self, *args: object, **kwargs: object) -> object:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * 0.25
        return output


@pytest.fixture
def scaled(folder: Path) -> PreTrainedModel:
    return ScaledLlama.from_pretrained(folder).eval()


@pytest.fixture
def batch() -> Batch:
    """Rows of different lengths, padded on the right; every token but the first is scored, and each
    row's last is a stop."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(4, 300, (len(LENGTHS), max(LENGTHS)), generator=generator)
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    ids = torch.where(mask.bool(), ids, 0)
    row = torch.cat([torch.full((size - 1,), r) for r, size in enumerate(LENGTHS)])
    column = torch.cat([torch.arange(size - 1) for size in LENGTHS])
    is_stop = column == torch.tensor(LENGTHS)[row] - 2
    ids[row[is_stop], column[is_stop] + 1] = STOPS[1]
    return Batch(ids, row, column, ids[row, column + 1], is_stop)


def expected_logp(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Log-probs of the targets, and all of their distributions, from each row alone and unpadded."""
    tables = [model(input_ids=batch.input_ids[r : r + 1, :size]).logits[0] for r, size in enumerate(LENGTHS)]
    places = zip(batch.row.tolist(), batch.column.tolist(), strict=True)
    logp = torch.stack([tables[r][c] for r, c in places]).float().log_softmax(-1)
    chosen = logp.gather(-1, batch.target[:, None]).squeeze(-1)
    return torch.where(batch.is_stop, logp[:, list(STOPS)].logsumexp(-1), chosen), logp


def gradients(model: PreTrainedModel, compute: Callable[[], Tensor]) -> dict[str, Tensor]:
    """Gradients of a weighted sum of log-probs, by parameter."""
    model.zero_grad()
    logp = compute()
    torch.autograd.backward((logp * torch.linspace(-1.0, 1.0, len(logp))).sum())
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("size", SLICES)
def test_log_probs(model: PreTrainedModel, batch: Batch, size: int) -> None:
    scorer = TokenScorer(model, STOPS, logit_slice=size)
    assert scorer.head_shape == HeadShape()
    with torch.no_grad():
        scores = scorer(*batch)
        expected, _ = expected_logp(model, batch)
    assert scores.logp.dtype == torch.float32
    torch.testing.assert_close(scores.logp, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", SLICES)
def test_gradients(model: PreTrainedModel, batch: Batch, size: int) -> None:
    scorer = TokenScorer(model, STOPS, logit_slice=size)
    found = gradients(model, lambda: scorer(*batch).logp)
    expected = gradients(model, lambda: expected_logp(model, batch)[0])
    assert found.keys() == expected.keys() == {name for name, _ in model.named_parameters()}
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-5)


def test_a_stop_is_the_whole_set(model: PreTrainedModel, batch: Batch) -> None:
    with torch.no_grad():
        whole = TokenScorer(model, STOPS, logit_slice=4)(*batch).logp
        parts = [
            TokenScorer(model, (), logit_slice=4)(*batch._replace(target=torch.full_like(batch.target, stop)))
            for stop in STOPS
        ]
    # log(exp a + exp b), and above either
    mass = torch.logaddexp(parts[0].logp, parts[1].logp)[batch.is_stop]
    torch.testing.assert_close(whole[batch.is_stop], mass, rtol=1e-5, atol=1e-5)
    assert (whole[batch.is_stop] > parts[1].logp[batch.is_stop]).all()
    assert int(batch.is_stop.sum()) == len(LENGTHS)


@pytest.mark.parametrize("size", SLICES)
def test_the_mass_of_the_stops_at_every_place(model: PreTrainedModel, batch: Batch, size: int) -> None:
    scores = TokenScorer(model, STOPS, logit_slice=size)(*batch)
    with torch.no_grad():
        _, table = expected_logp(model, batch)
    torch.testing.assert_close(scores.stop_logp, table[:, list(STOPS)].logsumexp(-1), rtol=1e-5, atol=1e-5)
    assert torch.equal(scores.stop_logp[batch.is_stop], scores.logp[batch.is_stop])
    assert not scores.stop_logp.requires_grad


def test_no_stops_have_no_mass(model: PreTrainedModel, batch: Batch) -> None:
    with torch.no_grad():
        assert torch.isneginf(TokenScorer(model, (), logit_slice=4)(*batch).stop_logp).all()


def test_a_stop_that_is_no_stop_target_is_scored_alone(model: PreTrainedModel, batch: Batch) -> None:
    plain = batch._replace(is_stop=torch.zeros_like(batch.is_stop))
    with torch.no_grad():
        found = TokenScorer(model, STOPS, logit_slice=4)(*plain).logp
        expected, _ = expected_logp(model, plain)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", SLICES)
def test_topk_and_entropy(model: PreTrainedModel, batch: Batch, size: int) -> None:
    scores: TokenScores = TokenScorer(model, STOPS, logit_slice=size, topk=5, entropy=True)(*batch)
    with torch.no_grad():
        _, table = expected_logp(model, batch)
    best = table.topk(5, dim=-1)
    assert torch.equal(scores.topk_ids, best.indices)
    torch.testing.assert_close(scores.topk_logp, best.values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores.entropy, -(table.exp() * table).sum(-1), rtol=1e-5, atol=1e-5)
    assert not scores.topk_logp.requires_grad


def test_entropy_has_a_gradient(model: PreTrainedModel, batch: Batch) -> None:
    scorer = TokenScorer(model, STOPS, logit_slice=4, entropy=True)
    factor = torch.linspace(-1.0, 2.0, len(batch.target))

    def by_table() -> Tensor:
        _, table = expected_logp(model, batch)
        return -factor * (table.exp() * table).sum(-1)

    found = gradients(model, lambda: scorer(*batch).entropy * factor)
    for name, values in gradients(model, by_table).items():
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-5)


def test_no_topk_unless_asked_for(model: PreTrainedModel, batch: Batch) -> None:
    scores = TokenScorer(model, STOPS, logit_slice=4)(*batch)
    assert scores.topk_ids.shape == scores.topk_logp.shape == (len(batch.target), 0)


def test_entropy_where_a_token_is_impossible(model: PreTrainedModel, batch: Batch) -> None:
    # 0 · log 0 counts as 0
    head = nn.Linear(32, model.config.vocab_size)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(-torch.inf)
        head.bias[10:14] = 0.0
    model.set_output_embeddings(head)
    with torch.no_grad():
        entropy = TokenScorer(model, STOPS, logit_slice=4, entropy=True)(*batch).entropy
    # Four equally likely tokens: log 4
    torch.testing.assert_close(entropy, torch.full_like(entropy, 4.0).log())


@pytest.mark.parametrize("grad", [False, True])
def test_nothing_to_score(model: PreTrainedModel, batch: Batch, grad: bool) -> None:
    none = Batch(batch.input_ids, *(values[:0] for values in batch[1:]))
    with torch.set_grad_enabled(grad):
        scores = TokenScorer(model, STOPS, logit_slice=4, topk=3)(*none)
    assert [tuple(values.shape) for values in scores[:4]] == [(0,), (0, 3), (0, 3), (0,)]
    if grad:
        # Takes part in a backward pass all the same, as a replica without tokens must.
        torch.autograd.backward(scores.logp.sum())
        assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("grad", [False, True])
def test_a_head_with_hooks_sees_a_slice_at_a_time(model: PreTrainedModel, batch: Batch, grad: bool) -> None:
    scorer = TokenScorer(model, STOPS, logit_slice=3)
    seen: list[tuple[int, ...]] = []
    model.get_output_embeddings().register_forward_hook(lambda *call: seen.append(tuple(call[2].shape)))
    with torch.set_grad_enabled(grad):
        scores = scorer(*batch)
    # 17 positions in slices of 3: 3, 3, 3, 3, 3, 2, and no batch × length × vocabulary
    forward = [(size, model.config.vocab_size) for size in (3, 3, 3, 3, 3, 2)]
    assert seen == forward
    if grad:
        torch.autograd.backward(scores.logp.sum())
        # Each slice's logits are made once more, and no other.
        assert sorted(seen) == sorted(2 * forward)


def test_logits_are_not_kept_for_the_backward_pass(model: PreTrainedModel, batch: Batch) -> None:
    scorer = TokenScorer(model, STOPS, logit_slice=3)
    sizes: list[int] = []

    def pack(kept: Tensor) -> Tensor:
        if model.config.vocab_size in kept.shape and not isinstance(kept, nn.Parameter):
            sizes.append(kept.numel())
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
        scorer(*batch)
    assert sizes == []


def test_gradient_checkpointing(model: PreTrainedModel, batch: Batch) -> None:
    scorer = TokenScorer(model, STOPS, logit_slice=4)
    plain = gradients(model, lambda: scorer(*batch).logp)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    found = gradients(model, lambda: scorer(*batch).logp)
    assert found.keys() == plain.keys()
    for name, values in plain.items():
        torch.testing.assert_close(found[name], values, rtol=1e-5, atol=1e-6)


def test_adapters(model: PreTrainedModel, batch: Batch) -> None:
    torch.manual_seed(0)
    adapted = add_lora(model, LoraConfig(r=2))
    for name, values in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(values, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    scorer = TokenScorer(adapted, STOPS, logit_slice=4)
    assert scorer.head_shape == HeadShape()
    found = gradients(adapted, lambda: scorer(*batch).logp)
    expected = gradients(adapted, lambda: expected_logp(adapted, batch)[0])
    assert found.keys() == expected.keys()
    assert all("lora" in name for name in found)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(
            scorer(*batch).logp, expected_logp(adapted, batch)[0], rtol=1e-5, atol=1e-5
        )


# --- models whose logits are not their head's


@pytest.mark.parametrize("size", [2, 1000])
def test_scaled_logits(scaled: PreTrainedModel, batch: Batch, size: int) -> None:
    scorer = TokenScorer(scaled, STOPS, logit_slice=size, topk=2)
    assert scorer.head_shape is None
    found = gradients(scaled, lambda: scorer(*batch).logp)
    expected = gradients(scaled, lambda: expected_logp(scaled, batch)[0])
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        scores = scorer(*batch)
        logp, table = expected_logp(scaled, batch)
    torch.testing.assert_close(scores.logp, logp, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores.topk_logp, table.topk(2).values, rtol=1e-5, atol=1e-5)


def test_the_scale_matters(scaled: PreTrainedModel, batch: Batch) -> None:
    scorer = TokenScorer(scaled, STOPS, logit_slice=4)
    with torch.no_grad():
        right = scorer(*batch).logp
        scorer.head_shape = HeadShape()
        wrong = scorer(*batch).logp
    assert (right - wrong).abs().max() > 0.1


def test_plain_heads(model: PreTrainedModel, scaled: PreTrainedModel) -> None:
    assert head_shape(model) == HeadShape()
    assert head_shape(scaled) is None
