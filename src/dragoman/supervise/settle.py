"""What can only be said of the credits of a whole step: how far its accounts are open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dragoman.supervise.credit.span import coupling
from dragoman.types import Supervision


def settle(supervisions: Sequence[Supervision]) -> list[Supervision]:
    """Add to credits with open accounts (`Supervision.account`) what they share of their neighbours', by one
    lambda for all, and clamp them; the others stay as they are.
    """
    pairs = [found.account.pairs for found in supervisions if found.account is not None]
    share = coupling(np.concatenate(pairs)) if pairs else 0.0
    return [_settled(found, share) for found in supervisions]


def _settled(found: Supervision, share: float) -> Supervision:
    account = found.account
    if account is None or found.credit is None:
        return found
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
