"""What can only be said of the credits of a whole step: how far its accounts are open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dragoman.supervise.credit.span import coupling
from dragoman.types import Supervision


def settle(supervisions: Sequence[Supervision]) -> list[Supervision]:
    """Add to credits with open accounts (`Supervision.account`) what they share of their neighbours', by one
    lambda for all, and clamp them; put penalised tokens below the mean of the others. A penalty is felt by
    how much worse it is than what the student gets for other text, which is negative until it has learnt.

    Supervisions without an account stay as they are.
    """
    share = _share(supervisions)
    found = [s if s.account is None else _open(s, share) for s in supervisions]
    level = mean_credit([(s.credit, s.account.is_open) for s in found if s.account is not None])
    return [_penalised(s, level) for s in found]


def mean_credit(credits: Sequence[tuple[np.ndarray | None, np.ndarray]]) -> float:
    """The mean of credits over the tokens named; 0 where there is none."""
    kept = [credit[which] for credit, which in credits if credit is not None]
    values = np.concatenate(kept) if kept else np.zeros(0)
    return float(values.mean(dtype=np.float64)) if len(values) else 0.0


def _share(supervisions: Sequence[Supervision]) -> float:
    pairs = [found.account.pairs for found in supervisions if found.account is not None]
    return coupling(np.concatenate(pairs)) if pairs else 0.0


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
