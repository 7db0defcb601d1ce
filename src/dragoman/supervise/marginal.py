"""The teacher's log-prob of every *student* token: what `marginal` credits compare the student's own with.

Every teacher token is tokenised by the student's tokenizer once; those whose tokenisation starts with some
student tokens are a subtree of that trie (`PairTables.spelling_order`). In a chunk that starts at a shared
boundary and holds the student tokens y_1..y_m and the teacher tokens w_1..w_n,

    M_i = sum over k of T(w_1..w_k) * mass of tokens w behind w_1..w_k for which the student's tokenisation
          of the text w_1..w_k w starts with y_1..y_i
    r_i = log M_i - log M_{i-1},  M_0 = 1,      and the last  r_m = L_T - log M_{m-1}

so that the r_i of a chunk sum to L_T. Only tokens w that reach to the end of y_i can count, so the sum goes
over the realised teacher tokens that end before it: with one teacher token in the chunk it is the first row
alone, by the trie. For k > 0 the strings are tokenised as they come, the likeliest `MOST_TRIED` of a row.

A chunk's realised tokens have to be among those counted, else its r is unknown: NaN. So it is in chunks of
events, and where the teacher's tokenizer changes the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from dragoman.supervise.credit.chunks import chunk_sums
from dragoman.text.pair import PairTables
from dragoman.text.prefixes import Ranked
from dragoman.types import Alignment, ChunkKind, TeacherScores, TokenText

MOST_TRIED = 64
"""Teacher tokens behind others in a chunk that are tokenised to see what the student would make of them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Chunk:
    """One chunk: student ids y and where each ends in its bytes; teacher ids w, their log-probs, their rows
    and where each ends."""

    y: Int64[np.ndarray, " m"]
    y_ends: Int64[np.ndarray, " m"]
    w: Int64[np.ndarray, " n"]
    w_logp: Float64[np.ndarray, " n"]
    w_ends: Int64[np.ndarray, " n"]
    rows: range
    data: bytes


class Marginals:
    """Finds r for the responses of one pair; its tables are made when a chunk first needs them."""

    def __init__(self, tables: PairTables) -> None:
        self.tables = tables

    def steps(
        self, text: TokenText, scores: TeacherScores, alignment: Alignment, counts: Bool[np.ndarray, " C"]
    ) -> Float64[np.ndarray, " S"]:
        """r of every student token of a response, in nats; `text` is the student's. NaN throughout chunks
        that do not count, and those of several student tokens whose realised tokens the trie does not lead
        to.

        Raises ValueError for scores without rows or without the teacher's tokens.
        """
        if scores.tokens is None or (scores.topk_logp is None and scores.full_logp is None):
            missing = "teacher tokens" if scores.tokens is None else "rows"
            raise ValueError(
                f"the scores have no {missing}, which marginal credit needs; ask the teacher for its most "
                "likely tokens (teacher.topk), and hand its tokens on with the scores"
            )
        num_student = np.diff(alignment.student_bounds)
        logp = np.full(len(text), np.nan)
        single = counts & (num_student == 1)
        whole = chunk_sums(scores.logp, alignment.teacher_bounds)
        logp[alignment.student_bounds[:-1][single]] = whole[single]
        for c in np.flatnonzero(counts & (num_student > 1)).tolist():
            chunk = _chunk(text, scores, scores.tokens, alignment, c)
            is_text = alignment.kind[c] <= ChunkKind.MANY_TO_MANY
            masses = self._log_masses(chunk, scores) if is_text else None
            if masses is None:
                continue
            # Of float32 rows the sum may be above 1 by rounding.
            sums = np.minimum(masses, 0.0)
            logp[alignment.student_bounds[c] : alignment.student_bounds[c + 1]] = np.diff(
                np.concatenate([[0.0], sums, [whole[c]]])
            )
        return logp

    def _log_masses(self, chunk: _Chunk, scores: TeacherScores) -> list[float] | None:
        """log M_i for i = 1..m-1; None where the realised tokens are not among those counted."""
        if len(chunk.w) == 1 and not np.array_equal(self.tables.spelling(int(chunk.w[0])), chunk.y):
            return None
        masses = []
        for i in range(1, len(chunk.y)):
            behind = int(np.searchsorted(chunk.w_ends, chunk.y_ends[i - 1], side="right"))
            parts = []
            for k in range(behind + 1):
                ids, logp = self._counted(chunk, scores, i, k)
                if k == behind and not (ids == chunk.w[k]).any():
                    return None
                parts.append(chunk.w_logp[:k].sum() + _log_sum(logp))
            masses.append(_log_sum(np.array(parts)))
        return masses

    def _counted(
        self, chunk: _Chunk, scores: TeacherScores, i: int, k: int
    ) -> tuple[Int64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        """Teacher tokens behind w_1..w_k with which the student's tokenisation starts with y_1..y_i, and
        their log-probs."""
        wanted = chunk.y[:i]
        realised = int(chunk.w[k])
        if k == 0:
            order = self.tables.by_spelling
            span = self.tables.spelling_prefix_range(wanted)
            return _in_row(scores, chunk.rows[0], order, span, realised)
        before = chunk.data[: chunk.w_ends[k - 1]]
        rest = chunk.data[len(before) : chunk.y_ends[i - 1]]
        order = self.tables.by_bytes
        span = self.tables.teacher_bytes.range(rest)
        ids, logp = _in_row(scores, chunk.rows[k], order, span, realised)
        if not len(ids):
            return ids, logp
        likely = np.argsort(-logp, kind="stable")[:MOST_TRIED]
        if realised in ids and realised not in ids[likely]:
            likely = np.append(likely, np.flatnonzero(ids == realised))
        ids, logp = ids[likely], logp[likely]
        strings = [before + self.tables.teacher.token_bytes(index) for index in ids.tolist()]
        bounds, spelled = self.tables.student.encode_many(strings)
        spellings = np.split(spelled, bounds[1:-1])
        kept = np.array([np.array_equal(spelling[:i], wanted) for spelling in spellings], bool)
        return ids[kept], logp[kept]


def _chunk(text: TokenText, scores: TeacherScores, tokens: TokenText, alignment: Alignment, c: int) -> _Chunk:
    s0, s1 = alignment.student_bounds[c : c + 2].tolist()
    t0, t1 = alignment.teacher_bounds[c : c + 2].tolist()
    return _Chunk(
        y=text.ids[s0:s1],
        y_ends=text.bounds[s0 + 1 : s1 + 1] - text.bounds[s0],
        w=tokens.ids[t0:t1],
        w_logp=scores.logp[t0:t1].astype(np.float64),
        w_ends=tokens.bounds[t0 + 1 : t1 + 1] - tokens.bounds[t0],
        rows=range(t0, t1),
        data=text.data[text.bounds[s0] : text.bounds[s1]],
    )


def _in_row(
    scores: TeacherScores,
    row: int,
    order: Ranked,
    span: tuple[int, int],
    realised: int,
) -> tuple[Int64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """The tokens of a teacher's row that are `order.ids[lo:hi]`, and their log-probs: all of them, or those
    among the most likely and the realised one. Of the most likely, ids beyond the vocabulary (padding of the
    model's head) are none of them."""
    low, high = span
    if scores.full_logp is not None:
        ids = order.ids[low:high]
        return ids, scores.full_logp.at(row, ids).astype(np.float64)
    assert scores.topk_ids is not None and scores.topk_logp is not None
    ids, logp = scores.topk_ids[row].astype(np.int64), scores.topk_logp[row].astype(np.float64)
    if realised not in ids:
        ids, logp = np.append(ids, realised), np.append(logp, np.float64(scores.logp[row]))
    inside = ids < len(order.place)
    ids, logp = ids[inside], logp[inside]
    kept = (order.place[ids] >= low) & (order.place[ids] < high)
    return ids[kept], logp[kept]


def _log_sum(logp: Float64[np.ndarray, " n"]) -> float:
    """log sum exp; -inf of nothing."""
    largest = logp.max(initial=-np.inf)
    return float(largest + np.log(np.exp(logp - largest).sum())) if largest > -np.inf else -np.inf
