"""`span`: every token receives the budgets of all chunks that its choice has a part in.

    A_i = D(own span) + lambda * N_i
    N_i = D(first chunk of the next span), and for tokens of a span's first chunk + D(span before)

D of a span is the sum of its chunks' budgets. Needs: a teacher of level 0, and spans
(`supervise.boundaries`).

Why not the budgets from the token on, as in `segment`? Where the teacher's tokens end depends on what the
student writes later: " f" is a token of its own before "as", and part of " fu" before "u". So the budget of
the chunk " f" is a consequence of the token behind it, and a credit that leaves it out prefers, at " f",
whatever makes the teacher end a token there. Across a span's end the same holds to the extent that accounts
are open there: that nothing goes on is said by what comes next.

How open they are can be seen. Where one chunk pays what the next gives back, neighbouring budgets go against
each other: two chunks with one account have the correlation -1/2, as of x_1 - x_0 and x_2 - x_1. Hence

    lambda = min(max(-2 r, 0), 1),   r the correlation of the budgets of neighbouring chunks

over the responses of a step. Where accounts are settled at every border, N_i is noise, r is not negative and
nothing of it is added.

With lambda = 1 and texts of one span and a stop this is the exact policy gradient of KL(S || T) over texts,
as far as the student writes canonically. Source: dragoman; docs/decisions/0010-span-credit.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from dragoman.supervise.credit.chunks import Chunks

LEAST_PAIRS = 32
"""Neighbouring chunks below which nothing is said of their correlation."""
ROUNDING = 1e-12
"""Variance, as a part of the mean square, below which budgets do not vary."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Accounts:
    """Of every chunk its budget, that of its span and that of what borders on it; `first_of_pair` are the
    chunks that count and have a neighbour behind them that does."""

    budget: Float64[np.ndarray, " C"]
    own: Float64[np.ndarray, " C"]
    neighbours: Float64[np.ndarray, " C"]
    first_of_pair: Int64[np.ndarray, " P"]

    @property
    def pairs(self) -> Float64[np.ndarray, "P 2"]:
        """The budgets of neighbouring chunks."""
        return np.stack([self.budget[self.first_of_pair], self.budget[self.first_of_pair + 1]], axis=1)


def accounts(chunks: Chunks) -> Accounts:
    """The sums above. Spans are neighbours if their numbers are; raises ValueError without spans."""
    segment_of = chunks.segment_of
    if segment_of is None:
        raise ValueError(
            "span credit needs Chunks.segment_of, but there are no segments; make the settings with "
            "`boundaries=Boundaries.of_pair(tables)`"
        )
    budget = chunks.budget
    if not len(budget):
        return Accounts(budget=budget, own=budget, neighbours=budget, first_of_pair=np.zeros(0, np.int64))
    step = np.diff(segment_of, prepend=segment_of[0] - 2)
    first = np.flatnonzero(step > 0)
    number = np.cumsum(step > 0) - 1
    total = np.add.reduceat(budget, first)
    linked = step[first[1:]] == 1
    neighbours = np.append(np.where(linked, budget[first[1:]], 0.0), 0.0)[number]
    neighbours[first[1:]] += np.where(linked, total[:-1], 0.0)
    beside = (step[1:] <= 1) & chunks.counts[1:] & chunks.counts[:-1]
    return Accounts(
        budget=budget, own=total[number], neighbours=neighbours, first_of_pair=np.flatnonzero(beside)
    )


def coupling(pairs: Float64[np.ndarray, "P 2"], weight: Float64[np.ndarray, " P"] | None = None) -> float:
    """lambda of some pairs. `weight` says how often, or with which probability, each occurs; once if left
    out."""
    return coupling_of(moments(pairs, weight))


def moments(
    pairs: Float64[np.ndarray, "P 2"], weight: Float64[np.ndarray, " P"] | None = None
) -> Float64[np.ndarray, " 7"]:
    """All that lambda depends on, as sums, so that those of several processes can be added: the number of
    pairs, their weight, the weighted sums of both budgets, of their squares and of their product."""
    w = np.ones(len(pairs)) if weight is None else weight
    first, second = pairs.T
    products = (w @ first**2, w @ second**2, w @ (first * second))
    return np.array([max(len(pairs), w.sum()), w.sum(), w @ first, w @ second, *products])


def coupling_of(found: Float64[np.ndarray, " 7"]) -> float:
    """lambda by `moments`; 0 for fewer than `LEAST_PAIRS` pairs or budgets that do not vary."""
    count, weight, *sums = found.tolist()
    if count < LEAST_PAIRS or not weight > 0.0:
        return 0.0
    first, second, first_square, second_square, product = (value / weight for value in sums)
    spread = (first_square - first**2) * (second_square - second**2)
    # Budgets that are all alike leave rounding.
    if not spread > (ROUNDING * first_square) * (ROUNDING * second_square):
        return 0.0
    return min(max(-2.0 * (product - first * second) / math.sqrt(spread), 0.0), 1.0)


@dataclass(frozen=True)
class OpenAccounts:
    """A rule whose credits are settled when all responses of a step are known (`supervise.settle`)."""

    accounts: Callable[[Chunks], Accounts]

    def __call__(self, chunks: Chunks) -> Float64[np.ndarray, " S"]:
        """The credit of every token as if these chunks were the whole step."""
        found = self.accounts(chunks)
        return (found.own + coupling(found.pairs) * found.neighbours)[chunks.chunk_of]


credit = OpenAccounts(accounts)
