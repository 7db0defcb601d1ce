"""What the teacher says behind a realised token, and what that tells of the student token begun with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from dragoman.supervise.rows.common import Response
from dragoman.supervise.rows.longer import JOINED, Continued, LongerTokens, Question, likeliest
from dragoman.supervise.rows.sets import Sets
from dragoman.text import NOWHERE, PairTables

CHECKED = 64
"""Likeliest teacher tokens of a row that are tokenised together with what precedes them."""
LEAST = 1e-4
"""Mass below which a teacher token is not looked at, and with which it may join one longer token; it may join
as many as it has times this."""
MOST = 1024
"""Longer tokens above which a set is not listed: it is part of the residual."""
LARGE = 1e-3
"""Mass from which on it matters that a set is not listed."""
_DEPTH = 4
"""Teacher tokens behind a realised one that are looked at."""


class Step(NamedTuple):
    """The student may still be inside token `target`, with mass `share`, when the teacher has written `chain`
    (`data`) and is at token `at`. `before` are the student's last token and its bytes, `longer` the student
    tokens that go on so, `following` the teacher tokens to be looked at; None where no more is known."""

    at: int
    share: float
    target: int
    chain: tuple[int, ...]
    before: tuple[tuple[int, ...], bytes]
    data: bytes
    longer: Mapping[int, Int64[np.ndarray, " n"]]
    following: Int64[np.ndarray, " n"] | None

    @property
    def questions(self) -> list[Question]:
        """What the student's tokenizer is to be asked."""
        if self.following is None:
            return []
        return [(self.before[0], self.before[1] + self.data, self.following)]


class Ahead:
    """Looks ahead, for one pair."""

    def __init__(self, tables: PairTables, longer: LongerTokens, continued: Continued) -> None:
        self._tables = tables
        self._longer = longer
        self._continued = continued

    def first_step(
        self, response: Response, index: int, before: tuple[tuple[int, ...], bytes]
    ) -> Step | None:
        """The first step of looking ahead; None where there is none to take."""
        tokens, tables = response.tokens, self._tables
        at = int(response.teacher_of[index])
        realised = int(tokens.ids[at])
        target, share = int(tables.first_token[realised]), response.teacher.realised(at)
        if tokens.event[at] or target == NOWHERE:
            return None
        return self._step(
            response, at, share, target, (realised,), before, tables.teacher.token_bytes(realised)
        )

    def _step(
        self,
        response: Response,
        at: int,
        share: float,
        target: int,
        chain: tuple[int, ...],
        before: tuple[tuple[int, ...], bytes],
        data: bytes,
    ) -> Step | None:
        """What is looked at behind teacher token `at`; None where that does not matter."""
        longer = self._longer.after(chain)
        if share < LEAST or not (longer or len(self._tables.student.token_bytes(target)) >= len(data)):
            return None
        at += 1
        following = None
        if at < len(response.tokens) and _known(response, at):
            row = response.teacher[at]
            parts = share * row.known
            likely = row.ids[likeliest(parts, CHECKED, LEAST)].tolist()
            begun = longer.keys() & row.ids[parts >= LEAST].tolist() if longer else ()
            following = np.array(sorted({*likely, *begun, int(response.tokens.ids[at])}), np.int64)
        return Step(at, share, target, chain, before, data, longer, following)

    def look(self, response: Response, sets: Sets, step: Step | None) -> None:
        """Part the mass of the realised teacher token by what the teacher says next.

        As long as the realised tokens go on one student token, or may, the next row tells which it is.
        """
        if step is None:
            return
        tokens, tables = response.tokens, self._tables
        for _ in range(_DEPTH):
            at, share, target, chain, before, data, longer, following = step
            if following is None:
                break
            row, realised = response.teacher[at], int(tokens.ids[at])
            starts = self._continued(before[0], before[1] + data, following)
            unnamed = share * row.tail_within(np.fromiter(longer, np.int64, len(longer)))
            sets.lost += sets.move(unnamed, target, None)
            source = target
            parts = (share * row.of_each(following)).tolist()
            for u, part, start in zip(following.tolist(), parts, starts.tolist(), strict=True):
                if start == JOINED and u != realised:
                    sets.move(part, source, None)
                    continue
                new = start if start >= 0 else source
                sets.move(part, source, new)
                if u == realised:
                    target = new
                elif u in longer:
                    size = len(data) + len(tables.teacher.token_bytes(u))
                    self._join(sets, new, self._longer.beyond(longer, [u], size), part)
            if tokens.event[at]:
                return
            share, chain = share * row.of(realised), (*chain, realised)
            data += tables.teacher.token_bytes(realised)
            if len(chain) > _DEPTH:
                longer = self._longer.after(chain)
                break
            found = self._step(response, at, share, target, chain, before, data)
            if found is None:
                return
            step = found
        self._join(sets, target, self._longer.beyond(longer, list(longer), len(data)), share)

    def _join(self, sets: Sets, target: int, longer: list[int], mass: float) -> None:
        """Join a token with the longer ones that some of its mass may mean, as far as they can be listed."""
        if not longer:
            return
        if len(longer) > MOST:
            if mass >= LARGE:
                sets.give_up(target)
        elif mass >= LEAST * len(longer):
            sets.join([target, *longer])


def _known(response: Response, place: int) -> bool:
    """Whether the teacher's values at one of its tokens can be used: its chunk has some row."""
    alignment = response.alignment
    chunk = int(np.searchsorted(alignment.teacher_bounds, place, side="right")) - 1
    first, last = alignment.student_bounds[chunk : chunk + 2].tolist()
    return bool((response.teacher_of[first:last] >= 0).any())
