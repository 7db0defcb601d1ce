"""`canon`: the exact masses of sets of student tokens, as fine as one teacher row can tell them apart.

The target is `q*`: what the teacher will write, in the student's own tokenisation, given the student's tokens
so far. Three things tell a teacher token's mass from that of a student token, and each is dealt with:

* **A student token may be longer.** Behind teacher token w the student's next token is sp(w)[0], or a longer
  one, v, that the teacher's tokenizer writes as (w, ...). Which of them, this row cannot say; that it is one
  of them, it says exactly. So they are one candidate, a set with the mass of w; sets that share a token are
  joined. The loss sees the student's mass of the whole set, and leaves its parts to their own proportions.
  What follows the teacher's realised token is known from the next row and parts its set.
* **A teacher token may have begun before.** With k bytes written, the teacher may be inside a token that
  began at an earlier boundary: token w that starts with the bytes since then and goes on has the mass T(w)
  divided by that of the realised tokens since. Its next student token is what the student's tokenizer writes
  of it at k.
* **The student's tokenizer must have divided here.** A teacher token with which it would have joined the
  student's last token is impossible, given that it did not; the row is divided by the mass of the others.

Inside a teacher token (k bytes of it written) the teacher may also have ended there; what would follow is not
in any row. Such a row is `partial`: the masses of the tokens that go on are right relative to each other.

Needs: the teacher's most likely tokens or its whole distribution. Source: dragoman;
docs/decisions/0011-canonical-rows.md. Labels as in `rows.common`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64

from dragoman.config import MethodConfig
from dragoman.supervise.dense import dense
from dragoman.supervise.rows.common import Response, largest
from dragoman.supervise.rows.longer import LongerTokens
from dragoman.supervise.rows.sets import Sets
from dragoman.supervise.sampled import Supervise
from dragoman.text import NOWHERE, PairTables
from dragoman.types import ChunkKind, RowLabel, Rows

_LINKED = 512
"""Likeliest teacher tokens of a row whose longer student tokens are looked at."""
_CHECKED = 64
"""Likeliest teacher tokens that are tokenised together with what precedes them."""
_LEAST = 1e-5
"""Mass below which a teacher token joins no sets: its mass stays with its first token."""
_BLANKS = frozenset(b" \t\n\r\v\f")


class Canonical:
    """The rule, with what it has looked up of a pair."""

    def __init__(self, tables: PairTables) -> None:
        self._tables = tables
        self._longer = LongerTokens(tables)
        self._joins: dict[tuple[int, int], bool] = {}

    def __call__(self, response: Response, index: int) -> Sets | None:
        """The masses at one student token; None where nothing is known."""
        tables, place = self._tables, int(response.teacher_of[index])
        sets = Sets(single=np.zeros(tables.student.num_ids))
        row = response.teacher[place]
        written = int(response.written[index])
        if tables.same_ids:
            self._add(sets, tables.first_token, row.mass)
            sets.lost += row.tail
            return sets
        if not written:
            mass = self._possible(response, index, row.mass)
            self._add(sets, tables.first_token, mass)
            sets.lost += row.tail
            self._meet(response, index, sets)
            self._link(response, index, sets, mass)
        else:
            sets.ended += self._ended(response, place, written)
        self._straddlers(response, index, sets)
        total = float(sets.single.sum()) + sets.lost + sets.ended
        if not sets.single.any():
            return None
        sets.single /= total
        sets.lost, sets.ended = sets.lost / total, sets.ended / total
        return sets

    def _add(self, sets: Sets, targets: Int64[np.ndarray, " Vt"], mass: Float64[np.ndarray, " Vt"]) -> None:
        found = np.bincount(targets + 1, weights=mass, minlength=len(sets.single) + 1)
        sets.single += found[1:]
        sets.lost += float(found[0])

    def _meet(self, response: Response, index: int, sets: Sets) -> None:
        """An event without an entry in the tables means what the alignment says."""
        place = int(response.teacher_of[index])
        token = int(response.tokens.ids[place])
        if response.kind(index) == ChunkKind.EVENT and self._tables.first_token[token] == NOWHERE:
            amount = min(response.teacher.realised(place), sets.lost)
            sets.lost -= amount
            sets.single[int(response.target[index])] += amount

    def _possible(
        self, response: Response, index: int, mass: Float64[np.ndarray, " Vt"]
    ) -> Float64[np.ndarray, " Vt"]:
        """A row without the teacher tokens that the student's tokenizer would join with its last token."""
        text = response.rollout.completion
        last = index - 1
        if last < 0 or text.event[last] or text.token_bytes(last)[-1] in _BLANKS or not text.canonical[last]:
            return mass
        before, own = text.token_bytes(last), int(text.ids[last])
        likely = [
            w
            for w in largest(mass, _CHECKED).tolist()
            if (data := self._tables.teacher.token_bytes(w)) and data[0] not in _BLANKS
        ]
        unknown = [w for w in likely if (own, w) not in self._joins]
        if unknown:
            bounds, ids = self._tables.student.encode_many(
                [before + self._tables.teacher.token_bytes(w) for w in unknown]
            )
            for w, first in zip(unknown, ids[bounds[:-1]].tolist(), strict=True):
                self._joins[own, w] = first != own
        joined = [w for w in likely if self._joins[own, w]]
        realised = int(response.tokens.ids[int(response.teacher_of[index])])
        joined = [w for w in joined if w != realised]
        if not joined:
            return mass
        mass = mass.copy()
        mass[joined] = 0.0
        return mass

    def _link(self, response: Response, index: int, sets: Sets, mass: Float64[np.ndarray, " Vt"]) -> None:
        """Join each likely teacher token's first student token with the longer ones it may begin."""
        place = int(response.teacher_of[index])
        realised = int(response.tokens.ids[place])
        able = np.where(self._longer.has[: len(mass)], mass, 0.0)
        for w in largest(able, _LINKED).tolist():
            if mass[w] < _LEAST:
                continue
            first = int(self._tables.first_token[w])
            longer = self._longer.of(w)
            if first == NOWHERE or not len(longer):
                continue
            following = place + 1
            if w == realised and following < len(response.tokens) and not response.tokens.event[following]:
                self._look_ahead(response, following, sets, first, w, float(mass[w]))
            else:
                sets.join([first, *longer.tolist()])

    def _look_ahead(
        self, response: Response, following: int, sets: Sets, first: int, w: int, mass: float
    ) -> None:
        """Part the set of the realised teacher token by what the teacher says next."""
        row = response.teacher[following]
        for second, ids in self._longer.by_second(w):
            part = mass * float(row.mass[second])
            start, ends = self._longer.joint(w, second)
            target = first if start == NOWHERE else start
            sets.single[first] -= part
            sets.single[target] += part
            beyond = [v for v in ids if v not in ends]
            if beyond and part >= _LEAST:
                sets.join([target, *beyond])

    def _ended(self, response: Response, place: int, written: int) -> float:
        """The teacher's mass of having ended a token with just the bytes written."""
        order, data = self._tables.teacher_bytes, response.tokens.token_bytes(place)[:written]
        low, high = order.range(data)
        ends_here = low < high and order.keys[low] == data
        return float(response.teacher[place].mass[order.ids[low]]) if ends_here else 0.0

    def _straddlers(self, response: Response, index: int, sets: Sets) -> None:
        """Add teacher tokens that began at an earlier boundary and go on behind this place."""
        tokens, tables = response.tokens, self._tables
        place, written = int(response.teacher_of[index]), int(response.written[index])
        at = int(tokens.bounds[place]) + written
        scale = 1.0
        start = place if written else place - 1
        for earlier in range(start, -1, -1):
            if tokens.event[earlier] or not self._reachable(response, earlier, index):
                return
            if earlier < place:
                scale /= max(response.teacher.realised(earlier), 1e-30)
            since = tokens.data[int(tokens.bounds[earlier]) : at]
            low, high = tables.teacher_bytes.range(since)
            if low == high:
                return
            ids = tables.teacher_bytes.ids[low:high]
            lengths = np.fromiter(map(len, tables.teacher_bytes.keys[low:high]), np.int64, high - low)
            mass = np.where(lengths > len(since), response.teacher[earlier].mass[ids], 0.0)
            chosen = largest(mass, _CHECKED)
            self._place(response, index, sets, earlier, ids[chosen].tolist(), (mass[chosen] * scale).tolist())
            sets.lost += float(mass.sum() - mass[chosen].sum()) * scale

    def _reachable(self, response: Response, earlier: int, index: int) -> bool:
        """Whether all between a teacher token and a student token could be compared, so that both sides have
        the same bytes there."""
        alignment = response.alignment
        chunk = int(np.searchsorted(alignment.teacher_bounds, earlier, side="right")) - 1
        kinds = alignment.kind[chunk : int(alignment.chunk_of[index])]
        return bool((kinds < ChunkKind.EVENT).all())

    def _place(
        self, response: Response, index: int, sets: Sets, earlier: int, ids: list[int], masses: list[float]
    ) -> None:
        """Give the mass of straddling teacher tokens to the next student token of each."""
        if not ids:
            return
        text, tokens, tables = response.rollout.completion, response.tokens, self._tables
        shift = int(text.bounds[index]) - int(tokens.bounds[int(response.teacher_of[index])])
        shift -= int(response.written[index])
        start = int(tokens.bounds[earlier]) + shift
        first = int(np.searchsorted(text.bounds[: index + 1], start, side="right")) - 1
        before = text.data[int(text.bounds[first]) : start]
        wanted = text.ids[first:index].tolist()
        here = int(text.bounds[index]) - int(text.bounds[first])
        strings = [before + tables.teacher.token_bytes(w) for w in ids]
        bounds, found = tables.student.encode_many(strings)
        for number, (w, mass) in enumerate(zip(ids, masses, strict=True)):
            spelled = found[bounds[number] : bounds[number + 1]].tolist()
            if spelled[: len(wanted)] != wanted or len(spelled) == len(wanted):
                continue  # the student's tokenizer would not have divided here
            target = spelled[len(wanted)]
            sets.single[target] += mass
            if len(spelled) == len(wanted) + 1 and mass >= _LEAST:
                rest = strings[number][here:]
                longer = self._longer.behind(strings[number][:here][len(before) :], rest, w)
                if longer:
                    sets.join([target, *longer])


def build(tables: PairTables, config: MethodConfig) -> Supervise:
    """Exact masses of sets of student tokens, for student tokens in comparable chunks."""
    rule = Canonical(tables)
    return dense(tables, config, lambda response: canonical_rows(response, rule, config.row_topk))


def canonical_rows(response: Response, rule: Canonical, topk: int | None) -> Rows:
    """The rows of all tokens that have a place; of each the `topk` largest candidates, that of the sampled
    token among them."""
    size = len(response.teacher_of)
    counts, members, masses, ids = np.zeros(size, np.int64), [0], [], []
    residual = np.zeros(size, np.float32)
    label = np.full(size, RowLabel.NONE, np.uint8)
    partial = np.zeros(size, bool)
    for index, place in enumerate(response.teacher_of.tolist()):
        sets = rule(response, index) if place >= 0 else None
        if sets is None:
            continue
        found = sets.candidates(topk, int(response.target[index]))
        if not found:
            continue
        for tokens, mass in found:
            ids += tokens
            members.append(len(ids))
            masses.append(mass)
        counts[index] = len(found)
        label[index] = response.label(index)
        residual[index] = max(1.0 - sum(mass for _, mass in found), 0.0)
        partial[index] = sets.ended > 0.0 or (response.written[index] > 0)
    return Rows(
        bounds=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        ids=np.array(ids, np.int64),
        logp=np.log(np.array(masses, np.float64)).astype(np.float32),
        residual=residual,
        label=label,
        member_bounds=np.array(members, np.int64),
        partial=partial,
    )
