"""Masses that float32 hardly has, or has not: values and gradients of scores that read them, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dragoman.models import Candidates, TokenScores
from dragoman.models.fused import fused_loss
from dragoman.models.slices import Asked

NO_STOPS = torch.zeros(0, dtype=torch.long)


@pytest.mark.parametrize("depth", [50.0, 60.0, 200.0])
def test_nothing_outside_and_almost_nothing(depth: float) -> None:
    # All but two tokens of position 0 and all of position 1 are candidates; the two have mass e^-depth, which
    # at 200 is no number of float32
    head = nn.Linear(1, 4, bias=False)
    head.weight.data = torch.tensor([[0.0], [0.0], [-depth], [-depth]])
    inputs = torch.ones(2, 1, requires_grad=True)
    own = Candidates(torch.tensor([0, 0, 1, 1, 1, 1]), torch.tensor([0, 1, 0, 1, 2, 3]))
    of = Asked(
        target=torch.tensor([0, 0]),
        is_stop=torch.zeros(2, dtype=torch.bool),
        stop_ids=NO_STOPS,
        candidates=own,
    )
    seen: list[TokenScores] = []

    def loss(scores: TokenScores, tokens: slice) -> Tensor:
        seen.append(scores)
        assert scores.rest_logp is not None
        return scores.rest_logp[0] + scores.rest_logp.exp()[1]

    fused_loss(inputs, head, [slice(0, 2)], [of], loss).backward()
    assert seen[0].rest_logp is not None
    assert seen[0].rest_logp[0].item() == pytest.approx(-depth, abs=2e-5)
    assert torch.isneginf(seen[0].rest_logp[1])
    # d rest / d logits: half each of the two outside, less the probabilities 1/2, 1/2, 0, 0
    assert head.weight.grad is not None
    assert head.weight.grad[:, 0].tolist() == pytest.approx([-0.5, -0.5, 0.5, 0.5], abs=1e-5)


@pytest.mark.parametrize("grad", [3.0, -3.0, 1e4])
def test_entropy_of_a_token_whose_mass_is_no_number_of_float32(grad: float) -> None:
    # e^-200 is 0 in float32; its part of the gradient is 0 as well
    head = nn.Linear(1, 3, bias=False)
    head.weight.data = torch.tensor([[0.0], [-1.0], [-200.0]])
    of = Asked(
        target=torch.tensor([0]), is_stop=torch.tensor([False]), stop_ids=torch.tensor([0]), entropy=True
    )

    def loss(scores: TokenScores, tokens: slice) -> Tensor:
        assert scores.entropy is not None
        return grad * scores.entropy.sum()

    fused_loss(torch.ones(1, 1), head, [slice(0, 1)], [of], loss).backward()
    law = torch.tensor([0.0, -1.0, -200.0], dtype=torch.float64).softmax(-1)
    expected = -grad * law * (law.log() + torch.special.entr(law).sum())
    assert head.weight.grad is not None
    torch.testing.assert_close(head.weight.grad[:, 0].double(), expected, rtol=1e-5, atol=1e-5)
