"""What all rules of rows share: where student tokens lie in the teacher's tokens, and mass at such a place.

A student token that starts a chunk is drawn where the teacher draws too (a root); one inside a chunk is drawn
when some bytes of a teacher token have been written (an interior place). Mass is never renormalised:
what has no place, was cut or is unknown is the residual. `rows.assembly` makes rows of it.

Labels. Where every id means the same on both sides and the teacher has read the same ids so far, `q*` is the
teacher: rows are EXACT (LOWER for a stop set known only in part). Elsewhere no rule here can promise a
bound: what the teacher writes next may still change how the student's tokenizer divides the token before,
so even the mass of a token with equal bytes may exceed that of `q*`; all such rows are HEURISTIC.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from dragoman.supervise.rows.teacher import TeacherRows
from dragoman.text import NOWHERE, PairTables
from dragoman.text.prefixes import Ranked
from dragoman.types import Alignment, ChunkKind, Rollout, RowLabel, TeacherScores, TokenText


@dataclass(frozen=True, kw_only=True, eq=False)
class Response:
    """One response and where its student tokens lie in the teacher's.

    Student token i is drawn when `written[i]` bytes of teacher token `teacher_of[i]` have been written;
    -1 for a token without such a place. A row is made for those of the others that are `asked`.
    `target[i]` is its id, any stop as the one that names the stop set.
    """

    tables: PairTables
    rollout: Rollout
    tokens: TokenText
    teacher: TeacherRows
    alignment: Alignment
    target: Int64[np.ndarray, " S"]
    teacher_of: Int64[np.ndarray, " S"]
    written: Int64[np.ndarray, " S"]
    asked: Bool[np.ndarray, " S"]
    same_so_far: Bool[np.ndarray, " S"]
    """Whether the teacher has read the very ids that the student wrote before this token."""

    def kind(self, index: int) -> ChunkKind:
        """The kind of a token's chunk."""
        return ChunkKind(int(self.alignment.kind[self.alignment.chunk_of[index]]))

    def label(self, index: int) -> RowLabel:
        """What is known of a token's row, under any rule of this package."""
        place = int(self.teacher_of[index])
        if not (self.tables.same_ids and self.same_so_far[index] and place == index):
            return RowLabel.HEURISTIC
        return RowLabel.EXACT if self.teacher[place].whole_stop else RowLabel.LOWER

    def last_teacher(self, index: int) -> tuple[int, bytes]:
        """The teacher token in which student token `index` ends, and the bytes it has of that one: of an
        event, whatever either side spells, the one token it meets and none."""
        bounds, start = self.tokens.bounds, int(self.teacher_of[index])
        if self.kind(index) == ChunkKind.EVENT:
            return start, b""
        size = len(self.rollout.completion.token_bytes(index))
        stop = int(bounds[start]) + int(self.written[index]) + size
        last = max(int(np.searchsorted(bounds, stop, side="left")) - 1, start)
        return last, self.tokens.data[int(bounds[last]) : stop]


@dataclass(kw_only=True, eq=False)
class Mass:
    """The mass of a row by student id, ascending, and what is outside all of them; sums to 1. `given` is the
    teacher's mass of what the place takes for granted, by which a row was divided (1 at a root)."""

    ids: Int64[np.ndarray, " n"]
    of_id: Float64[np.ndarray, " n"]
    rest: float
    given: float = 1.0

    def move(self, amount: float, source: int, target: int) -> None:
        """Move mass from one token (`NOWHERE`: from the rest) to another; never more than there is."""
        if source == NOWHERE:
            amount = min(amount, self.rest)
            self.rest -= amount
        else:
            place = place_of(self.ids, source)
            amount = min(amount, float(self.of_id[place])) if place != NOWHERE else 0.0
            if place != NOWHERE:
                self.of_id[place] -= amount
        place = place_of(self.ids, target)
        if place != NOWHERE:
            self.of_id[place] += amount
        else:
            before = int(self.ids.searchsorted(target))
            self.ids = np.insert(self.ids, before, target)
            self.of_id = np.insert(self.of_id, before, amount)


def place_of(ids: Int64[np.ndarray, " n"], index: int) -> int:
    """Where an id is among some, ascending; `NOWHERE` where it is not."""
    place = int(ids.searchsorted(index))
    return place if place < len(ids) and ids[place] == index else NOWHERE


class Places(NamedTuple):
    """Teacher tokens that go on from what is written of one: those at `low:high` of an order, `targets[n]`
    the student token next in the token at `low + n`; with `alone`, a further teacher token that has none."""

    order: Ranked
    low: int
    high: int
    targets: Int64[np.ndarray, " n"]
    alone: int = NOWHERE


_MANY = 4096
"""Teacher tokens above which a table of all student tokens costs less than sorting."""

Rule = Callable[[Response, int], Mass | None]
"""The row of one student token; None where the method has none."""


def respond(
    tables: PairTables,
    rollout: Rollout,
    scores: TeacherScores,
    alignment: Alignment,
    allowed: Bool[np.ndarray, " S"],
) -> Response:
    """Find the places of the `allowed` student tokens. A normalised chunk spells other bytes than the
    teacher's, and an event of several tokens is no draw of either side, so those have none.
    """
    tokens, student = scores.tokens, rollout.completion
    teacher = TeacherRows(tables.teacher, scores)
    assert tokens is not None
    of = alignment.chunk_of
    start_s, start_t = alignment.student_bounds[of], alignment.teacher_bounds[of]
    num_s, num_t = np.diff(alignment.student_bounds)[of], np.diff(alignment.teacher_bounds)[of]
    kind = alignment.kind[of]
    is_event = kind == ChunkKind.EVENT
    allowed = allowed & (kind < ChunkKind.NORMALISED) & (~is_event | ((num_s == 1) & (num_t == 1)))
    place = student.bounds[:-1] - student.bounds[start_s] + tokens.bounds[start_t]
    found = np.searchsorted(tokens.bounds, place, side="right") - 1
    teacher_of = np.where(is_event, start_t, found)
    written = np.where(is_event | ~allowed, 0, place - tokens.bounds[np.where(allowed, teacher_of, 0)])
    target = student.ids.copy()
    if tables.student_stop is not None:
        target[np.isin(target, list(tables.student.stop_ids))] = tables.student_stop
    return Response(
        tables=tables,
        rollout=rollout,
        tokens=tokens,
        teacher=teacher,
        alignment=alignment,
        target=target,
        teacher_of=np.where(allowed, teacher_of, -1),
        written=written,
        asked=allowed,
        same_so_far=_same_so_far(student.ids, tokens.ids),
    )


def scatter(response: Response, index: int, places: Places) -> Mass | None:
    """The mass of some teacher tokens at the place of student token `index`, moved to their targets and
    divided by that of all of them, an even share of the tail included. None where none of them has mass."""
    row = response.teacher[int(response.teacher_of[index])]
    found, mass = row.within(places.order, places.low, places.high)
    targets = places.targets[found - places.low]
    tail = row.tail_of(places.high - places.low - len(found))
    if places.alone != NOWHERE:
        targets, mass = np.append(targets, NOWHERE), np.append(mass, row.of(places.alone))
    total = float(mass.sum()) + tail
    if not mass.sum() > 0.0:
        return None
    ids, of_id, nowhere = gathered(targets, mass)
    return Mass(ids=ids, of_id=of_id / total, rest=nowhere / total + tail / total, given=total)


def gathered(
    targets: Int64[np.ndarray, " n"], mass: Float64[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " k"], Float64[np.ndarray, " k"], float]:
    """The sums of the masses that go to each target, by id, ascending, and of those that go nowhere."""
    if len(targets) > _MANY:
        sums = np.bincount(targets + 1, weights=mass)
        ids = np.flatnonzero(sums[1:])
        return ids, sums[1:][ids], float(sums[0])
    ids, number = np.unique(targets, return_inverse=True)
    # Sums of nothing would be integers.
    sums = np.bincount(number, weights=mass, minlength=len(ids)).astype(np.float64)
    if len(ids) and ids[0] == NOWHERE:
        return ids[1:], sums[1:], float(sums[0])
    return ids, sums, 0.0


def root(response: Response, index: int, targets: Int64[np.ndarray, " Vt"]) -> Mass | None:
    """The row of a token drawn where the teacher draws: all of the teacher's mass moved to `targets`.

    Of an event without an entry in the tables, the alignment itself says that the two realised tokens mean
    the same.
    """
    place = int(response.teacher_of[index])
    row = response.teacher[place]
    if row.named is not None and not row.known.sum() > 0.0:
        return None
    ids, of_id, nowhere = gathered(targets if row.named is None else targets[row.named], row.known)
    mass = Mass(ids=ids, of_id=of_id, rest=nowhere + row.tail)
    if response.kind(index) == ChunkKind.EVENT and targets[response.tokens.ids[place]] == NOWHERE:
        mass.move(response.teacher.realised(place), NOWHERE, int(response.target[index]))
    return mass


def _same_so_far(
    student: Int64[np.ndarray, " S"], teacher: Int64[np.ndarray, " T"]
) -> Bool[np.ndarray, " S"]:
    """Whether all ids before each of the student's tokens are the teacher's as well."""
    size = min(len(student), len(teacher))
    different = np.ones(len(student), bool)
    different[:size] = student[:size] != teacher[:size]
    return np.cumsum(different) - different == 0
