"""The candidates of many rows of sets at once, as arrays of (row, token) in one number each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from dragoman.padding import stretches
from dragoman.supervise.rows.assembly import Candidates, assemble, largest
from dragoman.supervise.rows.common import Response, place_of
from dragoman.supervise.rows.sets import Sets
from dragoman.text.strings import bounds_of
from dragoman.types import Rows

DOUBT = 0.01
"""Doubtful mass from which on a row says proportions alone."""
_LISTED = 64
"""Rows listed at once."""


class Listed(NamedTuple):
    """The tokens with mass of R rows of sets: token u of row r is the key `r * width + u`.

    Keys are ascending; those of row r, and the mass of each, are at `bounds[r]:bounds[r + 1]`. All `linked`
    keys are ascending as well, and `name` is the place among them of the smallest one of each one's set.
    """

    width: int
    bounds: Int64[np.ndarray, " R_plus_1"]
    keys: Int64[np.ndarray, " n"]
    mass: Float64[np.ndarray, " n"]
    linked: Int64[np.ndarray, " m"]
    name: Int64[np.ndarray, " m"]

    @classmethod
    def of(cls, rows: Sequence[Sets]) -> Listed:
        """List the tokens of some rows and join those of a set."""
        sizes = [len(sets.single) for sets in rows]
        ids = _joined((sets.single for sets in rows), sizes, np.int64)
        mass = _joined((sets.single.values() for sets in rows), sizes, np.float64)
        links = [(number, *link) for number, sets in enumerate(rows) for link in sets.links]
        ends = [np.concatenate([np.zeros(0, np.int64), *(link[side] for link in links)]) for side in (1, 2)]
        width = 1 + max(int(some.max(initial=0)) for some in (ids, *ends))
        keys = ids + width * np.repeat(np.arange(len(rows)), sizes)
        order = np.argsort(keys)
        of_row = np.repeat([link[0] for link in links], [len(link[1]) for link in links]).astype(np.int64)
        linked, name = _names(*(end + width * of_row for end in ends))
        return cls(width, bounds_of(np.array(sizes, np.int64)), keys[order], mass[order], linked, name)

    @property
    def sums(self) -> list[float]:
        """The mass of each row, its numbers added up as those of one array are."""
        return [float(self.mass[start:stop].sum()) for start, stop in pairwise(self.bounds.tolist())]

    def divided(self, totals: Sequence[float]) -> Listed:
        """The mass of each row divided by a number of its own."""
        return self._replace(mass=self.mass / np.repeat(totals, np.diff(self.bounds)))

    def candidates(self, topk: int | None, always: Sequence[int]) -> list[Candidates]:
        """Of each row the `topk` sets of most mass, that of its token in `always` among them if it has any;
        ordered by the smallest id of each."""
        heads, number = np.unique(self._head(self.keys), return_inverse=True)
        sums = np.bincount(number, weights=self.mass, minlength=len(heads)).astype(np.float64)
        num_rows = len(self.bounds) - 1
        bounds = np.searchsorted(heads, self.width * np.arange(num_rows + 1))
        kept, others = sums > 0.0, np.zeros(num_rows)
        wanted = self._head(self.width * np.arange(num_rows) + np.array(always, np.int64)).tolist()
        for row in range(num_rows):
            own = slice(int(bounds[row]), int(bounds[row + 1]))
            if topk is not None and own.stop - own.start > topk:
                kept[own] = False
                kept[own.start + largest(sums[own], topk, place_of(heads[own], wanted[row]))] = True
            others[row] = sums[own][~kept[own]].sum()
        return self._told(heads[kept], sums[kept], others)

    def _told(
        self,
        heads: Int64[np.ndarray, " k"],
        sums: Float64[np.ndarray, " k"],
        others: Float64[np.ndarray, " R"],
    ) -> list[Candidates]:
        """The candidates of all rows, each the set that its smallest key names."""
        sizes, members = self._members(heads)
        borders = np.searchsorted(heads, self.width * np.arange(len(others) + 1))
        ends = bounds_of(sizes)[borders].tolist()
        ids, of_row = members % self.width, borders.tolist()
        return [
            Candidates(
                ids[ends[row] : ends[row + 1]],
                sizes[of_row[row] : of_row[row + 1]],
                sums[of_row[row] : of_row[row + 1]],
                left,
            )
            for row, left in enumerate(others.tolist())
        ]

    def _members(
        self, heads: Int64[np.ndarray, " k"]
    ) -> tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " M"]]:
        """How many keys each set has, given its smallest, and these keys."""
        # Members side by side: those of sets in the order of their names, then the tokens that stand alone.
        order = np.argsort(self.name, kind="stable")
        counts = np.bincount(self.name, minlength=len(self.linked))
        first = np.cumsum(counts) - counts
        place = np.searchsorted(self.linked, heads)
        inside = np.append(self.linked, -1)[place] == heads
        place = np.where(inside, place, 0)
        sizes = np.where(inside, np.append(counts, 1)[place], 1)
        start = np.where(inside, np.append(first, 0)[place], len(self.linked) + np.arange(len(heads)))
        return sizes, np.concatenate([self.linked[order], heads])[stretches(start, sizes)]

    def _head(self, keys: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The smallest key of each one's set; itself where it is in none."""
        if not len(self.linked):
            return keys
        place = np.minimum(np.searchsorted(self.linked, keys), len(self.linked) - 1)
        return np.where(self.linked[place] == keys, self.linked[self.name[place]], keys)


def rows_of_sets(response: Response, rule: Callable[[Response, int], Sets | None], topk: int | None) -> Rows:
    """The rows under a rule, which gives None where no token has mass; of each the `topk` largest candidates,
    that of the sampled token among them.

    A row is `partial` inside a teacher token, and where more than `DOUBT` is doubtful.
    """
    partial = response.written > 0
    asked = np.flatnonzero(response.asked).tolist()
    size = 1 if response.teacher.are_full else _LISTED
    found: dict[int, Candidates] = {}
    for start in range(0, len(asked), size):
        rows = {index: rule(response, index) for index in asked[start : start + size]}
        known = {index: sets for index, sets in rows.items() if sets is not None}
        listed = Listed.of(list(known.values()))
        totals = [
            1.0 if sets.whole else own + sets.lost + sets.doubtful
            for own, sets in zip(listed.sums, known.values(), strict=True)
        ]
        candidates = listed.divided(totals).candidates(topk, response.target[list(known)].tolist())
        for (index, sets), total, row in zip(known.items(), totals, candidates, strict=True):
            if len(row.mass):
                found[index] = row._replace(left=sets.lost / total + sets.doubtful / total + row.left)
                partial[index] |= sets.doubtful / total > DOUBT
    rows_found = assemble(response, lambda _, index: found.get(index))
    partial &= rows_found.has_row
    return replace(rows_found, partial=partial if partial.any() else None)


def _joined(parts: Iterable[Iterable[float]], sizes: Sequence[int], dtype: type) -> np.ndarray:
    return np.fromiter(chain.from_iterable(parts), dtype, sum(sizes))


def _names(
    one: Int64[np.ndarray, " n"], other: Int64[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
    """All joined keys, ascending, and the place among them of the smallest of each one's set: `other[i]` is
    in that of `one[i]`."""
    ids, places = np.unique(np.concatenate([one, other]), return_inverse=True)
    one, other = places[: len(one)], places[len(one) :]
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
