"""`escd`: byte-prefix rows where the teacher draws, and what its longer tokens say of the next student token.

    loss of a token = - sum_u row(u) log S(u)                                        (`bpm`, at a root)
                      - sum_g M_g log sum over u that start with rest_g of S(u)      (behind a root)

Teacher tokens without a student token of the same bytes are grouped: each with the shortest of them that it
starts with. Where the token y sampled at a root is a strict prefix of a group's shortest member, that member
without y is rest_g, and M_g is the mass of the whole group at that root; the term is one of the token
behind y. Groups with whose rest no student token starts are left out.

Encoding. Both terms of one token are one row of sets: the candidates of the first (mass row(u)), those
of the second (mass M_g) and the residual of the first, all divided by their sum Z, by which the token's
`weight` is multiplied; in the mean over tokens it counts as one. Under forward KL that is the loss above but
for a constant and for the residual's bin, whose student mass leaves out the tokens of the sets. A token with
the second term alone has no residual. Sets overlap the candidates, so no other divergence has a meaning here.

Needs: the teacher's most likely tokens or its whole distribution; `method.divergence: forward`.
Source: arXiv 2609.34738. Labels as in `rows.common`, but a row with sets is HEURISTIC.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from dragoman.config import MethodConfig
from dragoman.errors import ConfigError
from dragoman.supervise.dense import check_guard, prepare, supervision
from dragoman.supervise.rows.assembly import Candidates, assemble, kept, largest
from dragoman.supervise.rows.bpm import BytePrefixes
from dragoman.supervise.rows.common import Response
from dragoman.supervise.rows.teacher import TeacherRow
from dragoman.supervise.sampled import Supervise
from dragoman.text import NOWHERE, PairTables
from dragoman.text.prefixes import PrefixOrder, Ranked
from dragoman.types import Alignment, Event, Rollout, RowLabel, Supervision, TeacherScores

_CACHED = 4096
"""Rests of tokens whose students are remembered."""

Sets = list[tuple[float, Int64[np.ndarray, " _"]]]
"""Masses, and the student tokens that each is for."""


def build(tables: PairTables, config: MethodConfig) -> Supervise:
    """Rows at roots and sets behind them; raises ConfigError for another divergence than forward KL."""
    check_guard(config)
    if config.divergence != "forward":
        raise ConfigError(
            f"method.divergence is {config.divergence!r}, but the sets of method {config.name!r} overlap, "
            "which only 'forward' allows; leave method.divergence out"
        )
    prefixes, groups = BytePrefixes(tables), Groups(tables)

    def terms(response: Response, index: int) -> Terms | None:
        mass = None if response.written[index] else prefixes(response, index)
        own = None
        if mass is not None and mass.of_id.any():
            own = kept(mass, config.row_topk, int(response.target[index]))
        return joined(own, groups.behind(response, index, config.row_topk))

    def supervise(rollout: Rollout, scores: TeacherScores, alignment: Alignment) -> Supervision:
        reason, response = prepare(tables, config, rollout, scores, alignment)
        found = {index: terms(response, index) for index in np.flatnonzero(response.asked).tolist()}

        def row(response: Response, index: int) -> Candidates | None:
            both = found[index]
            return None if both is None else both.row

        rows, total = assemble(response, row), np.zeros(len(response.asked))
        label = rows.label.copy()
        for index, both in found.items():
            if both is not None:
                total[index] = both.total
                label[index] = RowLabel.HEURISTIC if both.has_sets else label[index]
        return supervision(response, reason, replace(rows, label=label), total)

    return supervise


class Terms(NamedTuple):
    """Both terms of a token as one row, the sum Z that it was divided by, and whether there is a second."""

    row: Candidates
    total: float
    has_sets: bool


class Groups:
    """Teacher tokens without a student token of the same bytes, grouped by the shortest that starts them."""

    def __init__(self, tables: PairTables) -> None:
        self._tables = tables
        self._starting = lru_cache(maxsize=_CACHED)(self._find_starting)

    def _find_starting(self, rest: bytes) -> Int64[np.ndarray, " n"]:
        """The student tokens that start so."""
        return self._tables.student_bytes.starting(rest)

    @cached_property
    def _found(self) -> tuple[Ranked, Int64[np.ndarray, " G_plus_1"], PrefixOrder]:
        """The tokens by group, where each group starts, and the shortest member of each."""
        words = self._tables.teacher.words
        order, trie = words.order, words.trie
        alone = np.flatnonzero(self._tables.student_of_teacher[order.ids] == NOWHERE)
        # Ranges of what starts with a string lie within each other or apart.
        stops = np.maximum.accumulate(trie.high[trie.node_of[alone]])
        starts = np.flatnonzero(np.append(True, alone[1:] >= stops[:-1])[: len(alone)])
        shortest = PrefixOrder(ids=np.arange(len(starts)), keys=order.keys.take(alone[starts]))
        members = PrefixOrder(ids=order.ids[alone], keys=order.keys.take(alone))
        return Ranked.of(members, self._tables.teacher.num_ids), np.append(starts, len(alone)), shortest

    def behind(self, response: Response, index: int, topk: int | None) -> Sets:
        """The second term of student token `index`: none unless the token before it is text and a root."""
        before = index - 1
        if index == 0 or response.teacher_of[index] < 0 or response.teacher_of[before] < 0:
            return []
        if response.written[before] or response.rollout.completion.event[before] != Event.NONE:
            return []
        row = response.teacher[int(response.teacher_of[before])]
        return self._sets(row, response.rollout.completion.token_bytes(before), topk)

    def _sets(self, row: TeacherRow, sampled: bytes, topk: int | None) -> Sets:
        members, bounds, shortest = self._found
        # No member is what was sampled: it would have a student token of its bytes.
        low, high = shortest.range(sampled)
        if low == high:
            return []
        found, known = row.within(members, int(bounds[low]), int(bounds[high]))
        if not len(found):
            return []
        group = np.searchsorted(bounds, found, side="right") - 1 - low
        mass = np.bincount(group, weights=known, minlength=high - low)
        sets = [
            (float(mass[g]), self._starting(shortest.keys[low + g][len(sampled) :]))
            for g in largest(mass, topk).tolist()
        ]
        return [(share, members) for share, members in sets if len(members)]


def joined(own: Candidates | None, sets: Sets) -> Terms | None:
    """A row of single candidates together with sets; None where there is neither."""
    total = float(own is not None) + sum(share for share, _ in sets)
    if not total > 0.0:
        return None
    if own is None:
        own = Candidates(np.zeros(0, np.int64), None, np.zeros(0), 0.0)
    row = Candidates(
        ids=np.concatenate([own.ids, *(ids for _, ids in sets)]),
        sizes=np.concatenate([own.num_tokens, np.array([len(ids) for _, ids in sets], np.int64)]),
        mass=np.append(own.mass, [share for share, _ in sets]) / total,
        left=own.left / total,
    )
    return Terms(row, total, bool(sets))
