"""`escd`: byte-prefix rows where the teacher draws, and what its longer tokens say of the next student token.

    loss of a token = - sum_u row(u) log S(u)                                        (`bpm`, at a root)
                      - sum_g M_g log sum over u that start with rest_g of S(u)      (behind a root)

Teacher tokens without a student token of the same bytes are grouped: each with the shortest of them that it
starts with. Where the token y sampled at a root is a strict prefix of a group's shortest member, that member
without y is rest_g, and M_g is the mass of the whole group at that root; the term is one of the token
behind y. Groups with whose rest no student token starts are left out.

Encoding. Both terms of one token are one row of sets: the candidates of the first (mass row(u)), those
of the second (ids of weight 1, mass M_g) and the residual of the first, all divided by their sum Z, by
which the token's `weight` is multiplied. Under forward KL that is the loss above but for a constant and for
the residual's bin, whose student mass leaves out the tokens of the sets. A token with the second term alone
has no residual. Sets overlap the candidates, so no other divergence has a meaning here.

Needs: the teacher's most likely tokens or its whole distribution; `method.divergence: forward`.
Source: arXiv 2609.34738. Labels as in `rows.common`, but a row with sets is HEURISTIC.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64

from dragoman.config import MethodConfig
from dragoman.errors import ConfigError
from dragoman.supervise.dense import check_guard, prepare, supervision
from dragoman.supervise.rows.bpm import BytePrefixes
from dragoman.supervise.rows.common import Mass, Response, largest, rows_of, telling
from dragoman.supervise.rows.teacher import TeacherRow
from dragoman.supervise.sampled import Supervise
from dragoman.text import NOWHERE, PairTables
from dragoman.text.pair import PrefixOrder
from dragoman.types import Alignment, Event, Rollout, RowLabel, Rows, Supervision, TeacherScores

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

    def rule(response: Response, index: int) -> Mass | None:
        return prefixes(response, index) if not response.written[index] else None

    def supervise(rollout: Rollout, scores: TeacherScores, alignment: Alignment) -> Supervision:
        reason, response = prepare(tables, config, rollout, scores, alignment)
        rows = rows_of(response, telling(rule), config.row_topk)
        behind = [groups.behind(response, index, config.row_topk) for index in range(len(rows))]
        rows, total = with_sets(rows, behind)
        return supervision(response, reason, rows, total)

    return supervise


class Groups:
    """Teacher tokens without a student token of the same bytes, grouped by the shortest that starts them."""

    def __init__(self, tables: PairTables) -> None:
        self._tables = tables

    @cached_property
    def _found(self) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " G_plus_1"], PrefixOrder]:
        """The tokens by group, where each group starts, and the shortest member of each."""
        order = self._tables.teacher_bytes
        alone = np.flatnonzero(self._tables.student_of_teacher[order.ids] == NOWHERE)
        shortest: list[bytes] = []
        starts: list[int] = []
        for place, key in enumerate(order.keys[n] for n in alone.tolist()):
            if not (shortest and key.startswith(shortest[-1])):
                shortest.append(key)
                starts.append(place)
        bounds = np.array([*starts, len(alone)], np.int64)
        return order.ids[alone], bounds, PrefixOrder(np.arange(len(shortest)), shortest)

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
        ids, bounds, shortest = self._found
        # No member is what was sampled: it would have a student token of its bytes.
        low, high = shortest.range(sampled)
        if low == high:
            return []
        first = int(bounds[low])
        mass = np.add.reduceat(row.mass[ids[first : int(bounds[high])]], bounds[low:high] - first)
        sets = [
            (float(mass[g]), self._tables.student_bytes.starting(shortest.keys[low + g][len(sampled) :]))
            for g in largest(mass, topk).tolist()
        ]
        return [(share, members) for share, members in sets if len(members)]


def with_sets(rows: Rows, behind: list[Sets]) -> tuple[Rows, Float64[np.ndarray, " S"]]:
    """Rows of single candidates together with sets, as rows of sets; and the sum each was divided by."""
    added = np.array([sum(share for share, _ in sets) for sets in behind], np.float64)
    total = rows.has_row + added
    has_row = total > 0.0
    logp: list[float] = []
    sizes: list[int] = []
    members: list[Int64[np.ndarray, " _"]] = []
    bounds = [0]
    for index, sets in enumerate(behind):
        own = slice(int(rows.bounds[index]), int(rows.bounds[index + 1]))
        if has_row[index]:
            shift = float(np.log(total[index]))
            logp += [float(value) - shift for value in rows.logp[own]]
            logp += [float(np.log(share)) - shift for share, _ in sets]
            sizes += [1] * (own.stop - own.start) + [len(ids) for _, ids in sets]
            members += [rows.ids[own], *(ids for _, ids in sets)]
        bounds.append(len(logp))
    ids = np.concatenate([np.zeros(0, np.int64), *members])
    label = np.where(added > 0.0, RowLabel.HEURISTIC, rows.label).astype(np.uint8)
    found = replace(
        rows,
        bounds=np.array(bounds, np.int64),
        ids=ids,
        logp=np.array(logp, np.float32),
        residual=(rows.residual / np.where(has_row, total, 1.0)).astype(np.float32),
        label=label,
        member_bounds=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        log_weight=np.zeros(len(ids), np.float32),
    )
    return found, total
