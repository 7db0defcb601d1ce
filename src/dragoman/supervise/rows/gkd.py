"""`gkd`: the teacher's row as it is, for tokenizers whose ids mean the same.

    row: S token u  <-  T(u)

Needs: equal tokenizers; the teacher's most likely tokens or its whole distribution. Source: generalised
knowledge distillation, arXiv 2306.13649. Every row is EXACT: `q*` is the teacher.
"""

from __future__ import annotations

from dragoman.config import MethodConfig
from dragoman.supervise.dense import dense
from dragoman.supervise.rows.assembly import rows_of, telling
from dragoman.supervise.rows.shared import rule
from dragoman.supervise.sampled import Supervise
from dragoman.text import PairTables


def build(tables: PairTables, config: MethodConfig) -> Supervise:
    """The teacher's own rows; that tokenizers are equal is for `Method.check_tokenizers`."""
    return dense(tables, config, lambda response: rows_of(response, telling(rule), config.row_topk))
