"""Log-probs of the ends of sequences, batched by length: views of a teacher, turns of a student.

What several sequences begin with is read once (`dragoman.models.prefixes`), where the model can go on from
that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from dragoman.models.full_rows import Blocks, HeadLogp
from dragoman.models.gated import fused_gates
from dragoman.models.onednn import fastest_linears
from dragoman.models.processor import mkl_is_at_home
from dragoman.models.scoring import TokenScorer
from dragoman.models.sharing import new_cache, repeated, shared_readings
from dragoman.padding import length_buckets, right_padded, stretches

if TYPE_CHECKING:
    from transformers import Cache

READ_TOKENS = {"cpu": 1024}
"""Tokens read at once where memory allows more: activations of more do not fit the caches of a processor."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Span:
    """A sequence whose tokens from `start` on are to be scored; `start` is at least 1. `is_stop` says of
    each of these whether it is a stop."""

    ids: Int64[np.ndarray, " L"]
    start: int
    is_stop: Bool[np.ndarray, " N"]


@dataclass(frozen=True, kw_only=True, eq=False)
class SpanScores:
    """`TokenScores` of one span, as arrays; float64 for models in float64."""

    logp: Float[np.ndarray, " N"]
    topk_ids: Int64[np.ndarray, "N K"]
    topk_logp: Float[np.ndarray, "N K"]
    stop_logp: Float[np.ndarray, " N"]
    entropy: Float[np.ndarray, " N"] | None = None
    full_logp: HeadLogp | None = None
    """The whole distributions, made when asked for, where the scorer is `full`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Tokens:
    """What is to be scored, of all spans one after the other: `target` behind `column` of `owner`."""

    owner: Int64[np.ndarray, " N"]
    column: Int64[np.ndarray, " N"]
    target: Int64[np.ndarray, " N"]
    is_stop: Bool[np.ndarray, " N"]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Batch:
    """Rows to be read, and which tokens are scored in which row. `behind` columns have been read before."""

    ids: Sequence[Int64[np.ndarray, " _"]]
    index: Int64[np.ndarray, " n"]
    row: Int64[np.ndarray, " n"]
    behind: int = 0
    cache: Cache | None = None


def score_spans(scorer: TokenScorer, spans: Sequence[Span], *, batch_tokens: int) -> list[SpanScores]:
    """Score every span, in order, without gradients; no batch holds more than `batch_tokens` tokens, padding
    and a shared beginning included (a longer sequence is alone in its batch). A span without tokens has empty
    scores.

    Log-probs are those of whole sequences to 1e-4 nats in float32: what is summed is the same, the order in
    which products of another size sum it is not.
    """
    if not spans:
        return []
    counts = np.array([len(span.is_stop) for span in spans], np.int64)
    # The last token is predicted, not read
    sequences = [span.ids[: max(1, span.start + len(span.is_stop) - 1)] for span in spans]
    wanted = np.flatnonzero(counts) if counts.any() else np.array([0])
    owner, plan = shared_readings(scorer.model, [sequences[i] for i in wanted])
    own = np.zeros(len(spans), np.int64)
    own[wanted] = wanted[owner]
    tokens = _Tokens(
        owner=np.repeat(own, counts),
        column=stretches(np.array([span.start - 1 for span in spans]), counts),
        target=np.concatenate([span.ids[span.start : span.start + len(span.is_stop)] for span in spans]),
        is_stop=np.concatenate([span.is_stop for span in spans]),
    )
    found: dict[str, Tensor] = {}
    with torch.no_grad(), _fast_products(scorer):
        for reading in plan:
            members = wanted[list(reading.members)]
            for batch in _batches(scorer, reading.shared, members, sequences, tokens, batch_tokens):
                _score(scorer, batch, tokens, found)
    return _divided(scorer, found, counts)


def _divided(
    scorer: TokenScorer, found: dict[str, Tensor], counts: Int64[np.ndarray, " s"]
) -> list[SpanScores]:
    """The scores of all tokens as those of each span; their distributions share one block of memory."""
    states = found.pop("states", None)
    blocks = None if states is None else Blocks(scorer.head, states)
    arrays = {name: values.numpy() for name, values in found.items()}
    divided = []
    for count, end in zip(counts.tolist(), np.cumsum(counts).tolist(), strict=True):
        own = {name: values[end - count : end] for name, values in arrays.items()}
        full = None
        if blocks is not None:
            full = HeadLogp(blocks=blocks, start=end - count, known=~np.isnan(own["logp"]))
        divided.append(SpanScores(**own, full_logp=full))
    return divided


@contextmanager
def _fast_products(scorer: TokenScorer) -> Iterator[None]:
    """The products that are fastest for many rows."""
    by_torch = mkl_is_at_home()
    with ExitStack() as stack:
        stack.enter_context(fused_gates(scorer, float32=not by_torch))
        stack.enter_context(fastest_linears(scorer))
        yield


def _batches(
    scorer: TokenScorer,
    shared: int,
    members: Int64[np.ndarray, " m"],
    sequences: Sequence[Int64[np.ndarray, " _"]],
    tokens: _Tokens,
    batch_tokens: int,
) -> Iterator[_Batch]:
    """A reading in batches that fit: first what is shared, if anything is, then what is behind it."""
    cache = None
    if shared:
        early = np.flatnonzero(np.isin(tokens.owner, members) & (tokens.column < shared))
        early = early[np.lexsort((tokens.target[early], tokens.column[early]))]
        cache = new_cache(scorer.model)
        first = sequences[members[0]][:shared]
        yield _Batch(ids=[first], index=early, row=np.zeros(len(early), np.int64), cache=cache)
    lengths = [len(sequences[i]) - shared for i in members]
    most = max(1, batch_tokens // (shared + max(lengths)))
    read = min(batch_tokens, READ_TOKENS.get(next(scorer.parameters()).device.type, batch_tokens))
    for bucket in length_buckets(lengths, read):
        for start in range(0, len(bucket), most if shared else len(bucket)):
            rows = members[bucket[start : start + most] if shared else bucket]
            row_of = np.full(len(sequences), -1)
            row_of[rows] = np.arange(len(rows))
            row = row_of[tokens.owner]
            index = np.flatnonzero((row >= 0) & (tokens.column >= shared))
            # An order that does not depend on that of the spans
            index = index[np.lexsort((tokens.target[index], tokens.column[index], row[index]))]
            yield _Batch(
                ids=[sequences[i][shared:] for i in rows],
                index=index,
                row=row[index],
                behind=shared,
                cache=None if cache is None else repeated(cache, len(rows)),
            )


def _score(scorer: TokenScorer, batch: _Batch, tokens: _Tokens, found: dict[str, Tensor]) -> None:
    """Read a batch, and write the scores of its tokens to their places among all."""
    ids, _ = right_padded(batch.ids)
    index = batch.index
    arrays = (
        ids,
        batch.row,
        tokens.column[index] - batch.behind,
        tokens.target[index],
        tokens.is_stop[index],
    )
    device = next(scorer.parameters()).device
    more = {} if batch.cache is None else {"cache": batch.cache}
    scores = scorer(*(torch.from_numpy(array).to(device) for array in arrays), **more)
    for name, value in scores._asdict().items():
        if value is not None:
            if name not in found:
                found[name] = torch.empty((len(tokens.owner), *value.shape[1:]), dtype=value.dtype)
            found[name][torch.from_numpy(index)] = value.cpu()
