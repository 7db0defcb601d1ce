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
from functools import cached_property

import numpy as np
from jaxtyping import Float32, Float64, Int64

from dragoman.config import MethodConfig
from dragoman.padding import stretches
from dragoman.supervise.dense import dense
from dragoman.supervise.rows.common import Response, largest
from dragoman.supervise.sampled import Supervise
from dragoman.supervise.sorted import Ranks, SortedSupervision, largest_first, starts_chunk
from dragoman.text import NOWHERE, PairTables
from dragoman.types import RowLabel, Rows

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
    made: list[Projection] = []

    def rows(response: Response) -> Rows:
        if not made:
            made.append(projection(tables))
        return projected_rows(response, made[0], config.row_topk)

    return dense(tables, config, rows)


def build_hkl(tables: PairTables, config: MethodConfig) -> SortedSupervision:
    """H-KL: rows of teacher tokens under the top-1 map, all others by rank."""
    return HklSupervision(tables, config)


class HklSupervision(SortedSupervision):
    """Rows of the teacher tokens that student tokens go to whole, ranks of those without any."""

    @cached_property
    def _map(self) -> Projection:
        return top_map(projection(self.tables))

    @cached_property
    def _unmatched(self) -> Int64[np.ndarray, " n"]:
        return np.flatnonzero(self._map.sizes == 0)

    @cached_property
    def sorted_ids(self) -> Int64[np.ndarray, " n"]:
        """Those that go nowhere."""
        return np.setdiff1d(np.arange(self.tables.student.num_ids), self._map.ids)

    def rows(self, response: Response, ranks: dict[int, Ranks]) -> Rows:
        """The rows of the map."""
        for index in np.flatnonzero(response.teacher_of >= 0).tolist():
            if starts_chunk(response, index):
                mass = response.teacher[int(response.teacher_of[index])].mass
                ranks[index] = largest_first(mass[self._unmatched], self.config.row_topk)
        return projected_rows(response, self._map, self.config.row_topk)


def projection(tables: PairTables) -> Projection:
    """W of a pair. The stop sets are one token each, named by their smallest ids."""
    spelled = PairTables(tables.teacher, tables.student)
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


def projected_rows(response: Response, columns: Projection, topk: int | None) -> Rows:
    """Rows of the `topk` most likely teacher tokens on which something projects, the realised one among them.

    Where every id means the same on both sides these are the rows of any method, and labelled so.
    """
    size = len(response.teacher_of)
    kept: list[Int64[np.ndarray, " k"]] = [np.zeros(0, np.int64)] * size
    logp: list[Float64[np.ndarray, " k"]] = [np.zeros(0)] * size
    residual, label = np.zeros(size), np.full(size, RowLabel.NONE, np.uint8)
    realised = response.tokens.ids
    stops = sorted(response.tables.teacher.stop_ids)
    for index in np.flatnonzero(response.teacher_of >= 0).tolist():
        place = int(response.teacher_of[index])
        row = response.teacher[place]
        if not starts_chunk(response, index) or not row.mass[columns.used].any():
            continue
        token = stops[0] if realised[place] in stops else int(realised[place])
        ids = most_likely(row.mass, columns.used, topk, token)
        kept[index], logp[index] = ids, np.log(row.mass[ids])
        outside = row.mass.copy()
        outside[ids] = 0.0
        residual[index] = row.tail + float(outside.sum())
        label[index] = response.label(index)
    candidates = np.concatenate([np.zeros(0, np.int64), *kept])
    sizes = columns.sizes[candidates]
    ends = np.cumsum(sizes)
    members = stretches(columns.bounds[candidates], sizes)
    log_weight: Float32[np.ndarray, " M"] = np.log(columns.weight[members]).astype(np.float32)
    return Rows(
        bounds=np.concatenate([[0], np.cumsum([len(ids) for ids in kept])]).astype(np.int64),
        ids=columns.ids[members],
        logp=np.concatenate([np.zeros(0), *logp]).astype(np.float32),
        residual=residual.astype(np.float32),
        label=label,
        member_bounds=np.concatenate([[0], ends]).astype(np.int64),
        log_weight=log_weight,
    )


def most_likely(
    mass: Float64[np.ndarray, " Vt"], among: Int64[np.ndarray, " n"], topk: int | None, always: int
) -> Int64[np.ndarray, " k"]:
    """The `topk` largest masses above 0 `among` some ascending ids, `always` taking part if it is one."""
    own = mass[among]
    if topk is not None and topk < len(own):
        # A partition is far cheaper than sorting all of a vocabulary.
        likely = own >= np.partition(own, len(own) - topk)[len(own) - topk]
        among, own = among[likely | (among == always)], own[likely | (among == always)]
    place = int(np.searchsorted(among, always))
    here = place < len(among) and among[place] == always
    return among[largest(own, topk, place if here else NOWHERE)]


def _by_column(
    owner: Int64[np.ndarray, " M"],
    target: Int64[np.ndarray, " M"],
    weight: Float64[np.ndarray, " M"],
    size: int,
) -> Projection:
    """Entries (student, teacher, weight) in order of the teacher token; equal pairs are added up."""
    pairs, place = np.unique(np.stack([target, owner]), axis=1, return_inverse=True)
    return Projection(
        bounds=np.searchsorted(pairs[0], np.arange(size + 1)),
        ids=pairs[1],
        weight=np.bincount(place.reshape(-1), weights=weight, minlength=pairs.shape[1]),
    )
