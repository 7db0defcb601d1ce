"""Credits settled when a whole step is known."""

from __future__ import annotations

import numpy as np

from dragoman.supervise.settle import settle
from dragoman.types import Account, Supervision


def supervision(
    own: list[float],
    neighbours: list[float],
    pairs: list[list[float]],
    *,
    penalised: int | None = None,
    clamp: float | None = None,
) -> Supervision:
    """Tokens of open accounts, one of them with a penalty of 3 instead if named."""
    size = len(own)
    is_open = np.arange(size) != (-1 if penalised is None else penalised)
    return Supervision(
        weight=np.ones(size, np.float32),
        reason=np.zeros(size, np.uint8),
        chunk_of=np.arange(size),
        credit=np.where(is_open, own, -3.0).astype(np.float32),
        account=Account(
            own=np.array(own),
            neighbours=np.array(neighbours),
            is_open=is_open,
            is_penalised=~is_open,
            penalty=3.0,
            pairs=np.array(pairs, np.float64).reshape(-1, 2),
            clamp=clamp,
        ),
    )


REPAID = [[1.0, -1.0], [-1.0, 1.0]] * 8
"""Sixteen pairs with the correlation -1: two responses of them are enough to say lambda = 1."""


def test_one_share_for_all_responses_of_a_step() -> None:
    first = supervision([1.0, 2.0], [0.5, -4.0], REPAID)
    second = supervision([3.0], [-1.0], REPAID)
    found = settle([first, second])
    assert [s.credit.tolist() for s in found if s.credit is not None] == [[1.5, -2.0], [2.0]]
    assert [s.account.share for s in found if s.account is not None] == [1.0, 1.0]
    # One of them alone has too few pairs: what its neighbours say stays out
    (alone,) = settle([first])
    assert alone.credit is not None and alone.credit.tolist() == [1.0, 2.0]


def test_the_clamp_is_for_the_sum_and_a_penalty_is_below_the_mean() -> None:
    # 8 + 4 = 12 is cut to 10, 12 - 4 = 8 is not; the mean is 9, and 3 less is 6
    found = settle([supervision([8.0, 12.0, 1.0], [4.0, -4.0, 9.0], REPAID * 2, penalised=2, clamp=10.0)])
    assert found[0].credit is not None and found[0].credit.tolist() == [10.0, 8.0, 6.0]
    assert found[0].num_clamped == 1


def test_other_credits_stay_as_they_are() -> None:
    plain = Supervision(
        weight=np.ones(1, np.float32),
        reason=np.zeros(1, np.uint8),
        chunk_of=np.zeros(1, np.int64),
        credit=np.array([2.5], np.float32),
    )
    assert settle([plain])[0] is plain
