"""`canon`: the masses of sets of student tokens, as fine as one teacher row can tell them apart.

The target is `q*`: what the teacher will write, in the student's own tokenisation, given the student's tokens
so far. Three things tell a teacher token's mass from that of a student token, and each is dealt with:

* **A student token may be longer.** Behind teacher token w the student's next token is sp(w)[0], or a longer
  one, v, that the teacher's tokenizer writes as (w, ...). Which of them, this row cannot say; that it is one
  of them, it says exactly. So they are one candidate, a set with the mass of w; sets that share a token are
  joined. The loss sees the student's mass of the whole set, and leaves its parts to their own proportions.
  What follows the teacher's realised tokens is known from the next rows and parts the set of the first. A
  token of little mass that begins many joins none, and a set too large to be listed is part of the residual.
* **A teacher token may have begun before.** With k bytes written, the teacher may be inside a token that
  began at an earlier boundary: token w that starts with the bytes since then and goes on has the mass T(w)
  divided by that of the realised tokens since. Its next student token is what the student's tokenizer writes
  of it at k.
* **The student's tokenizer must have divided here.** A teacher token with which it would have joined the
  student's last token is impossible, given that it did not; the row is divided by the mass of the others.

Inside a teacher token (k bytes of it written) the teacher may also have ended there; what would follow is not
in any row. Such a row is `partial`: masses of the tokens that go on are right relative to each other. So is a
row with more than `listed.DOUBT` of straddling mass whose next student token hangs on what comes behind
(white space): one that differs before one letter may be joined with the last token before another.

Not known: of a token that is not realised, what follows. So mass may be given to a token that the student's
tokenizer would have joined with the one before as soon as it sees two teacher tokens, and the teacher's other
ways to divide the bytes since an earlier boundary are left out. Rows are exact but for that.

Needs: the teacher's most likely tokens or its whole distribution. Source: dragoman;
docs/decisions/0011-canonical-rows.md. Labels as in `rows.common`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from dragoman.config import MethodConfig
from dragoman.supervise.dense import dense
from dragoman.supervise.rows.ahead import CHECKED, LARGE, LEAST, MOST, Ahead, Step
from dragoman.supervise.rows.common import Response, gathered
from dragoman.supervise.rows.listed import rows_of_sets
from dragoman.supervise.rows.longer import JOINED, Continued, LongerTokens, Question, likeliest
from dragoman.supervise.rows.sets import Sets
from dragoman.supervise.rows.straddling import Straddlers, Straddling
from dragoman.supervise.rows.teacher import TeacherRow
from dragoman.supervise.sampled import Supervise
from dragoman.text import NOWHERE, PairTables
from dragoman.types import ChunkKind, Rows


class Look(NamedTuple):
    """What is to be known of a place: teacher tokens that straddle it, whether likely ones would be joined
    with the student's last token, and what may follow the realised one."""

    straddling: list[Straddling]
    joins: Question | None
    ahead: Step | None

    @property
    def questions(self) -> list[Question]:
        """All questions of it to the student's tokenizer."""
        found = [straddling.question for straddling in self.straddling]
        found += [] if self.joins is None else [self.joins]
        found += [] if self.ahead is None else self.ahead.questions
        return found


class Canonical:
    """The rule, with what it has looked up of a pair."""

    def __init__(self, tables: PairTables) -> None:
        self._tables = tables
        self._longer = LongerTokens(tables)
        self._continued = Continued(tables)
        self._ahead = Ahead(tables, self._longer, self._continued)
        self._straddlers = Straddlers(tables, CHECKED, LEAST)

    def of(self, response: Response) -> Callable[[Response, int], Sets | None]:
        """The masses at one student token of a response; None where nothing is known.

        Where the teacher told its most likely tokens, what the student's tokenizer is to be asked about the
        whole response is asked at once. Full rows are too large to be there twice.
        """
        reach = self._straddlers.reach(response)
        if response.teacher.are_full:
            return lambda response, index: self._sets(response, index, self._look(response, index, reach))
        looks = {
            index: self._look(response, index, reach) for index in np.flatnonzero(response.asked).tolist()
        }
        self._continued.prepare([question for look in looks.values() for question in look.questions])
        return lambda response, index: self._sets(response, index, looks[index])

    def _look(self, response: Response, index: int, reach: Int64[np.ndarray, " T"]) -> Look:
        """What is to be known of one place, before any answer is."""
        if response.written[index]:
            return Look(self._straddlers.found(response, index, reach), None, None)
        if self._tables.same_ids:
            return Look([], None, None)
        before = _before(response, index)
        row = response.teacher[int(response.teacher_of[index])]
        likely = row.ids[likeliest(row.known, CHECKED, LEAST)]
        likely = likely[self._tables.teacher.strings.lengths[likely] > 0]
        joins = (*before, likely) if before[0] else None
        return Look(
            self._straddlers.found(response, index, reach),
            joins,
            self._ahead.first_step(response, index, before),
        )

    def _sets(self, response: Response, index: int, look: Look) -> Sets | None:
        tables, place = self._tables, int(response.teacher_of[index])
        row, written = response.teacher[place], int(response.written[index])
        sets = Sets(whole=tables.same_ids and not written)
        if sets.whole:
            self._add(sets, row, row.known)
            return sets
        if written:
            sets.doubtful += self._straddlers.ended(response, place, written)
        else:
            mass = self._possible(response, index, row, look)
            self._add(sets, row, mass)
            self._meet(response, index, sets)
            self._ahead.look(response, sets, look.ahead)
            self._link(response, index, sets, row, mass)
        for straddling in look.straddling:
            self._place(sets, straddling)
        return sets if any(sets.single.values()) else None

    def _add(self, sets: Sets, row: TeacherRow, mass: Float64[np.ndarray, " K"]) -> None:
        ids, found, nowhere = gathered(self._tables.first_token[row.ids], mass)
        sets.single = dict(zip(ids.tolist(), found.tolist(), strict=True))
        sets.lost += nowhere + row.tail

    def _meet(self, response: Response, index: int, sets: Sets) -> None:
        """An event without an entry in the tables means what the alignment says."""
        place = int(response.teacher_of[index])
        token = int(response.tokens.ids[place])
        if response.kind(index) == ChunkKind.EVENT and self._tables.first_token[token] == NOWHERE:
            amount = min(response.teacher.realised(place), sets.lost)
            sets.lost -= amount
            sets.add(amount, int(response.target[index]))

    def _possible(
        self, response: Response, index: int, row: TeacherRow, look: Look
    ) -> Float64[np.ndarray, " K"]:
        """A row without the teacher tokens that the student's tokenizer would join with its last token."""
        if look.joins is None:
            return row.known
        realised = int(response.tokens.ids[int(response.teacher_of[index])])
        ids = np.asarray(look.joins[2], np.int64)
        joined = ids[(self._continued(*look.joins) == JOINED) & (ids != realised)]
        return np.where(np.isin(row.ids, joined), 0.0, row.known) if len(joined) else row.known

    def _link(
        self, response: Response, index: int, sets: Sets, row: TeacherRow, mass: Float64[np.ndarray, " K"]
    ) -> None:
        """Join each likely teacher token's first student token with the longer ones it may begin."""
        realised = int(response.tokens.ids[int(response.teacher_of[index])])
        likely = np.flatnonzero((mass >= LEAST) & (row.ids != realised))
        ids, own = row.ids[likely], mass[likely]
        count = self._longer.count[ids]
        able = count > 0
        sets.link(*self._longer.of(ids[able & (count <= MOST) & (own >= LEAST * count)]))
        _, alone, before_letter = self._continued.unsettled
        unsettled = self._unsettled[ids]
        unsettled = unsettled[unsettled != NOWHERE]
        sets.link(alone[unsettled], before_letter[unsettled])
        for w in ids[able & (count > MOST) & (own >= LARGE)].tolist():
            sets.give_up(int(self._tables.first_token[w]))

    @cached_property
    def _unsettled(self) -> Int64[np.ndarray, " Vt"]:
        """The place of each teacher token among those that are unsettled."""
        place = np.full(self._tables.teacher.num_ids, NOWHERE)
        ids, _, _ = self._continued.unsettled
        place[ids] = np.arange(len(ids))
        return place

    def _place(self, sets: Sets, found: Straddling) -> None:
        """Give the mass of straddling teacher tokens to the next student token of each. Of those that were
        not asked about as large a share is possible as of these."""
        placed = 0.0
        targets = self._continued(*found.question).tolist()
        for w, mass, target in zip(found.ids, found.mass.tolist(), targets, strict=True):
            if target == JOINED:
                continue
            placed += mass
            if target == NOWHERE:
                sets.doubtful += mass
                continue
            sets.add(mass, target)
            rest = self._tables.teacher.token_bytes(w)[len(found.since) :]
            if longer := self._longer.behind(found.since, rest, w):
                sets.join([target, *longer])
        checked = float(found.mass.sum())
        sets.lost += found.others * (placed / checked if checked else 1.0)


def _before(response: Response, index: int) -> tuple[tuple[int, ...], bytes]:
    """The student's last token before a place with its bytes, if its tokenizer may have chosen it in view
    of what follows; no event is chosen so, nor is what stands before the response."""
    text, last = response.rollout.completion, index - 1
    if last < 0 or text.event[last] or not text.canonical[last]:
        return (), b""
    token = int(text.ids[last])
    return (token,), text.token_bytes(last)


def build(tables: PairTables, config: MethodConfig) -> Supervise:
    """Exact masses of sets of student tokens, for student tokens in comparable chunks."""
    rule = Canonical(tables)

    def rows(response: Response) -> Rows:
        return rows_of_sets(response, rule.of(response), config.row_topk)

    return dense(tables, config, rows)
