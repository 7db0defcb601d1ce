"""Supervision of `uld` and `gold`: the teacher's probabilities by rank, and rows of what is common.

Both sides are compared where both draw a token: at the first student and the first teacher token of every
comparable chunk. As published, `uld` pairs position k of one side with position k of the other, whatever
they spell, and `gold` chunk with chunk, as here. Needs a teacher of level 2, or of level 1, whose tail is
one bin. Sources: see `dragoman.objective.sorted`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from functools import cached_property

import numpy as np
from jaxtyping import Float32, Float64, Int64

from dragoman.config import MethodConfig
from dragoman.supervise.dense import check_guard, prepare, supervision
from dragoman.supervise.rows.assembly import Candidates, assemble, kept, largest
from dragoman.supervise.rows.common import Response, root
from dragoman.text import NOWHERE, PairTables
from dragoman.types import Alignment, Rollout, Supervision, TeacherScores

Ranks = Float64[np.ndarray, " r"]
"""Probabilities above 0, largest first."""


def build_uld(tables: PairTables, config: MethodConfig) -> SortedSupervision:
    """All probabilities are compared by rank."""
    return UldSupervision(tables, config)


def build_gold(tables: PairTables, config: MethodConfig) -> SortedSupervision:
    """Tokens with equal bytes are a row, all others are compared by rank."""
    return GoldSupervision(tables, config)


def adaptive_row_coef(tables: PairTables) -> float:
    """`method.row_coef` under which `gold` weighs its parts as TRL does if left to itself: a / (1 - a), for
    the share a of the teacher's vocabulary that is common. 1 if all is, as there is no other part.
    """
    share = float((tables.student_of_teacher != NOWHERE).mean())
    return share / (1.0 - share) if share < 1.0 else 1.0


class SortedSupervision(ABC):
    """Ranks of the teacher's probabilities at the start of every chunk, with the rows of a subclass.

    `method.row_topk` limits ranks and candidates alike. What is in neither is in the residual of the rows
    and the last bin of the ranks. Raises ConfigError for `method.guard: penalty`, which is a credit.
    """

    def __init__(self, tables: PairTables, config: MethodConfig) -> None:
        check_guard(config)
        self.tables = tables
        self.config = config

    @property
    @abstractmethod
    def sorted_ids(self) -> Int64[np.ndarray, " n"] | None:
        """The student's ids to be sorted, for `TokenScorer`; None for all."""

    @property
    @abstractmethod
    def ranked(self) -> Int64[np.ndarray, " n"] | None:
        """The teacher's ids to be sorted; None for all."""

    @abstractmethod
    def row(self, response: Response, index: int) -> Candidates | None:
        """The row at the start of a chunk, also without candidates."""

    def __call__(self, rollout: Rollout, scores: TeacherScores, alignment: Alignment) -> Supervision:
        """Raises ValueError where axes disagree, or the scores hold no distributions."""
        reason, response = prepare(self.tables, self.config, rollout, scores, alignment)
        ranks: dict[int, Ranks] = {}

        def row(response: Response, index: int) -> Candidates | None:
            if not starts_chunk(response, index):
                return None
            mass = response.teacher[int(response.teacher_of[index])].mass
            ranks[index] = largest_first(
                mass if self.ranked is None else mass[self.ranked], self.config.row_topk
            )
            return self.row(response, index)

        found = supervision(response, reason, assemble(response, row))
        return replace(found, sorted_logp=padded(ranks, len(rollout.completion)))


class UldSupervision(SortedSupervision):
    """Ranks of all tokens, and no rows."""

    sorted_ids = None
    ranked = None

    def row(self, response: Response, index: int) -> Candidates:
        """A row without candidates: all mass is outside them."""
        return Candidates(np.zeros(0, np.int64), None, np.zeros(0), 1.0)

    def __call__(self, rollout: Rollout, scores: TeacherScores, alignment: Alignment) -> Supervision:
        """Raises ValueError where axes disagree, or the scores hold no distributions."""
        return replace(super().__call__(rollout, scores, alignment), rows=None)


class GoldSupervision(SortedSupervision):
    """Rows of tokens with equal bytes, as in `shared` but at chunks of any size, and ranks of the others."""

    @cached_property
    def sorted_ids(self) -> Int64[np.ndarray, " n"]:
        """Those without a counterpart."""
        return np.setdiff1d(np.arange(self.tables.student.num_ids), self.tables.student_of_teacher)

    @cached_property
    def ranked(self) -> Int64[np.ndarray, " n"]:
        """Those without a counterpart."""
        return np.flatnonzero(self.tables.student_of_teacher == NOWHERE)

    def row(self, response: Response, index: int) -> Candidates | None:
        """The row of `shared`."""
        mass = root(response, index, self.tables.student_of_teacher)
        return None if mass is None else kept(mass, self.config.row_topk, int(response.target[index]))


def starts_chunk(response: Response, index: int) -> bool:
    """Whether a token is the first of its chunk."""
    return bool(response.alignment.student_bounds[response.alignment.chunk_of[index]] == index)


def largest_first(mass: Float64[np.ndarray, " n"], limit: int | None) -> Ranks:
    """The largest of some probabilities."""
    return np.sort(mass[largest(mass, limit)])[::-1]


def padded(ranks: dict[int, Ranks], size: int) -> Float32[np.ndarray, "S R"]:
    """Log-probs of each of `size` tokens, at least one wide, padded with -inf."""
    table = np.full((size, max(map(len, ranks.values()), default=0) or 1), -np.inf, np.float32)
    for index, values in ranks.items():
        table[index, : len(values)] = np.log(values)
    return table
