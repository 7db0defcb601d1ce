"""The teacher's distributions over one response, as far as they are known, in float64.

Every distribution has mass one: what is not known of it by token is its tail. The stop set is one outcome,
named by its smallest id.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from dragoman.errors import TeacherError
from dragoman.text import Tokenization
from dragoman.types import TeacherScores

_TOLERANCE = 1e-3
"""How far from 1 rounding may take the sum of a row before it is no distribution."""
_KEPT = 8
"""Rows held at once; a chunk rarely has more tokens."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TeacherRow:
    """One distribution: `mass[w]` is the probability of teacher token w, 0 where it is not known.

    `named` are the ids whose mass is known, None for all; `tail` is the probability of the others.
    `whole_stop` says that the stop set's mass is known, not only that of some of its ids.
    """

    mass: Float64[np.ndarray, " Vt"]
    named: Int64[np.ndarray, " K"] | None
    tail: float
    whole_stop: bool

    def tail_within(self, ids: Int64[np.ndarray, " n"]) -> float:
        """An estimate of the probability of those of some ids that are not named: the tail is taken to be
        spread evenly over all tokens not named. Exact (0) where all are."""
        if self.named is None or self.tail == 0.0:
            return 0.0
        named = np.zeros(len(self.mass), bool)
        named[self.named] = True
        return self.tail * int((~named[ids]).sum()) / max(len(self.mass) - len(self.named), 1)


class TeacherRows:
    """Row j is the distribution from which the teacher's token j was drawn; made when asked for.

    From `full_logp` if there is one, else from the most likely tokens and the realised one, whose mass is
    always known. Raises TeacherError where a row is no distribution.
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
            if len(self._rows) > _KEPT:
                self._rows.popitem(last=False)
        return self._rows[index]

    def realised(self, index: int) -> float:
        """The probability of token `index` itself, of a stop that of the whole set."""
        token = int(self._ids[index])
        return float(self[index].mass[self._stops[0] if token in self._stops else token])

    def _full(self, index: int) -> TeacherRow:
        assert self._scores.full_logp is not None
        logp = self._scores.full_logp[index].astype(np.float64)
        # Embeddings may be padded on either side of the comparison; ids without a token have no place.
        mass = np.zeros(max(self._num_ids, len(logp)))
        mass[: len(logp)] = np.exp(logp)
        total = float(mass.sum())
        if not abs(total - 1.0) < _TOLERANCE:
            raise TeacherError(_no_distribution(index, total))
        mass /= total
        self._merge_stops(mass, None)
        return TeacherRow(
            mass=mass[: self._num_ids], named=None, tail=float(mass[self._num_ids :].sum()), whole_stop=True
        )

    def _partial(self, index: int) -> TeacherRow:
        scores = self._scores
        assert scores.topk_ids is not None and scores.topk_logp is not None
        # Embeddings may be padded; what a teacher gives to ids without a token is part of the tail.
        known = np.isfinite(scores.topk_logp[index]) & (scores.topk_ids[index] < self._num_ids)
        mass = np.zeros(self._num_ids)
        ids = scores.topk_ids[index][known].astype(np.int64)
        mass[ids] = np.exp(scores.topk_logp[index][known].astype(np.float64))
        realised, is_stop = int(self._ids[index]), bool(np.isin(self._ids[index], self._stops))
        own = float(np.exp(np.float64(scores.logp[index])))
        stop: float | None = None
        if scores.stop_logp is not None and not np.isnan(scores.stop_logp[index]):
            stop = float(np.exp(np.float64(scores.stop_logp[index])))
        if is_stop:
            stop = own
        else:
            mass[realised] = own
        self._merge_stops(mass, stop)
        extra = [realised] if not is_stop else []
        first = self._stops[:1] if stop is not None or np.isin(ids, self._stops).any() else self._stops[:0]
        named = np.unique(np.concatenate([ids[~np.isin(ids, self._stops)], extra, first])).astype(np.int64)
        total = float(mass.sum())
        if total > 1.0 + _TOLERANCE:
            raise TeacherError(_no_distribution(index, total))
        if total > 1.0:
            mass /= total
        return TeacherRow(
            mass=mass,
            named=named,
            tail=max(1.0 - total, 0.0),
            whole_stop=stop is not None or not len(self._stops),
        )

    def _merge_stops(self, mass: Float64[np.ndarray, " Vt"], stop: float | None) -> None:
        """Put the stop set's mass, that of its ids unless given, at its smallest id."""
        if len(self._stops):
            found = float(mass[self._stops].sum()) if stop is None else stop
            mass[self._stops] = 0.0
            mass[self._stops[0]] = found


def _no_distribution(index: int, total: float) -> str:
    return (
        f"the teacher's row at token {index} sums to {total:.4f}, expected 1 (at most, for the most likely "
        "tokens alone): these are no log-probabilities of one distribution. Check that the server returns "
        "natural logarithms at temperature 1"
    )
