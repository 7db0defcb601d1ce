"""Heads whose logits are scaled or capped are scored a slice at a time, like plain ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from dragoman.models import TokenScorer
from dragoman.models.heads import HeadShape, head_shape
from shaped import make

IDS = 40
SHAPES = {
    "cohere": HeadShape(scale=0.5),
    "granite": HeadShape(scale=1 / 3),
    "gemma2": HeadShape(cap=3.0),
}


def batch() -> tuple[Tensor, ...]:
    ids = torch.randint(1, IDS, (2, 9), generator=torch.Generator().manual_seed(1))
    row, column = torch.arange(2).repeat_interleave(8), torch.arange(8).repeat(2)
    target = ids[row, column + 1]
    return ids, row, column, target, torch.zeros_like(target, dtype=torch.bool)


def whole(model: PreTrainedModel, given: tuple[Tensor, ...]) -> Tensor:
    ids, row, column, target, _ = given
    logp = model(input_ids=ids).logits[row, column].log_softmax(-1)
    return logp.gather(1, target[:, None])[:, 0]


@pytest.mark.parametrize("kind", SHAPES)
def test_log_probs_and_gradients(kind: str) -> None:
    model, given = make(kind, IDS), batch()
    scorer = TokenScorer(model, [], logit_slice=3)
    assert scorer.head_shape is not None
    assert scorer.head_shape == pytest.approx(SHAPES[kind])

    found = {}
    for name, logp in {"own": lambda: scorer(*given).logp, "whole": lambda: whole(model, given)}.items():
        model.zero_grad()
        values = logp()
        values.square().sum().backward()
        found[name] = [values.detach(), *(one.grad for one in model.parameters())]
    for own, expected in zip(found["own"], found["whole"], strict=True):
        assert (own is None) == (expected is None)
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", SHAPES)
def test_no_logits_of_the_whole_batch_with_hooks(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = make(kind, IDS), batch()
    scorer = TokenScorer(model, [], logit_slice=3)
    head = model.get_output_embeddings()
    rows: list[int] = []
    head.register_forward_hook(lambda _, inputs, output: rows.append(output.shape[0]))
    with torch.no_grad():
        scorer(*given)
    assert rows == [3, 3, 3, 3, 3, 1]


def test_a_cap_that_does_not_show_is_not_believed() -> None:
    assert head_shape(make("gemma2", IDS, factor=1e-3)) is None


def test_a_declared_cap_that_is_not_there() -> None:
    model = make("granite", IDS)
    model.config.final_logit_softcapping = 3.0
    assert head_shape(model) is None
