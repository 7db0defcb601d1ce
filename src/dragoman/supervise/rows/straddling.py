"""Teacher tokens that began before a place and go on behind it: they start with the bytes in between."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from dragoman.supervise.rows.common import Response
from dragoman.supervise.rows.longer import Question, likeliest
from dragoman.text import PairTables
from dragoman.text.strings import ByteStrings
from dragoman.types import ChunkKind

_CACHED = 1 << 16
"""Beginnings of tokens whose ranges are remembered."""


class Straddling(NamedTuple):
    """The likeliest `ids` that began at one earlier boundary, with the `mass` of each at the place, and that
    of `others`. `since` are the bytes from that boundary to the place; the student tokens `written` hold
    them, and `before` what the first of these has ahead of the boundary."""

    ids: list[int]
    mass: Float64[np.ndarray, " n"]
    others: float
    since: bytes
    before: bytes
    written: tuple[int, ...]

    @property
    def question(self) -> Question:
        """What the student's tokenizer is to be asked."""
        return self.written, self.before, self.ids


class Straddlers:
    """Finds them, with the ranges it has looked up of a pair."""

    def __init__(self, tables: PairTables, most: int, least: float) -> None:
        """Of each boundary the `most` likely that have `least` mass; inside a token, that share of all."""
        self._tables = tables
        self._most, self._least = most, least
        self._range = lru_cache(maxsize=_CACHED)(self._find_range)

    def reach(self, response: Response) -> Int64[np.ndarray, " T"]:
        """How far, in bytes of the response, some token of the teacher's goes along its text from the start
        of each of its tokens."""
        data, start = response.tokens.data, response.tokens.bounds[:-1]
        stop = np.minimum(start + self._tables.teacher_bytes.longest, len(data))
        text = ByteStrings(data=np.frombuffer(data, np.uint8), bounds=np.array([0, len(data)]))
        ahead = text.cut(np.zeros(len(start), np.int64), start, stop)
        _, size, _ = self._tables.teacher.words.trie.walk(ahead)
        return start + size

    def found(self, response: Response, index: int, reach: Int64[np.ndarray, " T"]) -> list[Straddling]:
        """Those at the place of one student token, the latest boundary first."""
        tokens = response.tokens
        place, written = int(response.teacher_of[index]), int(response.written[index])
        at = int(tokens.bounds[place]) + written
        scale, done = 1.0, place
        found: list[Straddling] = []
        behind = place + 1 if written else place
        events = np.flatnonzero(tokens.event[:behind])
        first = int(events[-1]) + 1 if len(events) else 0
        for earlier in (first + np.flatnonzero(reach[first:behind] >= at)[::-1]).tolist():
            since = tokens.data[int(tokens.bounds[earlier]) : at]
            low, high = self._range(since)
            if not since or low == high:
                continue
            if not _reachable(response, earlier, index):
                break
            for between in range(earlier, done):
                scale /= max(response.teacher.realised(between), 1e-30)
            done = min(earlier, done)
            row = response.teacher[earlier]
            places, mass = row.within(self._tables.by_bytes, low, high)
            mass = scale * mass
            # Inside a token only proportions count, however unlikely all of it was.
            chosen = likeliest(mass, self._most, self._least * (float(mass.sum()) if written else 1.0))
            others = max(float(mass.sum()) - float(mass[chosen].sum()), 0.0)
            found.append(
                Straddling(
                    self._tables.by_bytes.ids[places[chosen]].tolist(),
                    mass[chosen],
                    others + scale * row.tail_of(high - low - len(places)),
                    since,
                    *_student_side(response, index, len(since)),
                )
            )
        return found

    def ended(self, response: Response, place: int, written: int) -> float:
        """The teacher's mass of having ended a token with just the bytes written."""
        order, data = self._tables.teacher_bytes, response.tokens.token_bytes(place)[:written]
        low, behind = order.range(data)[0], self._range(data)[0]
        return response.teacher[place].of(int(order.ids[low])) if low < behind else 0.0

    def _find_range(self, since: bytes) -> tuple[int, int]:
        """The teacher's tokens, in order, that start with some bytes and go on."""
        order = self._tables.teacher_bytes
        low, high = order.range(since)
        while low < high and order.keys.lengths[low] == len(since):
            low += 1
        return low, high


def _reachable(response: Response, earlier: int, index: int) -> bool:
    """Whether all between a teacher token and a student token is text with rows, so that both sides have the
    same bytes there and the teacher's values can be used."""
    alignment = response.alignment
    chunk = int(np.searchsorted(alignment.teacher_bounds, earlier, side="right")) - 1
    last = int(alignment.chunk_of[index])
    if not (alignment.kind[chunk:last] < ChunkKind.EVENT).all():
        return False
    bounds = alignment.student_bounds[chunk : last + 2]
    has_row = response.teacher_of[bounds[0] : bounds[-1]] >= 0
    return bool(np.logical_or.reduceat(has_row, bounds[:-1] - bounds[0]).all())


def _student_side(response: Response, index: int, num_since: int) -> tuple[bytes, tuple[int, ...]]:
    """The student tokens that hold the bytes since a boundary, and what of the first lies ahead of it."""
    text: Int64[np.ndarray, " S_plus_1"] = response.rollout.completion.bounds
    start = int(text[index]) - num_since
    first = int(np.searchsorted(text[: index + 1], start, side="right")) - 1
    completion = response.rollout.completion
    return completion.data[int(text[first]) : start], tuple(completion.ids[first:index].tolist())
