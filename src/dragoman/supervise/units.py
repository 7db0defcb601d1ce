"""Supervision of methods that take chunks as wholes: `alm` and `simct`.

A unit is a comparable chunk: the finest stretch that begins and ends on borders of both sides, so in terms
of `simct` a connected component of the byte fragments of both tokenisations. Its teacher log-prob is the sum
over its teacher tokens, in nats.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, UInt8

from dragoman.config import MethodConfig
from dragoman.supervise.credit.chunks import chunk_sums
from dragoman.supervise.dense import check_guard, prepare
from dragoman.supervise.reasons import limits_of, verdict
from dragoman.supervise.rows.assembly import rows_of
from dragoman.supervise.rows.common import Mass, Response, root
from dragoman.supervise.sampled import Supervise
from dragoman.text.pair import PairTables
from dragoman.types import Alignment, DropReason, Rollout, Supervision, TeacherScores, Units


def build_alm(tables: PairTables, config: MethodConfig) -> Supervise:
    """Units alone; needs a teacher of level 0, and no log-probs from sampling. Every token of a unit is
    trained on, through the sum of its unit's log-probs. The tables stay untouched.

    The authors' right-boundary factor, the probability that the token behind a unit starts a new word, is
    not offered: it is a sum over tens of thousands of tokens on either side, so it takes a full row of the
    teacher's behind every unit, and an objective that multiplies the student's to the units.

    Raises ConfigError for `method.guard: penalty`, which is a credit.
    """
    check_guard(config)
    return lambda rollout, scores, alignment: _supervise_alm(rollout, scores, alignment, config)


def build_simct(tables: PairTables, config: MethodConfig) -> Supervise:
    """Units, and a row at the start of each; needs a teacher of level 1 or 2.

    The loss chooses among candidates at the first student token i of a unit, where teacher and student both
    draw a token: the tokens that both vocabularies have (row i, as under `shared`, not renormalised), and
    the unit itself where it has several tokens on either side (`Units`); one of one token on both sides is in
    the row already. Tokens inside a unit have no row and are trained on through the unit's mean log-prob, so
    their weight is 1 too: it lets the loss see their log-probs, and counts them in what it is divided by. A
    chunk without a row (an event of several tokens, normalised bytes) is no unit.

    Raises ConfigError for `method.guard: penalty`, which is a credit.
    """
    check_guard(config)
    return lambda rollout, scores, alignment: _supervise_simct(rollout, scores, alignment, tables, config)


def _supervise_alm(
    rollout: Rollout, scores: TeacherScores, alignment: Alignment, config: MethodConfig
) -> Supervision:
    found = verdict(rollout, scores, alignment, limits_of(config))
    return Supervision(
        weight=found.counts[alignment.chunk_of].astype(np.float32),
        reason=found.reason[alignment.chunk_of],
        chunk_of=alignment.chunk_of,
        credit=None,
        units=_units(scores, alignment, found.counts),
    )


def _supervise_simct(
    rollout: Rollout,
    scores: TeacherScores,
    alignment: Alignment,
    tables: PairTables,
    config: MethodConfig,
) -> Supervision:
    reason, response = prepare(tables, config, rollout, scores, alignment)
    of, starts = alignment.chunk_of, alignment.student_bounds

    def rule(response: Response, index: int) -> Mass | None:
        if index != starts[of[index]]:
            return None
        return root(response, index, tables.student_of_teacher)

    rows = rows_of(response, rule, config.row_topk)
    padded = np.append(rows.has_row, False)
    whole = padded[starts[:-1]] & (np.diff(starts) > 0)
    return Supervision(
        weight=whole[of].astype(np.float32),
        reason=_without_row(reason, whole[of]),
        chunk_of=of,
        credit=None,
        rows=rows,
        units=_units(scores, alignment, whole),
    )


def _units(scores: TeacherScores, alignment: Alignment, whole: Bool[np.ndarray, " C"]) -> Units:
    """The units of a response: some of its chunks."""
    number = np.where(whole, np.cumsum(whole) - 1, -1)
    sums = chunk_sums(scores.logp, alignment.teacher_bounds)
    return Units(
        unit_of=number[alignment.chunk_of],
        teacher_logp=sums[whole].astype(np.float32),
        num_teacher=np.diff(alignment.teacher_bounds)[whole],
    )


def _without_row(reason: UInt8[np.ndarray, " S"], whole: Bool[np.ndarray, " S"]) -> UInt8[np.ndarray, " S"]:
    return np.where((reason == DropReason.NONE) & ~whole, DropReason.NO_ROW, reason).astype(np.uint8)
