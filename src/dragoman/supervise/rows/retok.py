"""`retok`: a teacher token's mass goes to the first token of the student's own tokenisation of it.

With T the teacher's distribution and sp(w) the student tokens that the student's tokenizer makes of teacher
token w:

    row at a root:        S token u  <-  sum over w with sp(w) = (u, ...) of T(w)
    after y_1 .. y_n of a teacher token:  u  <-  sum over sp(w) = (y_1, .., y_n, u, ...) of T(w) / Z,

Z the same sum over all w whose spelling starts with y_1 .. y_n. In a chunk's later teacher tokens, which the
student does not start where the teacher does, w is restricted to the bytes written and u is the first token
of the student's tokenisation of the remainder. A sampled token y that reaches over teacher tokens
w_1 .. w_{r-1} into the next takes

    T(w_1) / Z * T(w_2) .. T(w_{r-1}) * sum over w of T(w)

out of the mass that w_1 had given elsewhere, over those w for which the student's tokenizer writes y in
the joint text w_1 .. w_{r-1} w. A sampled token that no known teacher token is spelled with has no row.

Needs: the teacher's most likely tokens or its whole distribution. Source: dragoman; docs/methods.md.
Labels as in `rows.common`.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Int64

from dragoman.config import MethodConfig
from dragoman.supervise.dense import dense
from dragoman.supervise.rows.assembly import largest, rows_of, telling
from dragoman.supervise.rows.common import Mass, Places, Response, root, scatter
from dragoman.supervise.sampled import Supervise
from dragoman.text import NOWHERE, PairTables
from dragoman.text.pair import first_of

_CACHED = 512
"""Beginnings of tokens whose remainders are remembered."""
_TRIED = 256
"""Likeliest last teacher tokens that are tried for a student token that reaches into them."""


def build(tables: PairTables, config: MethodConfig) -> Supervise:
    """Rows by the student's tokenisation of teacher tokens, for student tokens in comparable chunks."""
    rule = Spellings(tables)
    return dense(tables, config, lambda response: rows_of(response, telling(rule), config.row_topk))


class Spellings:
    """The rule, with the remainders it has looked up."""

    def __init__(self, tables: PairTables) -> None:
        self._tables = tables
        self._remainders = lru_cache(maxsize=_CACHED)(self._find_remainders)
        self._following = lru_cache(maxsize=_CACHED)(self._find_following)

    def __call__(self, response: Response, index: int) -> Mass | None:
        """The row of one student token."""
        place, written = int(response.teacher_of[index]), int(response.written[index])
        last, part = response.last_teacher(index)
        token = int(response.tokens.ids[place])
        if not written:
            mass = root(response, index, self._tables.first_token)
            head = int(self._tables.first_token[token])
        else:
            places = self._inside(response, index)
            own = int(places.order.place[token])
            is_inside = places.low <= own < places.high
            if last > place and not is_inside:
                # Alone the token is spelled in another way; with those behind it perhaps not.
                places = places._replace(alone=token)
            mass = scatter(response, index, places)
            head = int(places.targets[own - places.low]) if is_inside else NOWHERE
        if mass is not None and last > place:
            chain = np.prod([response.teacher.realised(k) for k in range(place, last)])
            amount = float(chain) * self._ending(response, index, last, part)
            mass.move(amount / mass.given, head, int(response.target[index]))
        return mass

    def _inside(self, response: Response, index: int) -> Places:
        """Teacher tokens that agree with what is written of one, and the student's next token in each."""
        emitted = self._emitted(response, index)
        if emitted is None:
            place, written = int(response.teacher_of[index]), int(response.written[index])
            return self._remainders(response.tokens.token_bytes(place)[:written])
        return self._following(tuple(emitted.tolist()))

    def _find_following(self, emitted: tuple[int, ...]) -> Places:
        """The teacher tokens that are spelled so, and the student's next token in each."""
        tables = self._tables
        low, high = tables.spelling_prefix_range(np.array(emitted, np.int64))
        ids = tables.spelling_order.ids[low:high]
        places = tables.spelling_bounds[ids] + len(emitted)
        inside = places < tables.spelling_bounds[ids + 1]
        following = tables.spelling_ids[np.where(inside, places, 0)]
        return Places(tables.by_spelling, low, high, np.where(inside, following, NOWHERE))

    def _emitted(self, response: Response, index: int) -> Int64[np.ndarray, " n"] | None:
        """The student tokens since the boundary at which this teacher token starts; None where none does."""
        alignment = response.alignment
        chunk = int(alignment.chunk_of[index])
        if response.teacher_of[index] != alignment.teacher_bounds[chunk]:
            return None
        return response.rollout.completion.ids[int(alignment.student_bounds[chunk]) : index]

    def _ending(self, response: Response, index: int, last: int, part: bytes) -> float:
        """The mass of the last teacher tokens with which the student's tokenizer writes the sampled token."""
        bounds, data = response.tokens.bounds, response.tokens.data
        start, emitted = int(bounds[response.teacher_of[index]]), self._emitted(response, index)
        if emitted is None:
            start, emitted = start + int(response.written[index]), np.zeros(0, np.int64)
        before = data[start : int(bounds[last])]
        wanted = np.append(emitted, response.rollout.completion.ids[index])
        by_bytes = self._tables.by_bytes
        places, mass = response.teacher[last].within(by_bytes, *by_bytes.order.range(part))
        tried = largest(mass, _TRIED)
        ids, mass = by_bytes.ids[places[tried]], mass[tried]
        texts = [before + self._tables.teacher.token_bytes(i) for i in ids.tolist()]
        bounds_s, found = self._tables.student.encode_many(texts)
        agrees = np.diff(bounds_s) >= len(wanted)
        for place, wanted_id in enumerate(wanted.tolist()):
            agrees &= first_of(bounds_s, found, place) == wanted_id
        return float(mass[agrees].sum())

    def _find_remainders(self, written: bytes) -> Places:
        """The teacher tokens that start so, and the student's first token of what follows in each."""
        order = self._tables.teacher_bytes
        low, high = order.range(written)
        bounds, ids = self._tables.spell(order.rests(low, high, len(written)).tolist())
        return Places(self._tables.by_bytes, low, high, first_of(bounds, ids))
