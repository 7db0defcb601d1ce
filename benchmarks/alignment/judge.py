"""How good are the chunks of an aligner, against the sources of the tokens. Imports nothing of dragoman.

A pair of borders (i, j) is a *cut* if no teacher token before j has a source byte at or behind the student's
border i, and none from j on has one before it. For a lossless teacher that says: both borders lie at the
same byte. A chunk that the aligner uses is

* **wrong** if it does not begin and end at a cut: its two sides cover different bytes; or if it holds a
  foreign teacher token, whose probability is not that of any text of the response;
* **coarse** if a further cut lies strictly inside it: right, but its signal is blurred over several chunks;
* **exact** otherwise.

Student tokens in no used chunk, or in one without teacher tokens, are **unsupervised**.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from truth import Sources

Chunk = tuple[int, int, int, int]
"""First and last token (exclusive) of the student, then of the teacher."""

VERDICTS = ("exact", "coarse", "wrong", "unsupervised")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Student tokens by verdict, in the order of `VERDICTS`."""

    counts: tuple[int, int, int, int]
    wrong_chunk: Chunk | None
    """The first wrong chunk, for a closer look."""


def judge(student_bounds: np.ndarray, teacher: Sources, chunks: Sequence[Chunk]) -> Verdict:
    """Judge the used chunks of one response; `student_bounds` are the student's S+1 byte offsets.

    Raises ValueError for chunks that overlap, are out of order or beyond the tokens.
    """
    num_student = len(student_bounds) - 1
    table = np.array(chunks, np.int64).reshape(-1, 4)
    table = table[(table[:, 0] < table[:, 1]) & (table[:, 2] < table[:, 3])]
    _check_order(table, num_student, len(teacher.start))
    first_s, last_s, first_t, last_t = table.T
    earliest, latest = cut_window(teacher, int(student_bounds[-1]))

    def is_cut(border_s: np.ndarray, border_t: np.ndarray) -> np.ndarray:
        offset = student_bounds[border_s]
        return (earliest[border_t] <= offset) & (offset <= latest[border_t])

    foreign = np.concatenate([[0], np.cumsum(teacher.foreign)])
    wrong = ~is_cut(first_s, first_t) | ~is_cut(last_s, last_t) | (foreign[last_t] > foreign[first_t])
    # Which student borders make a cut with teacher border j: from low[j] to high[j].
    low = np.searchsorted(student_bounds, earliest, side="left")
    high = np.searchsorted(student_bounds, latest, side="right") - 1
    divisible = np.zeros(len(table), bool)
    inner = np.arange(len(earliest))
    of = np.searchsorted(first_t, inner, side="left") - 1  # the chunk that begins before border j
    inside = (of >= 0) & (inner < last_t[np.maximum(of, 0)]) if len(table) else np.zeros(len(inner), bool)
    of, low, high = of[inside], low[inside], high[inside]
    split = np.maximum(low, first_s[of] + 1) <= np.minimum(high, last_s[of] - 1)
    divisible[of[split]] = True
    size = last_s - first_s
    exact, coarse, bad = (
        int(size[which].sum()) for which in (~wrong & ~divisible, ~wrong & divisible, wrong)
    )
    at = np.flatnonzero(wrong)
    return Verdict(
        counts=(exact, coarse, bad, num_student - exact - coarse - bad),
        wrong_chunk=tuple(table[at[0]].tolist()) if len(at) else None,
    )


def cut_window(teacher: Sources, num_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of the T+1 teacher borders, the first and last byte offset that it can be cut at.

    They are equal unless the normaliser dropped bytes there, and crossed where two tokens share a source.
    """
    placed = teacher.stop > teacher.start
    ends = np.where(placed, teacher.stop, 0)
    begins = np.where(placed, teacher.start, num_bytes)
    earliest = np.concatenate([[0], np.maximum.accumulate(ends)])
    latest = np.concatenate([np.minimum.accumulate(begins[::-1])[::-1], [num_bytes]])
    return earliest.astype(np.int64), latest.astype(np.int64)


def _check_order(table: np.ndarray, num_student: int, num_teacher: int) -> None:
    for side, size in ((table[:, :2], num_student), (table[:, 2:], num_teacher)):
        flat = side.reshape(-1)
        if len(flat) and ((np.diff(flat) < 0).any() or flat[0] < 0 or flat[-1] > size):
            raise ValueError(f"chunks overlap, are out of order or beyond {size} tokens: {table.tolist()}")
