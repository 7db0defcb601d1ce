"""Rows, units and sorted log-probs of several responses, joined for a batch."""

from __future__ import annotations

import numpy as np

from dragoman.train.ragged import joined_rows, joined_sorted, joined_units
from dragoman.types import RowLabel, Rows, Units

EXACT, NONE = RowLabel.EXACT, RowLabel.NONE
NOTHING = np.zeros(0, np.int64)


def rows() -> Rows:
    """Three tokens: {7: .5, 8: .3}, no row, {9: 1}."""
    return Rows(
        bounds=np.array([0, 2, 2, 3]),
        ids=np.array([7, 8, 9]),
        logp=np.log(np.array([0.5, 0.3, 1.0], np.float32)),
        residual=np.array([0.2, 0.0, 0.0], np.float32),
        label=np.array([EXACT, NONE, EXACT], np.uint8),
    )


def sets() -> Rows:
    """Two tokens: {{1, 2 at half}: .6, {3}: .4}, {{4}: .9}."""
    return Rows(
        bounds=np.array([0, 2, 3]),
        ids=np.array([1, 2, 3, 4]),
        logp=np.log(np.array([0.6, 0.4, 0.9], np.float32)),
        residual=np.array([0.0, 0.1], np.float32),
        label=np.array([EXACT, EXACT], np.uint8),
        member_bounds=np.array([0, 2, 3, 4]),
        log_weight=np.log(np.array([1.0, 0.5, 1.0, 1.0], np.float32)),
    )


def test_rows_of_the_kept_tokens() -> None:
    joined = joined_rows([rows(), None, rows()], [np.array([2]), np.array([0, 1]), np.array([0, 1])])
    assert joined is not None and len(joined) == 5
    # Token 2 of the first; two tokens without; tokens 0 and 1 of the third
    assert joined.bounds.tolist() == [0, 1, 1, 1, 3, 3]
    assert joined.ids.tolist() == [9, 7, 8]
    assert np.exp(joined.logp).round(6).tolist() == np.array([1, 0.5, 0.3], np.float32).tolist()
    assert joined.residual.round(6).tolist() == np.array([0, 0, 0, 0.2, 0], np.float32).tolist()
    assert joined.label.tolist() == [EXACT, NONE, NONE, EXACT, NONE]
    assert joined.member_bounds is None and joined.log_weight is None


def test_single_tokens_among_sets() -> None:
    joined = joined_rows([rows(), sets()], [np.array([0]), np.array([1, 0])])
    assert joined is not None and joined.member_bounds is not None and joined.log_weight is not None
    # {7}, {8}; then the second token's {4} and the first's {1, 2}, {3}
    assert joined.ids.tolist() == [7, 8, 4, 1, 2, 3]
    assert joined.member_bounds.tolist() == [0, 1, 2, 3, 5, 6]
    assert np.exp(joined.log_weight).tolist() == [1, 1, 1, 1, 0.5, 1]
    assert joined.bounds.tolist() == [0, 2, 3, 5]


def test_no_rows_and_no_tokens() -> None:
    assert joined_rows([None, None], [np.array([0]), np.array([1])]) is None
    empty = joined_rows([rows(), sets()], [NOTHING, NOTHING])
    assert empty is not None and len(empty) == 0 and empty.bounds.tolist() == [0]
    assert empty.member_bounds is not None and empty.member_bounds.tolist() == [0]


def test_units_are_numbered_anew() -> None:
    first = Units(
        unit_of=np.array([0, -1, 1, 1]),
        teacher_logp=np.array([-1.0, -2.0], np.float32),
        num_teacher=np.array([1, 2]),
    )
    joined = joined_units([first, None, first], [np.array([2, 3]), np.array([5]), np.array([0, 1])])
    assert joined is not None
    assert joined.unit_of.tolist() == [1, 1, -1, 2, -1]
    assert joined.teacher_logp.tolist() == [-1, -2, -1, -2]
    assert joined.num_teacher.tolist() == [1, 2, 1, 2]
    assert joined_units([None], [np.array([0])]) is None


def test_sorted_log_probs_of_different_widths() -> None:
    wide, narrow = np.array([[-1, -2], [-3, -4]], np.float32), np.array([[-5.0]], np.float32)
    joined = joined_sorted([wide, narrow, None], [np.array([1]), np.array([0]), np.array([0])])
    assert joined is not None and joined.dtype == np.float32
    assert joined.tolist() == [[-3, -4], [-5, -np.inf], [-np.inf, -np.inf]]
    assert joined_sorted([None], [np.array([0])]) is None
