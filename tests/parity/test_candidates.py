"""Candidates, what is left outside them, and sorted log-probs, against the dense distribution."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dragoman.models import Candidates, TokenScorer, TokenScores
from dragoman.models.candidates import candidate_masses

STOPS = (0, 2)
SLICES = [1, 2, 3, 1000]
COUNTS = (3, 0, 1, 4, 0, 2)
"""Candidates of each of the six scored tokens."""


def batch() -> tuple[Tensor, ...]:
    """Two sequences of four; tokens 1 to 3 of each are scored, the last is a stop."""
    ids = torch.tensor([[5, 17, 99, 2], [260, 8, 31, 2]])
    row, column = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 1, 2, 0, 1, 2])
    target = ids[row, column + 1]
    return ids, row, column, target, target == 2


def singles() -> Candidates:
    """Different single tokens, the stop set (0) among them."""
    ids = torch.tensor([17, 0, 40, 99, 8, 9, 10, 0, 31, 300])
    return Candidates(row=torch.arange(6).repeat_interleave(torch.tensor(COUNTS)), ids=ids)


def sets() -> Candidates:
    """The same number of candidates as sets of one to three tokens with weights; token 9 in two of them."""
    members = torch.tensor([1, 2, 3, 1, 2, 1, 1, 1, 2, 3])
    ids = torch.tensor([17, 18, 19, 0, 40, 41, 99, 8, 9, 9, 10, 11, 31, 32, 0, 300, 301])
    weight = torch.tensor([1, 0.5, 1, 1, 0.1, 0.9, 1, 1, 0.25, 0.5, 1, 1, 1, 1, 1, 0.75, 0.3])
    return singles()._replace(
        ids=ids, member_of=torch.arange(10).repeat_interleave(members), log_weight=weight.log()
    )


def dense(model: PreTrainedModel, weights: Candidates | None = None) -> Tensor:
    """The distributions of the six tokens in float64, the stop set at id 0."""
    ids, row, column, *_ = batch()
    table = model(input_ids=ids).logits[row, column].double().softmax(-1)
    return torch.cat(
        [table[:, [0, 2]].sum(-1, keepdim=True), table[:, 1:2], table[:, 2:3] * 0, table[:, 3:]], 1
    )


def expected(model: PreTrainedModel, own: Candidates) -> tuple[Tensor, Tensor]:
    """Log mass of the candidates and outside them, one candidate and member at a time."""
    table = dense(model)
    mass = [table.new_zeros(()) for _ in own.row]
    left = torch.ones_like(table)
    for m, token in enumerate(own.ids.tolist()):
        c = m if own.member_of is None else int(own.member_of[m])
        weight = 1.0 if own.log_weight is None else float(own.log_weight[m].exp())
        mass[c] = mass[c] + weight * table[own.row[c], token]
        left[own.row[c], token] -= weight
    return torch.stack(mass).log(), (left * table).sum(-1).log()


def scored(model: PreTrainedModel, own: Candidates | None, size: int = 2, **more: int) -> TokenScores:
    return TokenScorer(model, STOPS, logit_slice=size)(*batch(), own, **more)


def gradients(model: PreTrainedModel, compute: Callable[[], tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    model.zero_grad()
    values = torch.cat(compute())
    torch.autograd.backward((values * torch.linspace(-1, 1, len(values)).to(values.dtype)).sum())
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def both(scores: TokenScores) -> tuple[Tensor, Tensor]:
    assert scores.candidate_logp is not None and scores.rest_logp is not None
    return scores.candidate_logp, scores.rest_logp


@pytest.mark.parametrize("own", [singles(), sets()], ids=["singles", "sets"])
@pytest.mark.parametrize("size", SLICES)
def test_values_and_gradients(model: PreTrainedModel, own: Candidates, size: int) -> None:
    inside, rest = both(scored(model, own, size))
    wanted = expected(model, own)
    assert inside.dtype == rest.dtype == torch.float32
    torch.testing.assert_close(inside.double(), wanted[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rest.double(), wanted[1], rtol=1e-5, atol=1e-5)
    # Rows 1 and 4 have no candidates: everything is outside
    assert rest[[1, 4]].abs().max() < 1e-6
    found = gradients(model, lambda: both(scored(model, own, size)))
    for name, values in gradients(model, lambda: expected(model, own)).items():
        torch.testing.assert_close(found[name], values.float(), rtol=1e-4, atol=1e-5)


def test_mass_adds_up_to_one(model: PreTrainedModel) -> None:
    inside, rest = both(scored(model, singles()))
    total = rest.exp().index_add(0, singles().row, inside.exp())
    torch.testing.assert_close(total, torch.ones(6), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SLICES)
def test_other_scores_stay_bit_equal(model: PreTrainedModel, size: int) -> None:
    plain = TokenScorer(model, STOPS, logit_slice=size, topk=4)
    asked = plain(*batch(), sets(), num_sorted=3)
    for before, after in zip(plain(*batch())[:4], asked[:4], strict=True):
        assert torch.equal(before, after)


def test_a_candidate_is_the_sampled_token(model: PreTrainedModel) -> None:
    target = batch()[3].where(~batch()[4], 0)
    scores = scored(model, Candidates(row=torch.arange(6), ids=target))
    assert scores.candidate_logp is not None
    assert torch.equal(scores.candidate_logp, scores.logp)


def test_a_small_remainder_is_exact() -> None:
    # Outside the candidates: two tokens of mass exp(-60) / 2 each; 1 - (mass inside) would be 0
    logits = torch.tensor([[0.0, 0.0, -60.0, -60.0]], requires_grad=True)
    inside, rest = candidate_masses(logits, Candidates(row=torch.tensor([0, 0]), ids=torch.tensor([0, 1])))
    assert rest.item() == pytest.approx(-60.0, abs=1e-5)
    assert inside.exp().tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("weighted", [False, True])
def test_nothing_is_left_outside(weighted: bool) -> None:
    # All three tokens are candidates: -inf, and no NaN among the gradients
    logits = torch.tensor([[0.3, -1.0, 2.0]], requires_grad=True)
    own = Candidates(row=torch.tensor([0, 0, 0]), ids=torch.arange(3))
    if weighted:
        own = own._replace(member_of=torch.arange(3), log_weight=torch.zeros(3))
    inside, rest = candidate_masses(logits, own)
    assert torch.isneginf(rest).all()
    torch.autograd.backward(inside[0] + rest.exp().sum())
    # That of the first log-prob: 1 - p for itself, -p for the others
    law = logits.detach().softmax(-1)
    torch.testing.assert_close(logits.grad, torch.tensor([[1.0, 0.0, 0.0]]) - law)


def test_a_set_of_impossible_tokens() -> None:
    logits = torch.tensor([[0.0, -torch.inf, -torch.inf]], requires_grad=True)
    own = Candidates(
        row=torch.tensor([0, 0]),
        ids=torch.tensor([1, 2, 0]),
        member_of=torch.tensor([0, 0, 1]),
        log_weight=torch.zeros(3),
    )
    inside, _ = candidate_masses(logits, own)
    assert inside.tolist() == [-torch.inf, 0.0]
    torch.autograd.backward(inside[1])
    # Nothing moves a token that has all the mass
    assert logits.grad is not None and logits.grad.tolist() == [[0.0, 0.0, 0.0]]


def test_the_other_stops_have_no_mass(model: PreTrainedModel) -> None:
    scores = scored(model, Candidates(row=torch.tensor([0, 0]), ids=torch.tensor([0, 2])))
    assert scores.candidate_logp is not None and scores.stop_logp is not None
    assert scores.candidate_logp[1].item() == -torch.inf
    torch.testing.assert_close(scores.candidate_logp[0], scores.stop_logp[0])


@pytest.mark.parametrize("size", SLICES)
@pytest.mark.parametrize("num", [2, 7])
def test_sorted(model: PreTrainedModel, size: int, num: int) -> None:
    ids = [300, 7, 0, 41, 2]
    found = TokenScorer(model, STOPS, logit_slice=size, sorted_ids=ids)(*batch(), num_sorted=num).sorted_logp
    # The smaller stop has the mass of both, the larger none; missing places are -inf
    table = dense(model)[:, ids].log().sort(-1, descending=True).values
    padded = nn.functional.pad(table, (0, max(num - 5, 0)), value=-torch.inf)[:, :num]
    torch.testing.assert_close(found.double(), padded, rtol=1e-5, atol=1e-5)
    assert found.requires_grad


def test_sorted_over_the_whole_vocabulary(model: PreTrainedModel) -> None:
    found = scored(model, None, num_sorted=4).sorted_logp
    assert found is not None
    torch.testing.assert_close(found.double(), dense(model).log().topk(4, -1).values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("grad", [False, True])
def test_nothing_to_score(model: PreTrainedModel, grad: bool) -> None:
    none = Candidates(row=torch.zeros(0, dtype=torch.long), ids=torch.zeros(0, dtype=torch.long))
    ids, *rest = batch()
    with torch.set_grad_enabled(grad):
        scores = TokenScorer(model, STOPS, logit_slice=4)(
            ids, *(values[:0] for values in rest), none, num_sorted=3
        )
    found = (scores.candidate_logp, scores.rest_logp, scores.sorted_logp)
    assert [tuple(values.shape) for values in found if values is not None] == [(0,), (0,), (0, 3)]


def test_no_logits_are_kept(model: PreTrainedModel) -> None:
    sizes: list[tuple[int, ...]] = []

    def pack(kept: Tensor) -> Tensor:
        if kept.numel() >= model.config.vocab_size and not isinstance(kept, nn.Parameter):
            sizes.append(tuple(kept.shape))
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
        scored(model, sets(), num_sorted=3)
    assert [shape for shape in sizes if model.config.vocab_size in shape] == []
