"""Supervision of X-Token: the student's probabilities projected onto the teacher's tokens.

The projection W has a row for every student token: weight 1 at the teacher token of equal bytes, else
weights .9 .1^i at the first four tokens of the teacher's tokenisation of its bytes, divided by their sum.
It is made in memory in seconds from the two vocabularies. Control tokens have no row.

* P-KL: `KL(T || W^T S)`. Candidates of a row are teacher tokens, each the weighted set of the student tokens
  that project on it; the objective is that of rows under `divergence: forward`.
* H-KL: every student token whose largest weight is .6 or more goes to that teacher token whole; teacher
  tokens without any and student tokens that go nowhere are compared by rank. The objective is `gold`
  under `divergence: forward`.

A teacher token on which nothing projects has no student mass; as published its logarithm is taken of a
small constant, here its mass is in the residual. Both sides are compared at the first token of every chunk.
Needs a teacher of level 1 or 2. Source: Turuvekere Sreenivas et al. 2026 (arXiv 2605.21699), whose
projection is made offline, with more weights for similar special tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from jaxtyping import Float64, Int64

from dragoman.config import MethodConfig
from dragoman.padding import stretches
from dragoman.supervise.dense import dense
from dragoman.supervise.rows.assembly import Candidates, assemble, largest
from dragoman.supervise.rows.common import Response, place_of
from dragoman.supervise.sampled import Supervise
from dragoman.supervise.sorted import SortedSupervision, starts_chunk
from dragoman.text import NOWHERE, PairTables

NUM_TOKENS = 4
"""Tokens of a teacher's tokenisation that have a weight."""
FIRST_WEIGHT, DECAY = 0.9, 0.1
LEAST_TOP = 0.6
"""Least weight by which a student token goes to a teacher token whole (H-KL)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Projection:
    """W by column: on teacher token w project `ids[bounds[w]:bounds[w + 1]]`, with `weight` in (0, 1]."""

    bounds: Int64[np.ndarray, " Vt_plus_1"]
    ids: Int64[np.ndarray, " M"]
    weight: Float64[np.ndarray, " M"]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What it is made of, by name."""
        return {"bounds": self.bounds, "ids": self.ids, "weight": self.weight}

    @cached_property
    def sizes(self) -> Int64[np.ndarray, " Vt"]:
        """Student tokens that project on each teacher token."""
        return np.diff(self.bounds)

    @cached_property
    def used(self) -> Int64[np.ndarray, " n"]:
        """Teacher tokens on which something projects."""
        return np.flatnonzero(self.sizes)


def build_pkl(tables: PairTables, config: MethodConfig) -> Supervise:
    """P-KL: rows of teacher tokens."""
    columns = cache(lambda: stored_projection(tables))

    def row(response: Response, index: int) -> Candidates | None:
        return projected(response, index, columns(), config.row_topk)

    return dense(tables, config, lambda response: assemble(response, row))


def build_hkl(tables: PairTables, config: MethodConfig) -> SortedSupervision:
    """H-KL: rows of teacher tokens under the top-1 map, all others by rank."""
    return HklSupervision(tables, config)


class HklSupervision(SortedSupervision):
    """Rows of the teacher tokens that student tokens go to whole, ranks of those without any."""

    @cached_property
    def _map(self) -> Projection:
        found = self.tables.stored("top_map", lambda: top_map(stored_projection(self.tables)).arrays)
        return Projection(**found)

    @cached_property
    def ranked(self) -> Int64[np.ndarray, " n"]:
        """Those on which nothing projects."""
        return np.flatnonzero(self._map.sizes == 0)

    @cached_property
    def sorted_ids(self) -> Int64[np.ndarray, " n"]:
        """Those that go nowhere."""
        return np.setdiff1d(np.arange(self.tables.student.num_ids), self._map.ids)

    def row(self, response: Response, index: int) -> Candidates | None:
        """The row of the map."""
        return projected(response, index, self._map, self.config.row_topk)


def stored_projection(tables: PairTables) -> Projection:
    """W of a pair, made once."""
    return Projection(**tables.stored("projection", lambda: projection(tables).arrays))


def projection(tables: PairTables) -> Projection:
    """W of a pair. The stop sets are one token each, named by their smallest ids."""
    spelled = tables.reversed
    size = tables.student.num_ids
    counts = np.minimum(np.diff(spelled.spelling_bounds), NUM_TOKENS)
    same = np.full(size, NOWHERE)
    if not tables.same_ids:
        same[tables.shared.student_ids] = tables.shared.teacher_ids
    counts = np.where(same != NOWHERE, 1, counts)
    counts[[stop for stop in tables.student.stop_ids if stop != tables.student_stop]] = 0
    owner = np.repeat(np.arange(size), counts)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    # Where bytes are equal there may be no spelling to look up.
    at = np.where(same[owner] != NOWHERE, 0, spelled.spelling_bounds[owner] + place)
    target = np.where(same[owner] != NOWHERE, same[owner], spelled.spelling_ids[at])
    weight = FIRST_WEIGHT * DECAY**place
    weight = weight / np.bincount(owner, weights=weight, minlength=size)[owner]
    return _by_column(owner, target, weight, tables.teacher.num_ids)


def top_map(whole: Projection) -> Projection:
    """Every student token at its teacher token of largest weight, with weight 1, if that is `LEAST_TOP`."""
    target = np.repeat(np.arange(len(whole.sizes)), whole.sizes)
    order = np.lexsort((target, -whole.weight, whole.ids))
    owner = whole.ids[order]
    first = np.ones(len(owner), bool)
    first[1:] = owner[1:] != owner[:-1]
    best = order[first]
    best = best[whole.weight[best] >= LEAST_TOP]
    return _by_column(whole.ids[best], target[best], np.ones(len(best)), len(whole.sizes))


def projected(response: Response, index: int, columns: Projection, topk: int | None) -> Candidates | None:
    """The row of one token, of the `topk` most likely teacher tokens on which something projects, the
    realised one among them; None inside a chunk and where there is no such token.

    Where every id means the same on both sides these are the rows of any method, and labelled so.
    """
    if not starts_chunk(response, index):
        return None
    place = int(response.teacher_of[index])
    row = response.teacher[place]
    full = row.named is None
    places = columns.used if full else np.flatnonzero(columns.sizes[row.ids] > 0)
    used, own = places if full else row.ids[places], row.known[places]
    if not own.any():
        return None
    stops = sorted(response.tables.teacher.stop_ids)
    token = int(response.tokens.ids[place])
    token = stops[0] if token in stops else token
    chosen = largest(own, topk, place_of(used, token))
    found = used[chosen]
    sizes = columns.sizes[found]
    members = stretches(columns.bounds[found], sizes)
    outside = row.known.copy()
    outside[places[chosen]] = 0.0
    return Candidates(
        ids=columns.ids[members],
        sizes=sizes,
        mass=own[chosen],
        left=row.tail + float(outside.sum()),
        weight=columns.weight[members],
    )


def _by_column(
    owner: Int64[np.ndarray, " M"],
    target: Int64[np.ndarray, " M"],
    weight: Float64[np.ndarray, " M"],
    size: int,
) -> Projection:
    """Entries (student, teacher, weight) in order of the teacher token; equal pairs are added up."""
    radix = int(owner.max(initial=0)) + 1
    pairs, place = np.unique(target * radix + owner, return_inverse=True)
    return Projection(
        bounds=np.searchsorted(pairs, radix * np.arange(size + 1)),
        ids=pairs % radix,
        weight=np.bincount(place, weights=weight, minlength=len(pairs)),
    )
