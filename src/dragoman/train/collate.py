"""From records to the padded batches of a step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dragoman.observe import Record
from dragoman.padding import Packing, in_rows, packed_batches
from dragoman.train.ragged import joined_rows, joined_sorted, joined_units
from dragoman.types import Event, Supervision, TrainBatch


def micro_batches(
    records: Sequence[Record], *, max_tokens: int, normalise: str, packing: Packing = Packing.PADDED
) -> list[TrainBatch]:
    """Batches of at most `max_tokens` tokens, padding included, of similar lengths. There is at least
    one if there are records, if only to take part in a gradient reduction, and none of no records."""
    lengths = [len(record.rollout.context_ids) + len(record.rollout.completion) for record in records]
    return [
        collate([records[i] for row in rows for i in row], normalise, sizes=[len(row) for row in rows])
        for rows in packed_batches(lengths, max_tokens, packing)
    ]


def normaliser(records: Sequence[Record], normalise: str) -> float:
    """What the loss sum is divided by: supervised tokens, responses with any, or supervised bytes. A token
    counts as one whatever its weight, which is a factor of its loss."""
    return float(sum(_count(record, normalise) for record in records))


def collate(records: Sequence[Record], normalise: str, sizes: Sequence[int] | None = None) -> TrainBatch:
    """One batch: every supervised token with the position that predicts it. Of the sequences the first
    `sizes[0]` lie in the first row, and so on; in a row each if left out."""
    sizes = [1] * len(records) if sizes is None else sizes
    ends = np.cumsum(sizes).tolist()
    sequences = [np.concatenate([r.rollout.context_ids, r.rollout.completion.ids]) for r in records]
    laid = in_rows(sequences, [range(end - size, end) for size, end in zip(sizes, ends, strict=True)])
    kept = [np.flatnonzero(_supervision(r).weight > 0) for r in records]
    counts = [len(k) for k in kept]
    row = np.repeat(laid.row, counts)
    before = [start + len(r.rollout.context_ids) for start, r in zip(laid.start, records, strict=True)]
    place = np.repeat(before, counts) + np.concatenate(kept)

    def picked(values: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([value[k] for value, k in zip(values, kept, strict=True)])

    def picked_if_all(values: list[np.ndarray | None]) -> np.ndarray | None:
        if any(value is None and len(k) for value, k in zip(values, kept, strict=True)):
            return None
        return picked([np.zeros(0, np.float32) if value is None else value for value in values])

    return TrainBatch(
        input_ids=laid.ids,
        position_ids=laid.positions if max(sizes) > 1 else None,
        row=row,
        column=place - 1,
        target=laid.ids[row, place],
        is_stop=picked([r.rollout.completion.event == Event.STOP for r in records]),
        weight=picked([_weights(r, normalise) for r in records]),
        credit=picked_if_all([_supervision(r).credit for r in records]),
        behaviour_logp=picked_if_all([r.rollout.behaviour_logp for r in records]),
        reference_logp=picked_if_all([r.rollout.reference_logp for r in records]),
        rows=joined_rows([_supervision(r).rows for r in records], kept),
        units=joined_units([_supervision(r).units for r in records], kept),
        sorted_logp=joined_sorted([_supervision(r).sorted_logp for r in records], kept),
    )


def _supervision(record: Record) -> Supervision:
    assert record.supervision is not None, "collating needs supervised records"
    return record.supervision


def _weights(record: Record, normalise: str) -> np.ndarray:
    """Token weights: under `sequence` divided by the supervised tokens of the response."""
    weight = _supervision(record).weight
    if normalise == "sequence":
        return weight / np.float32(max(int((weight > 0).sum()), 1))
    return weight


def _count(record: Record, normalise: str) -> float:
    weight = _supervision(record).weight
    if normalise == "token":
        return float((weight > 0).sum())
    if normalise == "sequence":
        return float((weight > 0).any())
    return float(np.diff(record.rollout.completion.bounds)[weight > 0].sum())
