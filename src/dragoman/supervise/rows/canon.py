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
row with more than `sets.DOUBT` of straddling mass whose next student token hangs on what comes behind (white
space): one that differs before one letter may be joined with the last token before another.

Not known: of a token that is not realised, what follows. So mass may be given to a token that the student's
tokenizer would have joined with the one before as soon as it sees two teacher tokens, and the teacher's other
ways to divide the bytes since an earlier boundary are left out. Rows are exact but for that.

Needs: the teacher's most likely tokens or its whole distribution. Source: dragoman;
docs/decisions/0011-canonical-rows.md. Labels as in `rows.common`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from dragoman.config import MethodConfig
from dragoman.supervise.dense import dense
from dragoman.supervise.rows.common import Response, gathered
from dragoman.supervise.rows.longer import JOINED, Continued, LongerTokens, Question, likeliest
from dragoman.supervise.rows.sets import Sets, rows_of_sets
from dragoman.supervise.rows.straddling import Straddlers, Straddling
from dragoman.supervise.rows.teacher import TeacherRow
from dragoman.supervise.sampled import Supervise
from dragoman.text import NOWHERE, PairTables
from dragoman.types import ChunkKind

_CHECKED = 64
"""Likeliest teacher tokens of a row that are tokenised together with what precedes them."""
_LEAST = 1e-4
"""Mass below which a teacher token is not looked at, and with which it may join one longer token; it may join
as many as it has times this."""
_MOST = 1024
"""Longer tokens above which a set is not listed: it is part of the residual."""
_LARGE = 1e-3
"""Mass from which on it matters that a set is not listed."""
_DEPTH = 4
"""Teacher tokens behind a realised one that are looked at."""


class Step(NamedTuple):
    """A step of looking ahead: the student may still be inside token `target`, with mass `share`, when the teacher
    has written `chain` (`data`) and is at token `at`. `before` are the student's last token and its bytes, `longer`
    the student tokens that go on so, `following` the teacher tokens to be looked at; None where no more is known.
    """

    at: int
    share: float
    target: int
    chain: tuple[int, ...]
    before: tuple[tuple[int, ...], bytes]
    data: bytes
    longer: Mapping[int, Int64[np.ndarray, " n"]]
    following: list[int] | None


class Look(NamedTuple):
    """What is to be known of a place: teacher tokens that straddle it, whether likely ones would be joined with the
    student's last token, and what may follow the realised one."""

    straddling: list[Straddling]
    joins: Question | None
    ahead: Step | None

    @property
    def questions(self) -> list[Question]:
        """All questions of it to the student's tokenizer."""
        found = [straddling.question for straddling in self.straddling]
        found += [] if self.joins is None else [self.joins]
        if self.ahead is not None and self.ahead.following is not None:
            written, before = self.ahead.before
            found.append((written, before + self.ahead.data, self.ahead.following))
        return found


class Canonical:
    """The rule, with what it has looked up of a pair."""

    def __init__(self, tables: PairTables) -> None:
        self._tables = tables
        self._longer = LongerTokens(tables)
        self._continued = Continued(tables)
        self._straddlers = Straddlers(tables, _CHECKED, _LEAST)

    def of(self, response: Response) -> Callable[[Response, int], Sets | None]:
        """The masses at one student token of a response; None where nothing is known.

        Where the teacher told its most likely tokens, what the student's tokenizer is to be asked about the whole
        response is asked at once. Full rows are too large to be there twice.
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
        before = self._before(response, index)
        row = response.teacher[int(response.teacher_of[index])]
        likely = row.ids[likeliest(row.known, _CHECKED, _LEAST)]
        likely = likely[self._tables.teacher.strings.lengths[likely] > 0]
        joins = (*before, likely.tolist()) if before[0] else None
        return Look(
            self._straddlers.found(response, index, reach), joins, self._first_step(response, index, before)
        )

    def _sets(self, response: Response, index: int, look: Look) -> Sets | None:
        tables, place = self._tables, int(response.teacher_of[index])
        sets = Sets()
        row, written = response.teacher[place], int(response.written[index])
        if tables.same_ids and not written:
            self._add(sets, row, row.known)
            return sets
        if written:
            sets.doubtful += self._straddlers.ended(response, place, written)
        else:
            mass = self._possible(response, index, row, look)
            self._add(sets, row, mass)
            self._meet(response, index, sets)
            self._look_ahead(response, index, sets, look.ahead)
            self._link(response, index, sets, row, mass)
        for straddling in look.straddling:
            self._place(sets, straddling)
        return sets if sets.normalise() else None

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

    def _before(self, response: Response, index: int) -> tuple[tuple[int, ...], bytes]:
        """The student's last token before a place with its bytes, if its tokenizer may have chosen it in view
        of what follows; no event is chosen so, nor is what stands before the response."""
        text, last = response.rollout.completion, index - 1
        if last < 0 or text.event[last] or not text.canonical[last]:
            return (), b""
        token = int(text.ids[last])
        return (token,), text.token_bytes(last)

    def _possible(
        self, response: Response, index: int, row: TeacherRow, look: Look
    ) -> Float64[np.ndarray, " K"]:
        """A row without the teacher tokens that the student's tokenizer would join with its last token."""
        if look.joins is None:
            return row.known
        realised = int(response.tokens.ids[int(response.teacher_of[index])])
        found = self._continued(*look.joins)
        joined = [w for w, u in zip(look.joins[2], found, strict=True) if u == JOINED and w != realised]
        return np.where(np.isin(row.ids, joined), 0.0, row.known) if joined else row.known

    def _link(
        self, response: Response, index: int, sets: Sets, row: TeacherRow, mass: Float64[np.ndarray, " K"]
    ) -> None:
        """Join each likely teacher token's first student token with the longer ones it may begin."""
        realised = int(response.tokens.ids[int(response.teacher_of[index])])
        likely = np.flatnonzero((mass >= _LEAST) & (row.ids != realised))
        ids, own = row.ids[likely], mass[likely]
        count = self._longer.count[ids]
        able = count > 0
        sets.link(*self._longer.of(ids[able & (count <= _MOST) & (own >= _LEAST * count)]))
        _, alone, before_letter = self._continued.unsettled
        unsettled = self._unsettled[ids]
        unsettled = unsettled[unsettled != NOWHERE]
        sets.link(alone[unsettled], before_letter[unsettled])
        for w in ids[able & (count > _MOST) & (own >= _LARGE)].tolist():
            sets.give_up(int(self._tables.first_token[w]))

    @cached_property
    def _unsettled(self) -> Int64[np.ndarray, " Vt"]:
        """The place of each teacher token among those that are unsettled."""
        place = np.full(self._tables.teacher.num_ids, NOWHERE)
        ids, _, _ = self._continued.unsettled
        place[ids] = np.arange(len(ids))
        return place

    def _first_step(
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
        if share < _LEAST or not (longer or len(self._tables.student.token_bytes(target)) >= len(data)):
            return None
        following: list[int] = []
        at += 1
        ends = at >= len(response.tokens) or not self._known(response, at)
        if not ends:
            row = response.teacher[at]
            parts = share * row.known
            likely = set(row.ids[likeliest(parts, _CHECKED, _LEAST)].tolist())
            likely |= {u for u in row.ids[parts >= _LEAST].tolist() if u in longer}
            following = sorted(likely | {int(response.tokens.ids[at])})
        return Step(at, share, target, chain, before, data, longer, None if ends else following)

    def _look_ahead(self, response: Response, index: int, sets: Sets, step: Step | None) -> None:
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
            for u, start in zip(following, starts, strict=True):
                part, new = share * row.of(u), start if start >= 0 else source
                if u == realised:
                    target = new
                    sets.move(part, source, target)
                elif start == JOINED:
                    sets.move(part, source, None)
                else:
                    sets.move(part, source, new)
                    if u in longer:
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
        if len(longer) > _MOST:
            if mass >= _LARGE:
                sets.give_up(target)
        elif mass >= _LEAST * len(longer):
            sets.join([target, *longer])

    def _known(self, response: Response, place: int) -> bool:
        """Whether the teacher's values at one of its tokens can be used: its chunk has some row."""
        alignment = response.alignment
        chunk = int(np.searchsorted(alignment.teacher_bounds, place, side="right")) - 1
        first, last = alignment.student_bounds[chunk : chunk + 2].tolist()
        return bool((response.teacher_of[first:last] >= 0).any())

    def _place(self, sets: Sets, found: Straddling) -> None:
        """Give the mass of straddling teacher tokens to the next student token of each. Of those that were not
        asked about as large a share is possible as of these."""
        placed = 0.0
        targets = self._continued(*found.question)
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


def build(tables: PairTables, config: MethodConfig) -> Supervise:
    """Exact masses of sets of student tokens, for student tokens in comparable chunks."""
    rule = Canonical(tables)
    return dense(tables, config, lambda response: rows_of_sets(response, rule.of(response), config.row_topk))
