"""A teacher's rows over a response, as they are held."""

from __future__ import annotations

import numpy as np
import pytest

import toy
from dragoman.supervise.rows.teacher import TeacherRows

TEACHER = toy.bpe("teacher", "a b", "c d", "ab cd")


def test_a_row_of_the_most_likely_holds_nothing_as_long_as_the_vocabulary() -> None:
    masses = {"abcd": 0.4, "ab": 0.3, "cd": 0.2, "a": 0.1}
    scores = toy.scores_of(TEACHER, toy.ids_of(TEACHER, "ab"), (masses,), topk=2)
    row = TeacherRows(TEACHER, scores)[0]
    expected = np.zeros(TEACHER.num_ids)
    expected[[toy.index_of(TEACHER, word) for word in ("abcd", "ab")]] = 0.4, 0.3
    assert row.mass == pytest.approx(expected)
    assert all(len(held) < TEACHER.num_ids for held in vars(row).values() if isinstance(held, np.ndarray))
