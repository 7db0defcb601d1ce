"""Sequences of different lengths: as padded batches, and side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64


class Packing(StrEnum):
    """How sequences that are shorter than the longest of a batch lie in it."""

    PADDED = "padded"
    """A row each, padded."""
    ROWS = "rows"
    """Several in one row where they fit, no row longer than the longest."""
    LINE = "line"
    """All in one row, for attention that is told where each begins."""


class InRows(NamedTuple):
    """Sequences in rows, one behind the other; sequence i begins at `[row[i], start[i]]`. `positions` count
    within a sequence, and are 0 throughout where there is none."""

    ids: Int64[np.ndarray, "B L"]
    positions: Int64[np.ndarray, "B L"]
    row: Int64[np.ndarray, " n"]
    start: Int64[np.ndarray, " n"]


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


def packed_batches(lengths: Sequence[int], max_tokens: int, packing: Packing) -> Iterator[list[list[int]]]:
    """Indices of sequences as the rows of batches, none of which holds more than `max_tokens` tokens, padding
    included; a longer sequence is alone in its batch. Longest first.

    >>> list(packed_batches([2, 9, 3, 4, 7], 18, Packing.ROWS))
    [[[1], [4, 0]], [[3], [2]]]
    >>> list(packed_batches([2, 9, 3, 4, 7], 18, Packing.LINE))
    [[[1, 4, 0]], [[3, 2]]]
    """
    if packing is Packing.PADDED:
        for bucket in length_buckets(lengths, max_tokens):
            yield [[index] for index in bucket]
        return
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    while order:
        first = order[0]
        width = max_tokens if packing is Packing.LINE else lengths[first]
        most = 1 if packing is Packing.LINE else max(1, max_tokens // max(width, 1))
        rows, used, left = [[first]], [lengths[first]], []
        for index in order[1:]:
            room = next((row for row, size in enumerate(used) if size + lengths[index] <= width), None)
            if room is None and len(rows) < most:
                rows.append([])
                used.append(0)
                room = len(rows) - 1
            if room is None:
                left.append(index)
                continue
            rows[room].append(index)
            used[room] += lengths[index]
        yield rows
        order = left


def in_rows(sequences: Sequence[Int64[np.ndarray, " _"]], rows: Sequence[Sequence[int]]) -> InRows:
    """Sequences one behind the other in the rows of a batch, as `packed_batches` gives them."""
    lengths = [[len(sequences[index]) for index in row] for row in rows]
    ids = np.zeros((len(rows), max(map(sum, lengths))), np.int64)
    positions = np.zeros_like(ids)
    place = np.zeros((len(sequences), 2), np.int64)
    for number, row in enumerate(rows):
        start = 0
        for index in row:
            own = slice(start, start + len(sequences[index]))
            ids[number, own] = sequences[index]
            positions[number, own] = np.arange(len(sequences[index]))
            place[index] = number, start
            start = own.stop
    return InRows(ids, positions, place[:, 0], place[:, 1])


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
