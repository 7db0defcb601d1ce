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
from dragoman.supervise.dense import dense
from dragoman.supervise.rows.common import Mass, Response, root, rows_of
from dragoman.text import NOWHERE, PairTables
from dragoman.types import Alignment, Rollout, Rows, Supervision, TeacherScores

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
        self.tables = tables
        self.config = config
        # Settings that rows cannot honour are refused here, before the first response.
        dense(tables, config, lambda response: self.rows(response, {}))

    @property
    @abstractmethod
    def sorted_ids(self) -> Int64[np.ndarray, " n"] | None:
        """The student's ids to be sorted, for `TokenScorer`; None for all."""

    @abstractmethod
    def rows(self, response: Response, ranks: dict[int, Ranks]) -> Rows:
        """Rows at the starts of chunks, also without candidates; puts the ranks there into `ranks`."""

    def __call__(self, rollout: Rollout, scores: TeacherScores, alignment: Alignment) -> Supervision:
        """Raises ValueError where axes disagree, or the scores hold no distributions."""
        ranks: dict[int, Ranks] = {}
        supervise = dense(self.tables, self.config, lambda response: self.rows(response, ranks))
        found = supervise(rollout, scores, alignment)
        return replace(found, sorted_logp=padded(ranks, len(rollout.completion)))


class UldSupervision(SortedSupervision):
    """Ranks of all tokens, and no rows."""

    @property
    def sorted_ids(self) -> None:
        """All."""
        return None

    def rows(self, response: Response, ranks: dict[int, Ranks]) -> Rows:
        """Rows without candidates: all mass is outside them."""

        def rule(response: Response, index: int) -> Mass | None:
            if not starts_chunk(response, index):
                return None
            mass = response.teacher[int(response.teacher_of[index])].mass
            ranks[index] = largest_first(mass, self.config.row_topk)
            return Mass(of_id=np.zeros(response.tables.student.num_ids), rest=1.0)

        return rows_of(response, rule, self.config.row_topk)

    def __call__(self, rollout: Rollout, scores: TeacherScores, alignment: Alignment) -> Supervision:
        """Raises ValueError where axes disagree, or the scores hold no distributions."""
        return replace(super().__call__(rollout, scores, alignment), rows=None)


class GoldSupervision(SortedSupervision):
    """Rows of tokens with equal bytes, and ranks of the others."""

    @cached_property
    def sorted_ids(self) -> Int64[np.ndarray, " n"]:
        """Those without a counterpart."""
        return np.setdiff1d(np.arange(self.tables.student.num_ids), self.tables.student_of_teacher)

    @cached_property
    def _unmatched(self) -> Int64[np.ndarray, " n"]:
        return np.flatnonzero(self.tables.student_of_teacher == NOWHERE)

    def rows(self, response: Response, ranks: dict[int, Ranks]) -> Rows:
        """The rows of `shared`, at chunks of any size."""

        def rule(response: Response, index: int) -> Mass | None:
            if not starts_chunk(response, index):
                return None
            mass = response.teacher[int(response.teacher_of[index])].mass
            ranks[index] = largest_first(mass[self._unmatched], self.config.row_topk)
            return root(response, index, self.tables.student_of_teacher)

        return rows_of(response, rule, self.config.row_topk)


def starts_chunk(response: Response, index: int) -> bool:
    """Whether a token is the first of its chunk."""
    return bool(response.alignment.student_bounds[response.alignment.chunk_of[index]] == index)


def largest_first(mass: Float64[np.ndarray, " n"], limit: int | None) -> Ranks:
    """The largest of some probabilities."""
    if limit is not None and limit < len(mass):
        mass = np.partition(mass, len(mass) - limit)[len(mass) - limit :]
    ordered = np.sort(mass)[::-1]
    return ordered[: int(np.count_nonzero(ordered))]


def padded(ranks: dict[int, Ranks], size: int) -> Float32[np.ndarray, "S R"]:
    """Log-probs of each of `size` tokens, at least one wide, padded with -inf."""
    table = np.full((size, max(map(len, ranks.values()), default=0) or 1), -np.inf, np.float32)
    for index, values in ranks.items():
        table[index, : len(values)] = np.log(values)
    return table
