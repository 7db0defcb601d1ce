"""Log-probs of the ends of sequences, batched by length: views of a teacher, recorded turns of a student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64

from dragoman.models.onednn import fast_linears
from dragoman.models.scoring import TokenScorer
from dragoman.padding import length_buckets, right_padded


@dataclass(frozen=True, kw_only=True, eq=False)
class Span:
    """A sequence whose tokens from `start` on are to be scored; `start` is at least 1. `is_stop` says of
    each of these whether it is a stop."""

    ids: Int64[np.ndarray, " L"]
    start: int
    is_stop: Bool[np.ndarray, " N"]


@dataclass(frozen=True, kw_only=True, eq=False)
class SpanScores:
    """`TokenScores` of one span, as arrays."""

    logp: Float32[np.ndarray, " N"]
    topk_ids: Int64[np.ndarray, "N K"]
    topk_logp: Float32[np.ndarray, "N K"]
    stop_logp: Float32[np.ndarray, " N"]
    entropy: Float32[np.ndarray, " N"] | None = None
    full_logp: Float32[np.ndarray, "N V"] | None = None


def score_spans(scorer: TokenScorer, spans: Sequence[Span], *, batch_tokens: int) -> list[SpanScores]:
    """Score every span, in order, without gradients; no batch holds more than `batch_tokens` padded tokens
    (a longer sequence is alone in its batch). A span without tokens has empty scores.
    """
    found: dict[int, SpanScores] = {}
    for bucket in length_buckets([len(span.ids) for span in spans], batch_tokens):
        for index, scores in zip(bucket, _score_batch(scorer, [spans[i] for i in bucket]), strict=True):
            found[index] = scores
    return [found[index] for index in range(len(spans))]


def _score_batch(scorer: TokenScorer, spans: Sequence[Span]) -> list[SpanScores]:
    ids, mask = right_padded([span.ids for span in spans])
    counts = [len(span.is_stop) for span in spans]
    row = np.repeat(np.arange(len(spans)), counts)
    place = np.concatenate([np.arange(span.start, span.start + len(span.is_stop)) for span in spans])
    is_stop = np.concatenate([span.is_stop for span in spans])
    device = next(scorer.parameters()).device
    arrays = (ids, mask, row, place - 1, ids[row, place], is_stop)
    with torch.no_grad(), fast_linears(scorer, packed=False):
        scores = scorer(*(torch.from_numpy(array).to(device) for array in arrays))
    values = {name: value.cpu().numpy() for name, value in scores._asdict().items() if value is not None}
    ends = np.cumsum(counts)
    return [
        SpanScores(**{name: value[end - count : end] for name, value in values.items()})
        for count, end in zip(counts, ends, strict=True)
    ]
