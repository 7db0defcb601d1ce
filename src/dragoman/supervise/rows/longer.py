"""Student tokens that a teacher writes in several tokens: which they are, by the first of those."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Bool, Int64

from dragoman.text import NOWHERE, PairTables
from dragoman.types import Event

_TRIED = 64
"""Student tokens that are tried as longer ones behind a token that began before."""


class LongerTokens:
    """For teacher token w the student tokens that the teacher's tokenizer writes as (w, w_2, ...)."""

    def __init__(self, tables: PairTables) -> None:
        self._tables = tables
        self.behind = lru_cache(maxsize=65536)(self._behind)
        self.joint = lru_cache(maxsize=65536)(self._joint)

    @cached_property
    def _spelled(
        self,
    ) -> tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, " N_plus_1"], Int64[np.ndarray, " M"]]:
        """Student text tokens with their spelling in teacher tokens: (ids, bounds, teacher ids)."""
        student = self._tables.student
        ids = np.flatnonzero(student.events == Event.NONE)
        vocabulary = student.vocabulary_bytes()
        bounds, found = self._tables.teacher.encode_many([vocabulary[i] for i in ids.tolist()])
        return ids, bounds, found

    @cached_property
    def _by_first(self) -> tuple[Int64[np.ndarray, " Vt_plus_1"], Int64[np.ndarray, " n"]]:
        """Numbers into `_spelled` of the tokens with several teacher tokens, by the first of these."""
        _, bounds, found = self._spelled
        several = np.flatnonzero(np.diff(bounds) > 1)
        first = found[bounds[several]]
        order = np.argsort(first, kind="stable")
        counts = np.bincount(first, minlength=self._tables.teacher.num_ids)
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), several[order]

    @cached_property
    def has(self) -> Bool[np.ndarray, " Vt"]:
        """Which teacher tokens begin a longer student token."""
        return np.diff(self._by_first[0]) > 0

    def of(self, w: int) -> Int64[np.ndarray, " n"]:
        """The longer student tokens that teacher token w begins."""
        bounds, numbers = self._by_first
        return self._spelled[0][numbers[bounds[w] : bounds[w + 1]]]

    @lru_cache(maxsize=4096)  # noqa: B019 - lives as long as the run
    def by_second(self, w: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """The same by the second teacher token of each."""
        ids, bounds, found = self._spelled
        by_first, numbers = self._by_first
        parts: dict[int, list[int]] = defaultdict(list)
        for number in numbers[by_first[w] : by_first[w + 1]].tolist():
            parts[int(found[bounds[number] + 1])].append(int(ids[number]))
        return tuple((second, tuple(members)) for second, members in parts.items())

    def _joint(self, w: int, second: int) -> tuple[int, frozenset[int]]:
        """The student's first token of two teacher tokens in a row, and the longer tokens that end where they
        end or before."""
        teacher = self._tables.teacher
        data = teacher.token_bytes(w) + teacher.token_bytes(second)
        spelled = self._tables.student.encode(data).ids
        start = int(spelled[0]) if len(spelled) else NOWHERE
        vocabulary = self._tables.student
        within = frozenset(
            v
            for s, members in self.by_second(w)
            if s == second
            for v in members
            if len(vocabulary.token_bytes(v)) <= len(data)
        )
        return start, within

    def _behind(self, written: bytes, rest: bytes, w: int) -> tuple[int, ...]:
        """Student tokens that start with `rest` and go on, such that the teacher's tokenizer writes `written`
        and the token as (w, ...)."""
        tables = self._tables
        low, high = tables.student_bytes.range(rest)
        keys, ids = tables.student_bytes.keys[low:high], tables.student_bytes.ids[low:high]
        tried = [(key, int(i)) for key, i in zip(keys, ids, strict=True) if len(key) > len(rest)][:_TRIED]
        if not tried:
            return ()
        bounds, found = tables.teacher.encode_many([written + key for key, _ in tried])
        first = found[bounds[:-1]]
        return tuple(i for (_, i), start in zip(tried, first.tolist(), strict=True) if start == w)
