"""The teacher's distributions over one response, as far as they are known, in float64.

Every distribution has mass one: what is not known of it by token is its tail. The stop set is one outcome,
named by its smallest id.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from dragoman.errors import TeacherError
from dragoman.text import Tokenization
from dragoman.text.prefixes import Ranked
from dragoman.types import TeacherScores

_TOLERANCE = 1e-3
"""How far from 1 rounding may take the sum of a row before it is no distribution."""
_KEPT = 8
"""Full rows held at once; a chunk rarely has more tokens."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TeacherRow:
    """One distribution over `num_ids` tokens.

    `named` are the ids whose probability is known, ascending, and `known` has that of each; None says that
    all are, `known[w]` that of token w. `tail` is the probability of the others. `whole_stop` says that the
    stop set's mass is known, not only that of some of its ids.
    """

    num_ids: int
    named: Int64[np.ndarray, " K"] | None
    known: Float64[np.ndarray, " K"]
    tail: float
    whole_stop: bool

    @cached_property
    def ids(self) -> Int64[np.ndarray, " K"]:
        """The ids that `known` is of."""
        return np.arange(self.num_ids) if self.named is None else self.named

    @property
    def mass(self) -> Float64[np.ndarray, " Vt"]:
        """The probability of every token, 0 where it is not known.

        Made at each call: the rows of a response exist at once, as few numbers each.
        """
        if self.named is None:
            return self.known
        mass = np.zeros(self.num_ids)
        mass[self.named] = self.known
        return mass

    def of(self, index: int) -> float:
        """The probability of one token, 0 where it is not known."""
        if self.named is None:
            return float(self.known[index])
        place = int(self.named.searchsorted(index))
        return float(self.known[place]) if place < len(self.named) and self.named[place] == index else 0.0

    def of_each(self, ids: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """`of` each of some tokens."""
        if self.named is None:
            return self.known[ids]
        if not len(self.named):
            return np.zeros(len(ids))
        place = np.minimum(self.named.searchsorted(ids), len(self.named) - 1)
        return np.where(self.named[place] == ids, self.known[place], 0.0)

    def within(
        self, order: Ranked, low: int, high: int
    ) -> tuple[Int64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        """The tokens at `low:high` of an order whose probability is known: their places in it, ascending, and
        what each has."""
        if self.named is None:
            return np.arange(low, high), self.known[order.ids[low:high]]
        places = order.place[self.named]
        inside = np.flatnonzero((places >= low) & (places < high))
        inside = inside[np.argsort(places[inside])]
        return places[inside], self.known[inside]

    def tail_of(self, num_unnamed: int) -> float:
        """An estimate of the probability of so many tokens that are not named: the tail is taken to be spread
        evenly over all of these."""
        if self.named is None or self.tail == 0.0:
            return 0.0
        return self.tail * num_unnamed / max(self.num_ids - len(self.named), 1)

    def tail_within(self, ids: Int64[np.ndarray, " n"]) -> float:
        """`tail_of` those of some ids that are not named. Exact (0) where all are."""
        if self.named is None or not len(ids):
            return 0.0
        place = np.minimum(self.named.searchsorted(ids), len(self.named) - 1)
        return self.tail_of(int((self.named[place] != ids).sum()))


class _Named(NamedTuple):
    """The known outcomes of all rows: of row j the first `num[j]` of `ids[j]`, ascending, and `mass[j]`."""

    ids: Int64[np.ndarray, "T K"]
    mass: Float64[np.ndarray, "T K"]
    num: Int64[np.ndarray, " T"]
    total: Float64[np.ndarray, " T"]
    whole_stop: Bool[np.ndarray, " T"]


class TeacherRows:
    """Row j is the distribution from which the teacher's token j was drawn.

    From `full_logp` if there is one, made when asked for; else from the most likely tokens and the realised
    one, whose mass is always known, all of a response at once. Raises TeacherError where a row is no
    distribution.
    """

    def __init__(self, tokenization: Tokenization, scores: TeacherScores) -> None:
        if scores.tokens is None:
            raise ValueError("rows need the teacher's tokens, but TeacherScores.tokens is None")
        if scores.full_logp is None and scores.topk_logp is None:
            raise ValueError("rows need teacher.topk, but the scores hold the realised tokens alone")
        self._scores = scores
        self._ids = scores.tokens.ids
        self._num_ids = tokenization.num_ids
        self._stops = np.array(sorted(tokenization.stop_ids), np.int64)
        self._rows: OrderedDict[int, TeacherRow] = OrderedDict()

    def __getitem__(self, index: int) -> TeacherRow:
        if index not in self._rows:
            full = self._scores.full_logp is not None
            self._rows[index] = self._full(index) if full else self._partial(index)
            if full and len(self._rows) > _KEPT:
                self._rows.popitem(last=False)
        return self._rows[index]

    @property
    def are_full(self) -> bool:
        """Whether all masses are known."""
        return self._scores.full_logp is not None

    def realised(self, index: int) -> float:
        """The probability of token `index` itself, of a stop that of the whole set."""
        token = int(self._ids[index])
        return self[index].of(int(self._stops[0]) if token in self._stops else token)

    def _full(self, index: int) -> TeacherRow:
        assert self._scores.full_logp is not None
        logp = self._scores.full_logp.rows(slice(index, index + 1))[0].astype(np.float64)
        # Embeddings may be padded on either side of the comparison; ids without a token have no place.
        mass = np.zeros(max(self._num_ids, len(logp)))
        mass[: len(logp)] = np.exp(logp)
        total = float(mass.sum())
        if not abs(total - 1.0) < _TOLERANCE:
            raise TeacherError(_no_distribution(index, total))
        mass /= total
        if len(self._stops):
            stop = float(mass[self._stops].sum())
            mass[self._stops] = 0.0
            mass[self._stops[0]] = stop
        return TeacherRow(
            num_ids=self._num_ids,
            named=None,
            known=mass[: self._num_ids],
            tail=float(mass[self._num_ids :].sum()),
            whole_stop=True,
        )

    def _partial(self, index: int) -> TeacherRow:
        found = self._named
        count, total = int(found.num[index]), float(found.total[index])
        if total > 1.0 + _TOLERANCE:
            raise TeacherError(_no_distribution(index, total))
        known = found.mass[index, :count]
        return TeacherRow(
            num_ids=self._num_ids,
            named=found.ids[index, :count],
            known=known / total if total > 1.0 else known,
            tail=max(1.0 - total, 0.0),
            whole_stop=bool(found.whole_stop[index]),
        )

    @cached_property
    def _named(self) -> _Named:
        scores = self._scores
        assert scores.topk_ids is not None and scores.topk_logp is not None
        ids = scores.topk_ids.astype(np.int64)
        # Embeddings may be padded; what a teacher gives to ids without a token is part of the tail.
        known = np.isfinite(scores.topk_logp) & (ids < self._num_ids)
        mass = np.where(known, np.exp(scores.topk_logp.astype(np.float64)), 0.0)
        own = np.exp(scores.logp.astype(np.float64))
        is_stop = np.isin(self._ids, self._stops)
        among_stops = known & np.isin(ids, self._stops)
        # Two columns more: the stop set, and the realised token where it is none of it.
        stop, has_stop = (mass * among_stops).sum(axis=1), among_stops.any(axis=1)
        whole = is_stop.copy()
        if scores.stop_logp is not None:
            told = ~np.isnan(scores.stop_logp)
            stop = np.where(told, np.exp(scores.stop_logp.astype(np.float64)), stop)
            whole |= told
        stop = np.where(is_stop, own, stop)
        keep = known & ~among_stops & (ids != self._ids[:, None])
        first_stop = np.full(len(ids), self._stops[0] if len(self._stops) else 0)
        columns = [
            (ids, mass, keep),
            (first_stop[:, None], stop[:, None], (has_stop | whole)[:, None] & (len(self._stops) > 0)),
            (self._ids[:, None], own[:, None], ~is_stop[:, None]),
        ]
        all_ids, all_mass, kept = (np.concatenate(part, axis=1) for part in zip(*columns, strict=True))
        # Ids beyond all others, so that what is left out comes last.
        all_ids = np.where(kept, all_ids, self._num_ids)
        order = np.argsort(all_ids, axis=1, kind="stable")
        all_mass = np.take_along_axis(np.where(kept, all_mass, 0.0), order, axis=1)
        return _Named(
            ids=np.take_along_axis(all_ids, order, axis=1),
            mass=all_mass,
            num=kept.sum(axis=1),
            total=all_mass.sum(axis=1),
            whole_stop=whole | (len(self._stops) == 0),
        )


def _no_distribution(index: int, total: float) -> str:
    return (
        f"the teacher's row at token {index} sums to {total:.4f}, expected 1 (at most, for the most likely "
        "tokens alone): these are no log-probabilities of one distribution. Check that the server returns "
        "natural logarithms at temperature 1"
    )
