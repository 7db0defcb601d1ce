"""Supervision of methods that take chunks as wholes: `alm` and `simct`.

A unit is a comparable chunk: the finest stretch that begins and ends on borders of both sides, so in terms
of `simct` a connected component of the byte fragments of both tokenisations. Its teacher log-prob is the sum
over its teacher tokens, in nats.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, UInt8

from dragoman.config import MethodConfig
from dragoman.errors import ConfigError
from dragoman.supervise.dense import check_guard, prepare
from dragoman.supervise.guard import Guard, guarded
from dragoman.supervise.reasons import check_axes, chunk_reasons, odd_chunks
from dragoman.supervise.rows.common import Mass, Response, root, rows_of
from dragoman.supervise.sampled import Supervise, chunk_sums
from dragoman.text.pair import PairTables
from dragoman.types import Alignment, DropReason, Rollout, Supervision, TeacherScores, Units


def build_alm(tables: PairTables, config: MethodConfig) -> Supervise:
    """Units alone; needs a teacher of level 0, and no log-probs from sampling. Every token of a unit is
    trained on, through the sum of its unit's log-probs. The tables stay untouched.

    Raises ConfigError for `method.guard: penalty`, which is a credit, and for `method.whole_words`. That
    factor is, on either side, the probability that the token behind a unit starts a new word: the sum over
    all such tokens of the vocabulary. For the teacher it takes a full row behind every unit (level 2; of the
    most likely tokens alone the sum is only a lower bound), for the student one candidate of tens of
    thousands of members behind every unit, and an objective that multiplies them to the units. Not offered.
    """
    check_guard(config)
    if config.whole_words:
        raise ConfigError(
            "method.whole_words is true, but alm does not offer it: the probability that the next token "
            "starts a word needs whole distributions of both models behind every chunk; leave "
            "method.whole_words out"
        )
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
    check_axes(rollout, scores, alignment)
    reason = chunk_reasons(
        rollout,
        scores,
        alignment,
        max_chunk_tokens=config.max_chunk_tokens,
        mask_normalised=config.normalised == "mask",
    )
    verdict = guarded(Guard(config.guard), reason, odd_chunks(rollout, alignment))
    return Supervision(
        weight=verdict.counts[alignment.chunk_of].astype(np.float32),
        reason=verdict.reason[alignment.chunk_of],
        chunk_of=alignment.chunk_of,
        credit=None,
        units=_units(scores, alignment, verdict.counts),
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
