"""Strings in sorted order, so that those with a common prefix are neighbours, and their trie."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt16, UInt64

from dragoman.padding import stretches
from dragoman.text.strings import PIECE, ByteStrings, byte_order, common_with_last, piece_of, pieces_at

RADIX = 512
"""Above every symbol: bytes, then events, which no token spells."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PrefixOrder:
    """Keys in sorted order: key n is that of `ids[n]`. Equal keys are in the order of `of`.

    >>> order = PrefixOrder.of(np.array([4, 7, 9]), ByteStrings.of([b"the", b"a", b"then"]))
    >>> order.ids.tolist(), order.range(b"the"), order.keys[1]
    ([7, 4, 9], (1, 3), b'the')
    """

    ids: Int64[np.ndarray, " N"]
    keys: ByteStrings

    @classmethod
    def of(cls, ids: Int64[np.ndarray, " N"], keys: ByteStrings) -> PrefixOrder:
        """Sort: `ids[n]` has `keys[n]`."""
        order = byte_order(keys)
        return cls(ids=ids[order], keys=keys.take(order))

    @cached_property
    def longest(self) -> int:
        """The bytes of the longest key."""
        return int(self.keys.lengths.max(initial=0))

    def range(self, prefix: bytes) -> tuple[int, int]:
        """Where in `ids` those lie whose keys start with `prefix`, which may be all of a key: (lo, hi)."""
        low = self._first_from(prefix)
        stem = prefix.rstrip(b"\xff")
        if not stem:
            return low, len(self.ids)
        return low, self._first_from(stem[:-1] + bytes([stem[-1] + 1]))

    def _first_from(self, data: bytes) -> int:
        """Where the first key lies that is not before `data`: by the first bytes of all keys, which are in
        one array, then by whole keys."""
        start = int(self._pieces.searchsorted(piece_of(data)))
        if len(data) <= PIECE:
            return start
        stop = int(self._pieces.searchsorted(piece_of(data), side="right"))
        return bisect_left(range(len(self.ids)), data, start, stop, key=self.keys.__getitem__)

    @cached_property
    def _pieces(self) -> UInt64[np.ndarray, " N"]:
        return pieces_at(self.keys, np.arange(len(self.keys)), 0)

    def starting(self, prefix: bytes) -> Int64[np.ndarray, " n"]:
        """The ids whose keys start with `prefix`."""
        low, high = self.range(prefix)
        return self.ids[low:high]

    def rests(self, low: int, high: int, skip: int) -> ByteStrings:
        """The keys `low:high` without their first `skip` bytes, which all of them have."""
        places = np.arange(low, high)
        return self.keys.cut(places, np.full(len(places), skip), self.keys.lengths[low:high])

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What it is made of, by name."""
        return {"ids": self.ids, "data": self.keys.data, "bounds": self.keys.bounds}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> PrefixOrder:
        """What `arrays` gave."""
        return cls(ids=arrays["ids"], keys=ByteStrings(data=arrays["data"], bounds=arrays["bounds"]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranked:
    """An order, and where in it each of V ids is: `place[i]`, -1 for an id that has no key."""

    order: PrefixOrder
    place: Int64[np.ndarray, " V"]

    @classmethod
    def of(cls, order: PrefixOrder, num_ids: int) -> Ranked:
        """Find the places."""
        place = np.full(num_ids, -1)
        place[order.ids] = np.arange(len(order.ids))
        return cls(order=order, place=place)

    @property
    def ids(self) -> Int64[np.ndarray, " N"]:
        """The ids in order."""
        return self.order.ids


@dataclass(frozen=True, kw_only=True, eq=False)
class ByteTrie:
    """Strings as a trie, to look up many prefixes at once, or what matches at every place of a text.

    Node 0 is the root and node n + 1 the child that `edges[n]`, parent and byte in one number, leads to.
    Nodes are numbered level by level, so edges are sorted; those of depth d are `levels[d]:levels[d + 1]`.
    The strings that start with what node n spells are `low[n]:high[n]` in their sorted order; if it is a
    string itself, that is the first of them.
    """

    edges: Int64[np.ndarray, " E"]
    levels: Int64[np.ndarray, " D_plus_1"]
    low: Int32[np.ndarray, " E_plus_1"]
    high: Int32[np.ndarray, " E_plus_1"]
    is_end: Bool[np.ndarray, " E_plus_1"]
    node_of: Int32[np.ndarray, " N"]
    """The node of every string, in sorted order."""

    @classmethod
    def of(cls, strings: Iterable[bytes]) -> ByteTrie:
        """The trie of some strings; empty ones are left out."""
        listed = ByteStrings.of(sorted(set(strings) - {b""}))
        return cls.of_sorted(listed)

    @classmethod
    def of_sorted(cls, keys: ByteStrings) -> ByteTrie:
        """The trie of sorted strings, none of them empty.

        String n has a node of its own for every byte behind those that it shares with the one before.
        """
        shared, size = common_with_last(keys), len(keys)
        owner = np.repeat(np.arange(size), keys.lengths - shared)
        depth = stretches(shared, keys.lengths - shared)
        order = np.argsort(depth, kind="stable")
        owner, depth = owner[order], depth[order]
        place = depth * size + owner
        # The last node of the level above that is no later string's; above the first level is the root.
        parent = np.searchsorted(place, place - size, side="right") * (depth > 0)
        edges = parent * RADIX + keys.data[keys.bounds[owner] + depth]
        ends = np.searchsorted(place, (keys.lengths - 1) * size + np.arange(size), side="right")
        count = np.bincount(ends, minlength=len(edges) + 1)
        is_end = count > 0
        levels = np.searchsorted(depth, np.arange(int(keys.lengths.max(initial=0)) + 1))
        for start, stop in pairwise(levels[::-1].tolist()):
            np.add.at(count, parent[stop:start], count[stop + 1 : start + 1])
        low = np.append(0, owner).astype(np.int32)
        return cls(
            edges=edges,
            levels=levels,
            low=low,
            high=low + count.astype(np.int32),
            is_end=is_end,
            node_of=ends.astype(np.int32),
        )

    @cached_property
    def parents(self) -> Int64[np.ndarray, " E"]:
        """The parent of node n + 1."""
        return self.edges // RADIX

    @cached_property
    def symbols(self) -> Int64[np.ndarray, " E"]:
        """The byte that leads to node n + 1."""
        return self.edges % RADIX

    def step(
        self, node: Int64[np.ndarray, " n"], symbol: Int64[np.ndarray, " n"]
    ) -> tuple[Int64[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
        """The child of every node under a symbol, and whether there is one."""
        if not len(self.edges):
            return node, np.zeros(len(node), bool)
        edge = node * RADIX + symbol
        place = np.searchsorted(self.edges, edge)
        return place + 1, self.edges[np.minimum(place, len(self.edges) - 1)] == edge

    def longest(self, symbols: UInt16[np.ndarray, " N"]) -> Int64[np.ndarray, " N"]:
        """How many symbols the longest string has that matches at each place; 0 where none does.

        Walks from all places at once, a symbol at a time: O(N x longest match x log nodes).
        """
        found = np.zeros(len(symbols), np.int64)
        at, node = np.arange(len(symbols)), np.zeros(len(symbols), np.int64)
        depth = 0
        while len(at):
            node, matches = self.step(node, symbols[at + depth].astype(np.int64))
            at, node = at[matches], node[matches]
            depth += 1
            found[at[self.is_end[node]]] = depth
            goes_on = at + depth < len(symbols)
            at, node = at[goes_on], node[goes_on]
        return found

    def walk(
        self, strings: ByteStrings
    ) -> tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, " N"], Int64[np.ndarray, " N"]]:
        """Of each of some strings the last node on its way, how many bytes lead there, and the last node on
        the way that is a string (0, the root, where none is)."""
        node, size = np.zeros(len(strings), np.int64), np.zeros(len(strings), np.int64)
        last = np.zeros(len(strings), np.int64)
        at = np.flatnonzero(strings.lengths > 0)
        depth = 0
        while len(at):
            symbols = strings.data[strings.bounds[at] + depth].astype(np.int64)
            found, matches = self.step(node[at], symbols)
            at, found = at[matches], found[matches]
            depth += 1
            node[at], size[at] = found, depth
            ends = self.is_end[found]
            last[at[ends]] = found[ends]
            at = at[strings.lengths[at] > depth]
        return node, size, last

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What it is made of, by name."""
        return {
            "edges": self.edges,
            "levels": self.levels,
            "low": self.low,
            "high": self.high,
            "is_end": self.is_end,
            "node_of": self.node_of,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ByteTrie:
        """What `arrays` gave."""
        return cls(**arrays)
