"""`shared`: only where both sides draw one token each, and only tokens that both vocabularies have.

    row at a 1:1 chunk: S token u  <-  T(w), bytes(w) = bytes(u)

Needs: the teacher's most likely tokens or its whole distribution. Source: strict shared-vocabulary
distillation, arXiv 2610.08448, which renormalises both sides over the shared tokens, the student's own
`method.student_topk` most likely ones or all. The row itself renormalises nothing: tokens without
counterpart are its residual. The objective (`objective.shared`) takes both sides given the candidates, and
applies `student_topk`, since only there the student's distribution is known.

Labels as in `rows.common`: with equal tokenizers EXACT, else HEURISTIC.
"""

from __future__ import annotations

from dragoman.config import MethodConfig
from dragoman.supervise.dense import dense
from dragoman.supervise.rows.assembly import rows_of, telling
from dragoman.supervise.rows.common import Mass, Response, root
from dragoman.supervise.sampled import Supervise
from dragoman.text import PairTables
from dragoman.types import ChunkKind


def build(tables: PairTables, config: MethodConfig) -> Supervise:
    """Rows of the tokens that both vocabularies have, at 1:1 chunks and events."""
    return dense(tables, config, lambda response: rows_of(response, telling(rule), config.row_topk))


def rule(response: Response, index: int) -> Mass | None:
    """The row of one student token."""
    if response.kind(index) not in (ChunkKind.ONE_TO_ONE, ChunkKind.EVENT):
        return None
    return root(response, index, response.tables.student_of_teacher)
