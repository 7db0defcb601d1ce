"""Many byte strings as one buffer, and their order: what tables of whole vocabularies are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Int64, UInt8, UInt64

from dragoman.padding import stretches

PIECE = 7
"""Bytes compared at once; an eighth says how many of them there are."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ByteStrings:
    """N strings: number n is `data[bounds[n]:bounds[n + 1]]`.

    >>> strings = ByteStrings.of([b"the", b"", b"a"])
    >>> len(strings), strings[0], strings.take(np.array([2, 0])).tolist()
    (3, b'the', [b'a', b'the'])
    """

    data: UInt8[np.ndarray, " M"]
    bounds: Int64[np.ndarray, " N_plus_1"]

    @classmethod
    def of(cls, strings: Iterable[bytes]) -> ByteStrings:
        """Join some strings."""
        listed = list(strings)
        bounds = bounds_of(np.fromiter(map(len, listed), np.int64, len(listed)))
        return cls(data=np.frombuffer(b"".join(listed), np.uint8), bounds=bounds)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, index: int) -> bytes:
        return self.data[self.bounds[index] : self.bounds[index + 1]].tobytes()

    @cached_property
    def lengths(self) -> Int64[np.ndarray, " N"]:
        """The bytes of each."""
        return np.diff(self.bounds)

    def take(self, places: Int64[np.ndarray, " n"]) -> ByteStrings:
        """Some of the strings, in the order asked for."""
        return self.cut(places, np.zeros(len(places), np.int64), self.lengths[places])

    def cut(
        self, places: Int64[np.ndarray, " n"], start: Int64[np.ndarray, " n"], stop: Int64[np.ndarray, " n"]
    ) -> ByteStrings:
        """Bytes `start[i]:stop[i]`, which it must have, of string `places[i]`, for every i."""
        sizes = stop - start
        return ByteStrings(
            data=self.data[stretches(self.bounds[places] + start, sizes)], bounds=bounds_of(sizes)
        )

    def tolist(self) -> list[bytes]:
        """All of them."""
        return pieces(self.data.tobytes(), self.bounds)


def pieces(data: bytes, bounds: Int64[np.ndarray, " N_plus_1"]) -> list[bytes]:
    """The strings that some borders divide `data` into."""
    borders = bounds.tolist()
    return [data[start:stop] for start, stop in pairwise(borders)]


def bounds_of(sizes: np.ndarray) -> Int64[np.ndarray, " N_plus_1"]:
    """The borders of stretches of some sizes, from 0 on."""
    bounds = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=bounds[1:])
    return bounds


def byte_order(strings: ByteStrings) -> Int64[np.ndarray, " N"]:
    """The places of some strings in sorted order, equal ones as they stand.

    They are sorted by their first bytes, then those that are equal so far by the next, and so on: O(bytes)
    numbers in all, and as many rounds as the longest string that has a rival takes.

    >>> byte_order(ByteStrings.of([b"the", b"a", b"then", b""])).tolist()
    [3, 1, 0, 2]
    """
    rank = np.zeros(len(strings), np.int64)
    inside = np.arange(len(strings))
    depth = 0
    while len(inside):
        piece = pieces_at(strings, inside, depth)
        order = np.lexsort((piece, rank[inside])) if depth else np.argsort(piece, kind="stable")
        inside, piece = inside[order], piece[order]
        before = rank[inside]
        starts_group = np.append(True, before[1:] != before[:-1])
        starts = np.flatnonzero(starts_group | np.append(True, piece[1:] != piece[:-1]))
        first = np.flatnonzero(starts_group)
        place = before + np.arange(len(inside)) - np.repeat(first, np.diff(np.append(first, len(inside))))
        counts = np.diff(np.append(starts, len(inside)))
        rank[inside] = np.repeat(place[starts], counts)
        inside = inside[(np.repeat(counts, counts) > 1) & ((piece & 0xFF) == PIECE)]
        depth += PIECE
    return np.argsort(rank, kind="stable")


def common_with_last(strings: ByteStrings) -> Int64[np.ndarray, " N"]:
    """How many bytes each string has in common with the one before it; 0 for the first.

    >>> common_with_last(ByteStrings.of([b"a", b"the", b"then", b"then"])).tolist()
    [0, 0, 3, 4]
    """
    found = np.zeros(len(strings), np.int64)
    inside = np.arange(1, len(strings))
    depth = 0
    while len(inside):
        one, other = pieces_at(strings, inside - 1, depth), pieces_at(strings, inside, depth)
        size = np.minimum(one & 0xFF, other & 0xFF)
        differ = (one ^ other) >> 8
        equal = np.zeros(len(inside), np.uint64)
        for byte in range(PIECE):
            equal += (differ >> (8 * (PIECE - 1 - byte))) == 0
        found[inside] += np.minimum(equal, size).astype(np.int64)
        inside = inside[(differ == 0) & (size == PIECE)]
        depth += PIECE
    return found


def pieces_at(strings: ByteStrings, places: Int64[np.ndarray, " n"], depth: int) -> UInt64[np.ndarray, " n"]:
    """`PIECE` bytes of each of some strings from byte `depth` on, as a number that is ordered as they are:
    zeros stand for bytes that are not there, and the lowest byte is how many there are."""
    start = strings.bounds[places] + depth
    size = np.clip(strings.bounds[places + 1] - start, 0, PIECE)
    found = size.astype(np.uint64)
    last = max(len(strings.data) - 1, 0)
    for byte in range(PIECE):
        inside = size > byte
        symbols = strings.data[np.minimum(start + byte, last)] if len(strings.data) else np.zeros(1, np.uint8)
        found |= np.where(inside, symbols, 0).astype(np.uint64) << np.uint64(8 * (PIECE - byte))
    return found


def piece_of(data: bytes) -> np.uint64:
    """That number for the beginning of one string."""
    size = min(len(data), PIECE)
    return np.uint64(int.from_bytes(data[:size].ljust(PIECE, b"\0"), "big") << 8 | size)


def joined(parts: Sequence[ByteStrings]) -> ByteStrings:
    """The strings of several, one behind the other."""
    lengths = np.concatenate([np.zeros(0, np.int64), *(part.lengths for part in parts)])
    data = np.concatenate([np.zeros(0, np.uint8), *(part.data for part in parts)])
    return ByteStrings(data=data, bounds=bounds_of(lengths))
