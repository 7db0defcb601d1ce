"""Sequences packed into rows against each of them alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
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
from dragoman.models import TokenScorer, TokenScores
from dragoman.models.packing import packing_of
from dragoman.padding import Packing, in_rows, packed_batches

SMALL: dict[str, Any] = {**shaped.SIZES, "vocab_size": 60}


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
            # The window is shorter than the sequences, and than a row
            layers = ["sliding_attention", "full_attention"]
            model = Gemma3ForCausalLM(Gemma3TextConfig(**SMALL, sliding_window=3, layer_types=layers))
        case "gpt2":
            model = GPT2LMHeadModel(GPT2Config(vocab_size=60, n_embd=16, n_layer=2, n_head=2))
        case _:
            model = MambaForCausalLM(MambaConfig(vocab_size=60, hidden_size=16, num_hidden_layers=2))
    return model.eval()


def sequences() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(3, 60, size) for size in (9, 2, 5, 3, 7, 4)]


def loss_of(model: PreTrainedModel, rows: list[list[int]], packed: bool) -> tuple[Tensor, Tensor]:
    """Log-probs of all tokens but the first of each sequence, and the gradient of a weighted sum of them."""
    found = sequences()
    laid = in_rows(found, rows)
    order = [index for row in rows for index in row]
    places = [(laid.row[i], laid.start[i] + np.arange(1, len(found[i]))) for i in sorted(order)]
    row = torch.from_numpy(np.concatenate([np.full(len(column), r) for r, column in places]))
    column = torch.from_numpy(np.concatenate([column for _, column in places]))
    ids = torch.from_numpy(laid.ids)
    scorer = TokenScorer(model, [1, 2], logit_slice=4)
    model.zero_grad()

    def loss(scores: TokenScores, tokens: slice) -> Tensor:
        kept.append(scores.logp.detach())
        return (scores.logp * torch.arange(1, len(row) + 1)[tokens]).sum() / len(row)

    kept: list[Tensor] = []
    positions = torch.from_numpy(laid.positions) if packed else None
    target = ids[row, column]
    no_stop = torch.zeros(len(row), dtype=torch.bool)
    total = scorer(ids, row, column - 1, target, no_stop, loss=loss, position_ids=positions)
    total.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return torch.cat(kept), gradient


@pytest.mark.parametrize("kind", ["llama", "eager", "qwen", "gemma"])
@pytest.mark.parametrize("rows", [[[0], [4, 1], [2, 5], [3]], [[0, 4, 2, 5, 3, 1]]], ids=["rows", "line"])
def test_packed_as_alone(kind: str, rows: list[list[int]]) -> None:
    model = make(kind)
    assert packing_of(model) is Packing.ROWS
    logp, gradient = loss_of(model, [[index] for index in range(6)], packed=False)
    packed_logp, packed_gradient = loss_of(model, rows, packed=True)
    torch.testing.assert_close(packed_logp, logp, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(packed_gradient, gradient, rtol=1e-4, atol=1e-5)


def test_a_state_that_runs_on_is_noticed() -> None:
    # Its forward takes no positions, or a trial shows that they change nothing
    assert packing_of(make("mamba")) is Packing.PADDED


class Blind(LlamaForCausalLM):  # type: ignore[misc]
    """Takes positions, but its attention looks at all before it."""

    def forward(self, input_ids: Any = None, position_ids: Any = None, **others: Any) -> Any:
        others["attention_mask"] = torch.ones_like(input_ids)
        return super().forward(input_ids=input_ids, position_ids=position_ids, **others)


def test_an_attention_that_sees_what_lies_before_is_noticed() -> None:
    torch.manual_seed(0)
    assert packing_of(Blind(LlamaConfig(**SMALL)).eval()) is Packing.PADDED


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_low_precision_is_no_leak(kind: str) -> None:
    assert packing_of(make(kind).bfloat16()) is Packing.ROWS


def test_flash_attention_has_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("llama")
    assert packing_of(model) is Packing.ROWS
    monkeypatch.setattr("dragoman.models.packing._keeps_apart", lambda base: True)
    monkeypatch.setattr(model.config, "_attn_implementation_internal", "flash_attention_2")
    assert packing_of(model) is Packing.LINE


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 100), st.sampled_from(list(Packing)))
def test_batches_hold_everything_once_and_no_more_than_fits(
    lengths: list[int], limit: int, packing: Packing
) -> None:
    batches = list(packed_batches(lengths, limit, packing))
    assert sorted(i for rows in batches for row in rows for i in row) == list(range(len(lengths)))
    for rows in batches:
        width = max(sum(lengths[i] for i in row) for row in rows)
        alone = sum(map(len, rows)) == 1
        assert width * len(rows) <= limit or alone
        assert packing is not Packing.LINE or len(rows) == 1
        assert packing is not Packing.PADDED or all(len(row) == 1 for row in rows)
        if packing is Packing.ROWS:
            assert width == max(lengths[i] for row in rows for i in row)


def test_packed_batches_by_hand() -> None:
    assert list(packed_batches([2, 9, 3, 4, 7], 18, Packing.ROWS)) == [[[1], [4, 0]], [[3], [2]]]
    assert list(packed_batches([2, 9, 3, 4, 7], 18, Packing.LINE)) == [[[1, 4, 0]], [[3, 2]]]
    assert list(packed_batches([2, 9, 3], 18, Packing.PADDED)) == [[[1], [2]], [[0]]]


def test_rows_by_hand() -> None:
    laid = in_rows([np.array([7, 8]), np.array([4, 5, 6]), np.array([9])], [[1], [0, 2]])
    assert laid.ids.tolist() == [[4, 5, 6], [7, 8, 9]]
    assert laid.positions.tolist() == [[0, 1, 2], [0, 1, 0]]
    assert (laid.row.tolist(), laid.start.tolist()) == ([1, 0, 1], [0, 0, 2])
