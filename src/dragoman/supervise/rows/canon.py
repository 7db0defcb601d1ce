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

from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64

from dragoman.config import MethodConfig
from dragoman.supervise.dense import dense
from dragoman.supervise.rows.common import Response
from dragoman.supervise.rows.longer import JOINED, Continued, LongerTokens, likeliest
from dragoman.supervise.rows.sets import Sets, rows_of_sets
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


class Canonical:
    """The rule, with what it has looked up of a pair."""

    def __init__(self, tables: PairTables) -> None:
        self._tables = tables
        self._longer = LongerTokens(tables)
        self._continued = Continued(tables)

    def __call__(self, response: Response, index: int) -> Sets | None:
        """The masses at one student token; None where nothing is known."""
        tables, place = self._tables, int(response.teacher_of[index])
        sets = Sets(single=np.zeros(tables.student.num_ids))
        row, written = response.teacher[place], int(response.written[index])
        if tables.same_ids and not written:
            self._add(sets, row.mass, row.tail)
            return sets
        if written:
            sets.doubtful += self._ended(response, place, written)
        else:
            mass = self._possible(response, index, row.mass)
            self._add(sets, mass, row.tail)
            self._meet(response, index, sets)
            self._look_ahead(response, index, sets)
            self._link(response, index, sets, mass)
        self._straddlers(response, index, sets)
        if not sets.single.any():
            return None
        total = float(sets.single.sum()) + sets.lost + sets.doubtful
        sets.single /= total
        sets.lost, sets.doubtful = sets.lost / total, sets.doubtful / total
        return sets

    def _add(self, sets: Sets, mass: Float64[np.ndarray, " Vt"], tail: float) -> None:
        first = self._tables.first_token
        found = np.bincount(first + 1, weights=mass, minlength=len(sets.single) + 1)
        sets.single += found[1:]
        sets.lost += float(found[0]) + tail

    def _meet(self, response: Response, index: int, sets: Sets) -> None:
        """An event without an entry in the tables means what the alignment says."""
        place = int(response.teacher_of[index])
        token = int(response.tokens.ids[place])
        if response.kind(index) == ChunkKind.EVENT and self._tables.first_token[token] == NOWHERE:
            amount = min(response.teacher.realised(place), sets.lost)
            sets.lost -= amount
            sets.single[int(response.target[index])] += amount

    def _before(self, response: Response, index: int) -> tuple[tuple[int, ...], bytes]:
        """The student's last token before a place with its bytes, if its tokenizer may have chosen it in view
        of what follows; no event is chosen so, nor is what stands before the response."""
        text, last = response.rollout.completion, index - 1
        if last < 0 or text.event[last] or not text.canonical[last]:
            return (), b""
        token = int(text.ids[last])
        return (token,), text.token_bytes(last)

    def _possible(
        self, response: Response, index: int, mass: Float64[np.ndarray, " Vt"]
    ) -> Float64[np.ndarray, " Vt"]:
        """A row without the teacher tokens that the student's tokenizer would join with its last token."""
        written, data = self._before(response, index)
        if not written:
            return mass
        teacher = self._tables.teacher
        likely = [w for w in likeliest(mass, _CHECKED, _LEAST).tolist() if teacher.token_bytes(w)]
        realised = int(response.tokens.ids[int(response.teacher_of[index])])
        found = self._continued(written, data, likely)
        joined = [w for w, u in zip(likely, found, strict=True) if u == JOINED and w != realised]
        if joined:
            mass = mass.copy()
            mass[joined] = 0.0
        return mass

    def _link(self, response: Response, index: int, sets: Sets, mass: Float64[np.ndarray, " Vt"]) -> None:
        """Join each likely teacher token's first student token with the longer ones it may begin."""
        realised = int(response.tokens.ids[int(response.teacher_of[index])])
        able, count = self._longer.able
        own = mass[able]
        other = able != realised
        listed = other & (count <= _MOST) & (own >= _LEAST * count)
        sets.link(*self._longer.of(able[listed]))
        ids, alone, before_letter = self._continued.unsettled
        likely = (mass[ids] >= _LEAST) & (ids != realised)
        sets.link(alone[likely], before_letter[likely])
        for w in able[other & (count > _MOST) & (own >= _LARGE)].tolist():
            sets.give_up(int(self._tables.first_token[w]))

    def _look_ahead(self, response: Response, index: int, sets: Sets) -> None:
        """Part the mass of the realised teacher token by what the teacher says next.

        As long as the realised tokens go on one student token, or may, the next row tells which it is.
        """
        tokens, tables = response.tokens, self._tables
        at = int(response.teacher_of[index])
        realised = int(tokens.ids[at])
        target, share = int(tables.first_token[realised]), response.teacher.realised(at)
        if tokens.event[at] or target == NOWHERE:
            return
        written, before = self._before(response, index)
        chain: tuple[int, ...] = (realised,)
        data = tables.teacher.token_bytes(realised)
        for _ in range(_DEPTH):
            longer = self._longer.after(chain)
            if share < _LEAST or not (longer or len(tables.student.token_bytes(target)) >= len(data)):
                return
            at += 1
            if at >= len(tokens) or not self._known(response, at):
                break
            row, realised = response.teacher[at], int(tokens.ids[at])
            parts = share * row.mass
            likely = set(likeliest(parts, _CHECKED, _LEAST).tolist())
            likely |= {u for u in longer if parts[u] >= _LEAST} | {realised}
            following = sorted(likely)
            starts = self._continued(written, before + data, following)
            unnamed = share * row.tail_within(np.array(list(longer), np.int64))
            sets.lost += sets.move(unnamed, target, None)
            source = target
            for u, start in zip(following, starts, strict=True):
                part, new = float(parts[u]), start if start >= 0 else source
                if u == realised:
                    target = new
                    sets.move(part, source, target)
                elif start == JOINED:
                    sets.move(part, source, None)
                else:
                    sets.move(part, source, new)
                    size = len(data) + len(tables.teacher.token_bytes(u))
                    self._join(sets, new, self._longer.beyond(longer, [u], size), part)
            if tokens.event[at]:
                return
            share, chain = float(parts[realised]), (*chain, realised)
            data += tables.teacher.token_bytes(realised)
        longer = self._longer.after(chain)
        self._join(sets, target, self._longer.beyond(longer, list(longer), len(data)), share)

    def _join(self, sets: Sets, target: int, longer: list[int], mass: float) -> None:
        """Join a token with the longer ones that some of its mass may mean, as far as they can be listed."""
        if len(longer) > _MOST:
            if mass >= _LARGE:
                sets.give_up(target)
        elif mass >= _LEAST * len(longer):
            sets.join([target, *longer])

    def _ended(self, response: Response, place: int, written: int) -> float:
        """The teacher's mass of having ended a token with just the bytes written."""
        order, data = self._tables.teacher_bytes, response.tokens.token_bytes(place)[:written]
        low, high = order.range(data)
        ends_here = low < high and order.keys[low] == data
        return float(response.teacher[place].mass[order.ids[low]]) if ends_here else 0.0

    def _straddlers(self, response: Response, index: int, sets: Sets) -> None:
        """Add teacher tokens that began at an earlier boundary and go on behind this place."""
        tokens, order = response.tokens, self._tables.teacher_bytes
        place, written = int(response.teacher_of[index]), int(response.written[index])
        at = int(tokens.bounds[place]) + written
        scale, done = 1.0, place
        for earlier in range(place if written else place - 1, -1, -1):
            since = tokens.data[int(tokens.bounds[earlier]) : at]
            if tokens.event[earlier] or len(since) >= self._longest:
                return
            low, high = order.range(since)
            inside = low + np.flatnonzero(self._lengths[low:high] > len(since))
            if not since or not len(inside):
                continue
            if not self._reachable(response, earlier, index):
                return
            for between in range(earlier, done):
                scale /= max(response.teacher.realised(between), 1e-30)
            done = min(earlier, done)
            row, ids = response.teacher[earlier], order.ids[inside]
            mass = scale * row.mass[ids]
            # Inside a token only proportions count, however unlikely all of it was.
            chosen = likeliest(mass, _CHECKED, _LEAST * (float(mass.sum()) if written else 1.0))
            placed = self._place(response, index, sets, earlier, ids[chosen].tolist(), mass[chosen].tolist())
            # Of the others as large a share is possible as of these.
            checked = float(mass[chosen].sum())
            others = max(float(mass.sum()) - checked, 0.0) + scale * row.tail_within(ids)
            sets.lost += others * (placed / checked if checked else 1.0)

    @cached_property
    def _lengths(self) -> Int64[np.ndarray, " n"]:
        """The bytes of the teacher's text tokens, in the order of these."""
        return self._tables.teacher_bytes.keys.lengths

    @cached_property
    def _longest(self) -> int:
        return int(self._lengths.max(initial=0))

    def _known(self, response: Response, place: int) -> bool:
        """Whether the teacher's values at one of its tokens can be used: its chunk has some row."""
        alignment = response.alignment
        chunk = int(np.searchsorted(alignment.teacher_bounds, place, side="right")) - 1
        first, last = alignment.student_bounds[chunk : chunk + 2].tolist()
        return bool((response.teacher_of[first:last] >= 0).any())

    def _reachable(self, response: Response, earlier: int, index: int) -> bool:
        """Whether all between a teacher token and a student token is text with rows, so that both sides have
        the same bytes there and the teacher's values can be used."""
        alignment = response.alignment
        chunk = int(np.searchsorted(alignment.teacher_bounds, earlier, side="right")) - 1
        last = int(alignment.chunk_of[index])
        if not (alignment.kind[chunk:last] < ChunkKind.EVENT).all():
            return False
        bounds = alignment.student_bounds[chunk : last + 2]
        has_row = response.teacher_of[bounds[0] : bounds[-1]] >= 0
        return bool(np.logical_or.reduceat(has_row, bounds[:-1] - bounds[0]).all())

    def _place(
        self, response: Response, index: int, sets: Sets, earlier: int, ids: list[int], masses: list[float]
    ) -> float:
        """Give the mass of straddling teacher tokens to the next student token of each; returns how much of
        it the student's tokens so far allow."""
        text, tokens = response.rollout.completion, response.tokens
        here = int(text.bounds[index])
        at = int(tokens.bounds[int(response.teacher_of[index])]) + int(response.written[index])
        start = here - (at - int(tokens.bounds[earlier]))
        first = int(np.searchsorted(text.bounds[: index + 1], start, side="right")) - 1
        before = text.data[int(text.bounds[first]) : start]
        written = tuple(text.ids[first:index].tolist())
        placed = 0.0
        targets = self._continued(written, before, ids)
        for w, mass, target in zip(ids, masses, targets, strict=True):
            if target == JOINED:
                continue
            placed += mass
            if target == NOWHERE:
                sets.doubtful += mass
                continue
            sets.single[target] += mass
            rest = self._tables.teacher.token_bytes(w)[here - start :]
            longer = self._longer.behind(text.data[start:here], rest, w)
            sets.join([target, *longer])
        return placed


def build(tables: PairTables, config: MethodConfig) -> Supervise:
    """Exact masses of sets of student tokens, for student tokens in comparable chunks."""
    rule = Canonical(tables)
    return dense(tables, config, lambda response: rows_of_sets(response, rule, config.row_topk))
