"""From records to the padded batches of a step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dragoman.observe import Record
from dragoman.padding import length_buckets, right_padded
from dragoman.types import Event, Supervision, TrainBatch


def micro_batches(records: Sequence[Record], *, max_tokens: int, normalise: str) -> list[TrainBatch]:
    """Batches of at most `max_tokens` padded tokens, of similar lengths. There is always at least one, if
    only to take part in a gradient reduction."""
    lengths = [len(record.rollout.context_ids) + len(record.rollout.completion) for record in records]
    return [
        collate([records[i] for i in bucket], normalise) for bucket in length_buckets(lengths, max_tokens)
    ]


def normaliser(records: Sequence[Record], normalise: str) -> float:
    """What the loss sum is divided by: supervised tokens, responses with any, or supervised bytes."""
    return float(sum(_count(record, normalise) for record in records))


def collate(records: Sequence[Record], normalise: str) -> TrainBatch:
    """One batch: every supervised token with the position that predicts it."""
    ids, mask = right_padded(
        [np.concatenate([r.rollout.context_ids, r.rollout.completion.ids]) for r in records]
    )
    kept = [np.flatnonzero(_supervision(r).weight > 0) for r in records]
    places = [len(r.rollout.context_ids) + k for r, k in zip(records, kept, strict=True)]
    row = np.repeat(np.arange(len(records)), [len(k) for k in kept])
    place = np.concatenate(places)

    def picked(values: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([value[k] for value, k in zip(values, kept, strict=True)])

    credits = [_supervision(r).credit for r in records]
    behaviour = [r.rollout.behaviour_logp for r in records]
    return TrainBatch(
        input_ids=ids,
        attention_mask=mask,
        row=row,
        column=place - 1,
        target=ids[row, place],
        is_stop=picked([r.rollout.completion.event == Event.STOP for r in records]),
        weight=picked([_weights(r, normalise) for r in records]),
        credit=None if any(c is None for c in credits) else picked([c for c in credits if c is not None]),
        behaviour_logp=None
        if any(b is None for b in behaviour)
        else picked([b for b in behaviour if b is not None]),
    )


def _supervision(record: Record) -> Supervision:
    assert record.supervision is not None, "collating needs supervised records"
    return record.supervision


def _weights(record: Record, normalise: str) -> np.ndarray:
    """Token weights: under `sequence` a response's tokens share a weight of 1."""
    weight = _supervision(record).weight
    if normalise == "sequence":
        return weight / np.float32(max(float(weight.sum()), 1.0))
    return weight


def _count(record: Record, normalise: str) -> float:
    weight = _supervision(record).weight
    if normalise == "token":
        return float(weight.sum())
    if normalise == "sequence":
        return float(weight.any())
    return float(np.diff(record.rollout.completion.bounds)[weight > 0].sum())
