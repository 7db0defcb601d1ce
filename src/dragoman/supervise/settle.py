"""What can only be said of the credits of a whole step: how far its accounts are open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from dragoman.supervise.credit.span import coupling_of, moments
from dragoman.types import Supervision

Add = Callable[[Float64[np.ndarray, " n"]], Float64[np.ndarray, " n"]]
"""Sums an array over the processes of a run; every process must call it equally often."""


def alone(values: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """The sum over one process."""
    return values


def settle(supervisions: Sequence[Supervision], add: Add = alone) -> list[Supervision]:
    """Add to credits with open accounts (`Supervision.account`) what they share of their neighbours', by one
    lambda for all, and clamp them; put penalised tokens below the mean of the others, and below 0. A penalty
    is felt by how much worse it is than what the student gets for other text, which is negative until it has
    learnt; where the others are praised by chance, it stays a penalty.

    Supervisions without an account stay as they are. The step is that of all processes: `add` is called
    twice, whatever this one has.
    """
    share = _share(supervisions, add)
    found = [s if s.account is None else _open(s, share) for s in supervisions]
    level = min(_mean_credit(found, add), 0.0)
    return [_penalised(s, level) for s in found]


def _mean_credit(supervisions: Sequence[Supervision], add: Add) -> float:
    """The mean credit of tokens with open accounts; 0 where there is none."""
    found = np.zeros(2)
    for supervision in supervisions:
        if supervision.account is not None and supervision.credit is not None:
            kept = supervision.credit[supervision.account.is_open]
            found += kept.sum(dtype=np.float64), len(kept)
    total, count = add(found).tolist()
    return float(total / count) if count else 0.0


def _share(supervisions: Sequence[Supervision], add: Add) -> float:
    found = np.zeros(7)
    for supervision in supervisions:
        if supervision.account is not None:
            found += moments(supervision.account.pairs)
    return coupling_of(add(found))


def _open(found: Supervision, share: float) -> Supervision:
    account = found.account
    assert account is not None and found.credit is not None
    value = account.own + share * account.neighbours
    num_clamped = 0
    if account.clamp is not None:
        num_clamped = int((np.abs(value[account.is_open]) > account.clamp).sum())
        value = np.clip(value, -account.clamp, account.clamp)
    return replace(
        found,
        credit=np.where(account.is_open, value, found.credit).astype(np.float32),
        num_clamped=num_clamped,
        account=replace(account, share=share),
    )


def _penalised(found: Supervision, level: float) -> Supervision:
    account = found.account
    if account is None or found.credit is None or not account.is_penalised.any():
        return found
    credit = np.where(account.is_penalised, level - account.penalty, found.credit)
    return replace(found, credit=credit.astype(np.float32))
