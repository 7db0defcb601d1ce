"""Whole rows of a teacher, made of hidden states when asked for, are those of dense arrays, and neither
scoring nor supervision makes an array of positions x vocabulary."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

import shaped
import toy
from dragoman.alignment import align
from dragoman.config import MethodConfig
from dragoman.full_logp import FullLogp, HeldLogp
from dragoman.models import Span, SpanScores, TokenScorer, full_rows, onednn, score_spans
from dragoman.models.full_rows import BEHIND, Blocks, HeadLogp
from dragoman.supervise.rows import canon, gkd
from dragoman.supervise.sorted import build_gold, build_uld
from dragoman.text import PairTables
from dragoman.types import TeacherScores, TokenText

WORDS = ["".join(word) for size in range(2, 6) for word in product("abcd", repeat=size)]
IDS = 1 + 4 + len(WORDS)
"""A stop, four letters, and all words of two to five of them."""
ROW = 8


def make(kind: str) -> PreTrainedModel:
    """With logits as large as those of real models."""
    model = shaped.make(kind, IDS)
    return model.to(torch.bfloat16 if kind == "bfloat16" else torch.float32)


def spans(*sizes: int) -> list[Span]:
    rng = np.random.default_rng(0)
    return [Span(ids=rng.integers(1, IDS, 4 + n), start=4, is_stop=np.zeros(n, bool)) for n in sizes]


def dense(model: PreTrainedModel, span: Span) -> np.ndarray:
    with torch.no_grad():
        logits = model(torch.from_numpy(span.ids)[None]).logits[0, span.start - 1 : -1].double()
    found: np.ndarray = logits.log_softmax(-1).numpy()
    return found


def full_of(scores: SpanScores) -> HeadLogp:
    assert scores.full_logp is not None
    return scores.full_logp


# --- the same values


@pytest.mark.parametrize("kind", ["llama", "cohere", "gemma2"])
def test_rows_are_those_of_whole_logits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_rows, "BLOCK_VALUES", 7 * IDS)
    model, given = make(kind), spans(30, 0, 5, 11)
    scorer = TokenScorer(model, [0], full=True)
    for span, scores in zip(given, score_spans(scorer, given, batch_tokens=40), strict=True):
        full, expected = full_of(scores), dense(model, span)
        held: FullLogp = HeldLogp(expected.astype(np.float32))
        assert isinstance(full, FullLogp) and isinstance(held, FullLogp)
        assert len(full) == len(held) == len(span.is_stop)
        np.testing.assert_array_equal(full.usable, held.usable)
        for places in (slice(None), slice(2, 4), slice(3, 3), slice(0, 20)):
            np.testing.assert_allclose(full.rows(places), held.rows(places), atol=2e-5)
        for place in range(len(full)):
            np.testing.assert_array_equal(
                full.rows(slice(place, place + 1))[0, [7, 3]], full.at(place, np.array([7, 3]))
            )
            assert full.at(place, span.ids[span.start + place :][:1]) == pytest.approx(
                scores.logp[place], abs=2e-6
            )


@pytest.mark.parametrize("by_torch", [True, False])
@pytest.mark.parametrize("kind", ["llama", "bfloat16"])
def test_rows_are_those_of_the_head(kind: str, by_torch: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "mkl_is_at_home", lambda: by_torch)
    model = make(kind)
    head = model.get_output_embeddings()
    states = torch.randn(40, 16, dtype=head.weight.dtype)
    with torch.no_grad():
        expected = head(states).double().log_softmax(-1).numpy()
    found = Blocks(head, states).rows(0, 40)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    # However they are divided, they are distributions.
    np.testing.assert_allclose(np.exp(found.astype(np.float64)).sum(axis=1), 1.0, atol=1e-6)


def test_values_that_are_not_finite_make_no_distribution() -> None:
    model = make("llama")
    with torch.no_grad():
        model.get_output_embeddings().weight[5] = torch.inf
    (scores,) = score_spans(TokenScorer(model, [0], full=True), spans(3), batch_tokens=40)
    assert not full_of(scores).usable.any() and np.isnan(full_of(scores).rows(slice(None))).all()


# --- how much is made, and how often


class Counted(torch.nn.Linear):
    """Counts the rows it is given."""

    def __init__(self) -> None:
        super().__init__(4, IDS, bias=False)
        self.given: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.given.append(len(inputs))
        return super().forward(inputs)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Counted, Blocks]]:
    monkeypatch.setattr(full_rows, "BLOCK_VALUES", 20 * IDS)
    head = Counted()
    yield head, Blocks(head, torch.randn(100, 4))


def test_places_in_order_are_made_once(counted: tuple[Counted, Blocks]) -> None:
    head, blocks = counted
    for place in range(100):
        for looked in range(max(0, place - BEHIND), min(place + 2, 100)):
            assert blocks.rows(looked, looked + 1).shape == (1, IDS)
    # Each block but the first begins `BEHIND` places before the one that was asked for.
    assert sum(head.given) <= 100 * 20 / (20 - BEHIND) + 20 and max(head.given) == 20


def test_more_than_a_block_is_joined(counted: tuple[Counted, Blocks]) -> None:
    head, blocks = counted
    single = np.concatenate([blocks.rows(place, place + 1) for place in range(100)])
    head.given.clear()
    np.testing.assert_array_equal(blocks.rows(0, 100), single)
    assert max(head.given) == 20
    assert not blocks.rows(3, 9).flags.writeable


def test_one_product_is_not_written_over(counted: tuple[Counted, Blocks]) -> None:
    _, blocks = counted
    first = blocks.rows(0, 1)
    kept = first.copy()
    blocks.rows(80, 81)
    np.testing.assert_array_equal(first, kept)


# --- nothing of positions x vocabulary


class Largest(TorchDispatchMode):
    """Values of the largest tensor that any operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, Sequence) else [out]:
            if isinstance(one, Tensor):
                self.values = max(self.values, one.numel())
        return out


@pytest.mark.parametrize(
    "build", [gkd.build, canon.build, build_gold, build_uld], ids=["gkd", "canon", "gold", "uld"]
)
def test_nothing_holds_all_positions_and_ids(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    size = ROW * 25
    monkeypatch.setattr(full_rows, "BLOCK_VALUES", 20 * IDS)
    model, side = make("llama"), toy.bpe("words", *(f"{word[:-1]} {word[-1]}" for word in WORDS))
    scorer = TokenScorer(model, [0], full=True, logit_slice=16)
    tables = PairTables(side, side)
    assert side.num_ids == IDS
    text = side.view(np.random.default_rng(0).integers(1, IDS, size))
    span = Span(ids=np.append([1], text.ids), start=1, is_stop=np.zeros(size, bool))
    supervise = build(tables, MethodConfig(row_topk=ROW, guard="off"))
    supervised(supervise, text, HeldLogp(dense(model, span).astype(np.float32)))  # makes tables
    with Largest() as largest:
        tracemalloc.start()
        (scores,) = score_spans(scorer, [span], batch_tokens=4096)
        found = supervised(supervise, text, full_of(scores))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert largest.values <= 20 * IDS < size * IDS
    # Numpy's part, in bytes: eight rows of float64 and what is made of one, and no whole table of float32
    assert peak < size * IDS * 4
    expected = supervised(supervise, text, HeldLogp(dense(model, span).astype(np.float32)))
    if found.rows is not None:
        np.testing.assert_array_equal(found.rows.ids, expected.rows.ids)
        np.testing.assert_allclose(found.rows.logp, expected.rows.logp, atol=2e-5)
    if found.sorted_logp is not None:
        np.testing.assert_allclose(found.sorted_logp, expected.sorted_logp, atol=2e-5)
    assert found.rows is not None or found.sorted_logp.shape == (size, ROW)
    np.testing.assert_array_equal(found.reason, expected.reason)


def supervised(supervise: Any, text: TokenText, full: FullLogp) -> Any:
    own = [float(full.at(place, text.ids[place : place + 1])[0]) for place in range(len(text))]
    scores = TeacherScores(
        logp=np.array(own, np.float32),
        missing=np.zeros(len(text), np.uint8),
        full_logp=full,
        tokens=text,
    )
    return supervise(toy.rollout_of(text), scores, align(text, text))
