"""Rows from supervision to gradients of a real model, against divergences of whole distributions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dragoman.config import MethodConfig
from dragoman.models import TokenScorer
from dragoman.objective import row_divergence
from dragoman.observe import Record
from dragoman.padding import Packing
from dragoman.train.collate import collate, micro_batches
from dragoman.train.scored import score_batch
from dragoman.types import Event, Prompt, Rollout, RowLabel, Rows, Supervision, TokenText, TrainBatch

STOPS = (0, 2)
CPU = torch.device("cpu")


def teacher_law(size: int, vocab: int, seed: int) -> np.ndarray:
    """Random distributions over the student's vocabulary, the stop set at id 0."""
    law = np.random.default_rng(seed).dirichlet(np.full(vocab, 0.3), size) + 1e-7
    law[:, 2] = 0.0
    return law / law.sum(-1, keepdims=True)


def record(ids: list[int], law: np.ndarray, keep: int, without: int) -> Record:
    """A response with rows of the teacher's `keep` likeliest tokens; token `without` has none."""
    size = len(ids)
    best = np.sort(np.argsort(-law, axis=1)[:, :keep], axis=1)
    best = np.delete(best, without, axis=0)
    others = np.delete(np.arange(size), without)
    mass = np.take_along_axis(law[others], best, axis=1)
    # Without its zero entry, the other stop, a whole distribution leaves exactly nothing
    residual = np.zeros(size) if keep >= law.shape[1] - 1 else np.insert(1 - mass.sum(1), without, 0.0)
    sizes = np.where(np.arange(size) == without, 0, keep)
    rollout = Rollout(
        prompt=Prompt(key="p", text="?"),
        sample=0,
        context_ids=np.array([10, 11]),
        completion=TokenText(
            ids=np.array(ids),
            data=b"x" * (size - 1),
            bounds=np.append(np.arange(size), size - 1),
            event=np.array([0] * (size - 1) + [Event.STOP], np.uint8),
            canonical=np.ones(size, bool),
        ),
        behaviour_logp=np.full(size, -1.0, np.float32),
    )
    supervision = Supervision(
        weight=np.ones(size, np.float32),
        reason=np.zeros(size, np.uint8),
        chunk_of=np.arange(size),
        credit=None,
        rows=Rows(
            bounds=np.concatenate([[0], np.cumsum(sizes)]),
            ids=best.reshape(-1),
            logp=np.log(mass.reshape(-1)).astype(np.float32),
            residual=residual.astype(np.float32),
            label=np.where(sizes > 0, RowLabel.EXACT, RowLabel.NONE).astype(np.uint8),
        ),
    )
    return Record(rollout=rollout, supervision=supervision, step=1)


def two_records(model: PreTrainedModel, keep: int) -> tuple[list[Record], np.ndarray]:
    """Responses of three and five tokens, the second of each without a row; and the teacher's laws."""
    law = teacher_law(8, model.config.vocab_size, 1)
    return [record([50, 60, 2], law[:3], keep, 1), record([70, 8, 9, 99, 0], law[3:], keep, 1)], law


def dense_jsd(model: PreTrainedModel, batch: TrainBatch, law: np.ndarray, beta: float) -> Tensor:
    """GKD's divergence as one would type it, over the whole vocabulary, in the order of the batch."""
    logits = model(input_ids=torch.from_numpy(batch.input_ids)).logits.double()[batch.row, batch.column]
    student = logits.softmax(-1)
    merged = torch.cat([student[:, [0, 2]].sum(-1, keepdim=True), student[:, 1:2], student[:, 3:]], -1)
    teacher = torch.from_numpy(np.delete(law, 2, axis=1))
    mixture = beta * teacher + (1 - beta) * merged
    values = beta * (teacher * (teacher / mixture).log()).sum(-1)
    return values + (1 - beta) * (merged * (merged / mixture).log()).sum(-1)


def gradients(model: PreTrainedModel, compute: Callable[[], Tensor]) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    total = compute()
    torch.autograd.backward(total)
    return total.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize("size", [3, 512])
def test_whole_rows_are_generalised_jsd(model: PreTrainedModel, beta: float, size: int) -> None:
    records, law = two_records(model, model.config.vocab_size - 1)
    batch = collate(records, "token")
    settings = MethodConfig(divergence="jsd", beta=beta)
    scorer = TokenScorer(model, STOPS, logit_slice=size)
    value, found = gradients(model, lambda: row_divergence(score_batch(scorer, batch, CPU), settings).total)
    has_row = torch.tensor([True, False, True, True, False, True, True, True])
    expected, wanted = gradients(model, lambda: dense_jsd(model, batch, law, beta)[has_row].sum())
    assert value == pytest.approx(expected, rel=1e-6)
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        torch.testing.assert_close(found[name], values.float(), rtol=1e-5, atol=1e-6)


def test_few_candidates_lose_little_and_never_more(model: PreTrainedModel) -> None:
    # Merging bins cannot raise a divergence
    settings = MethodConfig(divergence="jsd")
    scorer = TokenScorer(model, STOPS, logit_slice=4)
    values = []
    for keep in (1, 8, 64, model.config.vocab_size - 1):
        batch = collate(two_records(model, keep)[0], "token")
        with torch.no_grad():
            values.append(row_divergence(score_batch(scorer, batch, CPU), settings).total.item())
    assert 0 < values[0] < values[1] < values[2] < values[3]


@pytest.mark.parametrize(
    ("packing", "size", "number"), [(Packing.PADDED, 7, 2), (Packing.LINE, 12, 1), (Packing.LINE, 7, 2)]
)
def test_micro_batches_add_up(model: PreTrainedModel, packing: Packing, size: int, number: int) -> None:
    records, _ = two_records(model, 16)
    scorer = TokenScorer(model, STOPS, logit_slice=2)
    settings = MethodConfig()

    def total(batches: list[TrainBatch]) -> Tensor:
        parts = [row_divergence(score_batch(scorer, batch, CPU), settings).total for batch in batches]
        return torch.stack(parts).sum()

    whole, gradient = gradients(model, lambda: total([collate(records, "token")]))
    batches = micro_batches(records, max_tokens=size, normalise="token", packing=packing)
    assert len(batches) == number
    assert (batches[0].position_ids is not None) == (number == 1)
    parts, other = gradients(model, lambda: total(batches))
    assert parts == pytest.approx(whole, rel=1e-6)
    for name, values in gradient.items():
        torch.testing.assert_close(other[name], values, rtol=1e-5, atol=1e-6)


def test_no_whole_distribution_is_kept(model: PreTrainedModel) -> None:
    records, _ = two_records(model, 16)
    batch = collate(records, "token")
    scorer = TokenScorer(model, STOPS, logit_slice=2)
    kept: list[int] = []

    def pack(value: Tensor) -> Tensor:
        if not isinstance(value, nn.Parameter):
            kept.append(value.numel() if model.config.vocab_size in value.shape else 0)
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        row_divergence(score_batch(scorer, batch, CPU), MethodConfig(divergence="jsd"))
    assert kept and max(kept) == 0


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_replicas(model: PreTrainedModel, process_group: None) -> None:
    records, _ = two_records(model, 16)
    batch = collate(records, "token")
    scorer = TokenScorer(model, STOPS, logit_slice=2)
    wrapped = nn.parallel.DistributedDataParallel(scorer)
    settings = MethodConfig(divergence="reverse")
    alone, plain = gradients(model, lambda: row_divergence(score_batch(scorer, batch, CPU), settings).total)
    value, found = gradients(model, lambda: row_divergence(score_batch(wrapped, batch, CPU), settings).total)
    assert value == alone
    for name, values in plain.items():
        torch.testing.assert_close(found[name], values, rtol=0, atol=0)
