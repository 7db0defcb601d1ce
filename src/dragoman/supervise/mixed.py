"""Credits and rows together: both kinds of signal on the tokens that have them."""

from __future__ import annotations

import numpy as np

from dragoman.config import MethodConfig
from dragoman.supervise.rows import canon, retok
from dragoman.supervise.sampled import Build, Supervise, build_chunk, build_span
from dragoman.text.pair import PairTables
from dragoman.types import Alignment, DropReason, Rollout, Supervision, TeacherScores


def both(credits: Build, rows: Build) -> Build:
    """A supervision that joins that of a credit rule and that of rows.

    A token is trained on if either does. Where only the rows do, its credit is 0. Under `guard: penalty`
    odd chunks have the penalty as their credit and no row; under `span` the other chunks of an odd span have
    the penalty and their row.
    """

    def build(tables: PairTables, config: MethodConfig) -> Supervise:
        by_credit = credits(tables, config)
        guard = "mask" if config.guard == "penalty" else config.guard
        by_rows = rows(tables, config.model_copy(update={"guard": guard}))

        def supervise(rollout: Rollout, scores: TeacherScores, alignment: Alignment) -> Supervision:
            return joined(by_credit(rollout, scores, alignment), by_rows(rollout, scores, alignment))

        return supervise

    return build


def joined(credit: Supervision, rows: Supervision) -> Supervision:
    """Two supervisions of one response as one; the reason of a token without signal is the credit's."""
    trained = (credit.weight > 0) | (rows.weight > 0)
    return Supervision(
        weight=trained.astype(np.float32),
        reason=np.where(trained, np.uint8(DropReason.NONE), credit.reason),
        chunk_of=credit.chunk_of,
        credit=credit.credit,
        num_clamped=credit.num_clamped,
        rows=rows.rows,
        account=credit.account,
    )


build_chunk_retok = both(build_chunk, retok.build)
build_span_canon = both(build_span, canon.build)
