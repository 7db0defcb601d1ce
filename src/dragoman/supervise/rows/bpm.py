"""`bpm`, byte-prefix marginalisation: a teacher token goes to the longest student token that starts it.

With T the teacher's distribution, P(w | c) = T(w) / sum_{w' starts with c} T(w') for the bytes c already
written of a teacher token (none at a root), and lp(x) the longest student token that is a byte prefix of x:

    row: S token u  <-  sum over w starting with c, lp(w without c) = u, of P(w | c)

A sampled token y that reaches over teacher tokens w_1 .. w_{r-1} into the next by bytes d takes

    P(w_1 | c) T(w_2) .. T(w_{r-1}) * sum_{w starts with d} T(w)

out of the mass of lp(w_1 without c). A teacher token that ends at c has no remainder and is residual.

Needs: the teacher's most likely tokens or its whole distribution. Source: arXiv 2607.22334, whose authors
give no row to sampled tokens of blanks alone (`method.mask_whitespace`). Labels as in `rows.common`.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from dragoman.config import MethodConfig
from dragoman.supervise.dense import dense
from dragoman.supervise.rows.assembly import rows_of, telling
from dragoman.supervise.rows.common import Mass, Places, Response, root, scatter
from dragoman.supervise.sampled import Supervise
from dragoman.text import PairTables
from dragoman.text.strings import ByteStrings

_CACHED = 512
"""Beginnings of tokens whose remainders are remembered."""


def build(tables: PairTables, config: MethodConfig) -> Supervise:
    """Rows by longest byte prefixes, for every student token in a comparable chunk."""
    rule = BytePrefixes(tables)
    return dense(tables, config, lambda response: rows_of(response, telling(rule), config.row_topk))


class BytePrefixes:
    """The rule, with the remainders it has looked up."""

    def __init__(self, tables: PairTables) -> None:
        self._tables = tables
        self._remainders = lru_cache(maxsize=_CACHED)(self._find_remainders)

    def __call__(self, response: Response, index: int) -> Mass | None:
        """The row of one student token."""
        place = int(response.teacher_of[index])
        token = response.tokens.token_bytes(place)
        written = token[: int(response.written[index])]
        if written:
            mass = scatter(response, index, self._remainders(written))
        else:
            mass = root(response, index, self._tables.longest_prefix)
        last, part = response.last_teacher(index)
        if mass is None or last == place:
            return mass
        by_bytes = self._tables.by_bytes
        _, ending = response.teacher[last].within(by_bytes, *by_bytes.order.range(part))
        chain = np.prod([response.teacher.realised(k) for k in range(place, last)])
        head = int(self._tables.student.words.longest_of(ByteStrings.of([token[len(written) :]]))[0])
        mass.move(float(chain * ending.sum()) / mass.given, head, int(response.target[index]))
        return mass

    def _find_remainders(self, written: bytes) -> Places:
        """The teacher tokens that start so, and where what follows in each of them goes."""
        order = self._tables.teacher_bytes
        low, high = order.range(written)
        targets = self._tables.student.words.longest_of(order.rests(low, high, len(written)))
        return Places(self._tables.by_bytes, low, high, targets)
