"""Sequences of different lengths: as padded batches, and side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int64


def length_buckets(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Indices of sequences of similar length, so that no batch holds more than `max_tokens` padded
    tokens; a longer sequence is alone in its batch. Longest first, so that memory peaks at once.

    >>> list(length_buckets([2, 9, 3, 4], 10))
    [[1], [3, 2], [0]]
    """
    bucket: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if bucket and lengths[bucket[0]] * (len(bucket) + 1) > max_tokens:
            yield bucket
            bucket = []
        bucket.append(index)
    if bucket:
        yield bucket


def right_padded(
    sequences: Sequence[Int64[np.ndarray, " _"]],
) -> tuple[Int64[np.ndarray, "B L"], Int64[np.ndarray, "B L"]]:
    """Ids padded with 0 on the right, and the mask that is 1 on true tokens."""
    ids = np.zeros((len(sequences), max(map(len, sequences))), np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return ids, mask


def left_padded(
    sequences: Sequence[Int64[np.ndarray, " _"]], pad_id: int
) -> tuple[Int64[np.ndarray, "B L"], Int64[np.ndarray, "B L"]]:
    """Ids padded with `pad_id` on the left, and the mask that is 1 on true tokens."""
    ids = np.full((len(sequences), max(map(len, sequences))), pad_id, np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, ids.shape[1] - len(sequence) :] = sequence
        mask[row, ids.shape[1] - len(sequence) :] = 1
    return ids, mask


def stretches(first: Int64[np.ndarray, " N"], sizes: Int64[np.ndarray, " N"]) -> Int64[np.ndarray, " M"]:
    """`first[i], first[i] + 1, ...`, `sizes[i]` of them, for every i in turn.

    >>> stretches(np.array([3, 0]), np.array([3, 2])).tolist()
    [3, 4, 5, 0, 1]
    """
    before = np.cumsum(sizes) - sizes
    places: Int64[np.ndarray, " M"] = np.arange(int(sizes.sum())) + np.repeat(first - before, sizes)
    return places
