"""Masses of student tokens of which some are known only together. `rows.listed` makes candidates of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int64


@dataclass(kw_only=True, eq=False)
class Sets:
    """Masses of student tokens and which of them are told apart only together. `lost` is the mass of tokens
    that are not known, `doubtful` that of which it is not even known whether it is at this place. Unless
    they are `whole`, all these are to be divided by their sum."""

    single: dict[int, float] = field(default_factory=dict)
    lost: float = 0.0
    doubtful: float = 0.0
    whole: bool = False
    links: list[tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]] = field(default_factory=list)

    def add(self, amount: float, target: int) -> None:
        """Add mass to one token."""
        self.single[target] = self.single.get(target, 0.0) + amount

    def join(self, ids: Sequence[int] | Int64[np.ndarray, " n"]) -> None:
        """Make some tokens one set."""
        members = np.asarray(ids, np.int64)
        self.link(np.full(max(len(members) - 1, 0), members[0] if len(members) else 0), members[1:])

    def link(self, one: Int64[np.ndarray, " n"], other: Int64[np.ndarray, " n"]) -> None:
        """Put token `other[i]` into the set of token `one[i]`, for every i."""
        if len(one):
            self.links.append((one, other))

    def move(self, amount: float, source: int, target: int | None) -> float:
        """Move mass from one token to another (None: away), never more than there is; how much it was."""
        single = self.single
        there = single.get(source, 0.0)
        amount = min(amount, there)
        single[source] = there - amount
        if target is not None:
            single[target] = single.get(target, 0.0) + amount
        return amount

    def give_up(self, index: int) -> None:
        """Make a token part of what is not known."""
        self.lost += self.single.pop(index, 0.0)
