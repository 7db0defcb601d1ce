"""Masses of student tokens of which some are known only together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float64, Int64

from dragoman.padding import stretches
from dragoman.supervise.rows.assembly import Candidates, assemble, largest
from dragoman.supervise.rows.common import Response, gathered, place_of
from dragoman.text import NOWHERE
from dragoman.types import Rows

DOUBT = 0.01
"""Doubtful mass from which on a row says proportions alone."""


@dataclass(kw_only=True, eq=False)
class Sets:
    """Masses of student tokens and which of them are told apart only together. `lost` is the mass of tokens
    that are not known, `doubtful` that of which it is not even known whether it is at this place."""

    single: dict[int, float] = field(default_factory=dict)
    lost: float = 0.0
    doubtful: float = 0.0
    _links: list[tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]] = field(default_factory=list)

    def add(self, amount: float, target: int) -> None:
        """Add mass to one token."""
        self.single[target] = self.single.get(target, 0.0) + amount

    def join(self, ids: Sequence[int] | Int64[np.ndarray, " n"]) -> None:
        """Make some tokens one set."""
        members = np.asarray(ids, np.int64)
        self.link(np.full(max(len(members) - 1, 0), members[0] if len(members) else 0), members[1:])

    def link(self, one: Int64[np.ndarray, " n"], other: Int64[np.ndarray, " n"]) -> None:
        """Put token `other[i]` into the set of token `one[i]`, for every i."""
        if len(one):
            self._links.append((one, other))

    def move(self, amount: float, source: int, target: int | None) -> float:
        """Move mass from one token to another (None: away), never more than there is; how much it was."""
        amount = min(amount, self.single.get(source, 0.0))
        self.add(-amount, source)
        if target is not None:
            self.add(amount, target)
        return amount

    def give_up(self, index: int) -> None:
        """Make a token part of what is not known."""
        self.lost += self.single.pop(index, 0.0)

    def normalise(self) -> bool:
        """Divide all mass by its sum; whether any token has some."""
        if not any(self.single.values()):
            return False
        total = float(self._listed()[1].sum()) + self.lost + self.doubtful
        self.single = {index: mass / total for index, mass in self.single.items()}
        self.lost, self.doubtful = self.lost / total, self.doubtful / total
        return True

    def candidates(self, topk: int | None, always: int) -> Candidates:
        """The `topk` sets of most mass, that of token `always` among them if it has any; ordered by the
        smallest id of each."""
        ids, name = self._names()
        own, mass = self._listed()
        heads, sums, _ = gathered(_head(own, ids, name), mass)
        kept = largest(sums, topk, place_of(heads, int(_head(np.array([always]), ids, name)[0])))
        # Members side by side: those of sets in the order of their names, then the tokens that stand alone.
        order = np.argsort(name, kind="stable")
        counts = np.bincount(name, minlength=len(ids))
        first = np.cumsum(counts) - counts
        place = np.searchsorted(ids, heads[kept])
        inside = np.append(ids, NOWHERE)[place] == heads[kept]
        place = np.where(inside, place, 0)
        sizes = np.where(inside, np.append(counts, 1)[place], 1)
        start = np.where(inside, np.append(first, 0)[place], len(ids) + np.arange(len(kept)))
        members = np.concatenate([ids[order], heads[kept]])[stretches(start, sizes)]
        return Candidates(members, sizes, sums[kept], float(np.delete(sums, kept).sum()))

    def _listed(self) -> tuple[Int64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        """The tokens with mass, ascending, and what each has."""
        ids = np.fromiter(self.single, np.int64, len(self.single))
        mass = np.fromiter(self.single.values(), np.float64, len(self.single))
        order = np.argsort(ids)
        return ids[order], mass[order]

    def _names(self) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """All joined ids, ascending, and the place among them of the smallest of each one's set."""
        if not self._links:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        ends = [np.concatenate(side) for side in zip(*self._links, strict=True)]
        ids, places = np.unique(np.concatenate(ends), return_inverse=True)
        one, other = places[: len(ends[0])], places[len(ends[0]) :]
        name = np.arange(len(ids))
        while True:
            least = np.minimum(name[one], name[other])
            found = name.copy()
            np.minimum.at(found, one, least)
            np.minimum.at(found, other, least)
            found = found[found]
            if np.array_equal(found, name):
                return ids, name
            name = found


def _head(
    tokens: Int64[np.ndarray, " n"], ids: Int64[np.ndarray, " m"], name: Int64[np.ndarray, " m"]
) -> Int64[np.ndarray, " n"]:
    """The smallest id of each token's set, given `_names`; itself where it is in none."""
    if not len(ids):
        return tokens
    place = np.minimum(np.searchsorted(ids, tokens), len(ids) - 1)
    return np.where(ids[place] == tokens, ids[name[place]], tokens)


def rows_of_sets(response: Response, rule: Callable[[Response, int], Sets | None], topk: int | None) -> Rows:
    """The rows under a rule; of each the `topk` largest candidates, that of the sampled token among them. A
    row is `partial` inside a teacher token, and where more than `DOUBT` is doubtful."""
    partial = response.written > 0

    def row(response: Response, index: int) -> Candidates | None:
        sets = rule(response, index)
        found = None if sets is None else sets.candidates(topk, int(response.target[index]))
        if sets is None or found is None or not len(found.mass):
            return None
        partial[index] |= sets.doubtful > DOUBT
        return found._replace(left=sets.lost + sets.doubtful + found.left)

    rows = assemble(response, row)
    partial &= rows.has_row
    return replace(rows, partial=partial if partial.any() else None)
