"""Credits settled when a whole step is known."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

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
    # -8 - 4 = -12 is cut to -10, -12 + 4 = -8 is not; the mean is -9, and 3 less is -12
    found = settle([supervision([-8.0, -12.0, 1.0], [-4.0, 4.0, 9.0], REPAID * 2, penalised=2, clamp=10.0)])
    assert found[0].credit is not None and found[0].credit.tolist() == [-10.0, -8.0, -12.0]
    assert found[0].num_clamped == 1


def test_a_penalty_is_never_a_reward() -> None:
    # the mean of the others is 9: 3 less would be a praise of 6
    (found,) = settle([supervision([8.0, 10.0, 1.0], [0.0, 0.0, 9.0], REPAID * 2, penalised=2)])
    assert found.credit is not None and found.credit.tolist() == [8.0, 10.0, -3.0]


def test_other_credits_stay_as_they_are() -> None:
    plain = Supervision(
        weight=np.ones(1, np.float32),
        reason=np.zeros(1, np.uint8),
        chunk_of=np.zeros(1, np.int64),
        credit=np.array([2.5], np.float32),
    )
    assert settle([plain])[0] is plain


def test_processes_settle_a_step_together() -> None:
    """Two halves of a step, a thread each, make what the whole step makes."""
    parts = [
        [supervision([-1.0, 2.0], [0.5, -4.0], REPAID)],
        [supervision([3.0, -9.0, 0.0], [-1.0, 2.0, 0.0], [[0.5, 0.5], [1.0, 2.0]] * 8, penalised=2)],
    ]
    met, posted = threading.Barrier(2, timeout=10), dict[int, np.ndarray]()

    def add(values: np.ndarray) -> np.ndarray:
        posted[threading.get_ident()] = values
        met.wait()
        total = sum(posted.values(), np.zeros(len(values)))
        met.wait()
        return total

    with ThreadPoolExecutor(2) as pool:
        found = [s for part in pool.map(partial(settle, add=add), parts) for s in part]
    for one, other in zip(found, settle(parts[0] + parts[1]), strict=True):
        assert one.credit is not None and other.credit is not None
        np.testing.assert_allclose(one.credit, other.credit, rtol=1e-6)
        assert one.account is not None and one.account.share is not None and 0 < one.account.share < 1
