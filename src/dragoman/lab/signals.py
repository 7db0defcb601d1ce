"""What a method says to do about some sampled paths: the gradient of its loss with respect to the logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64

from dragoman.lab.bench import Bench, ragged
from dragoman.lab.exact import canonical_share, centred

Counts = Int64[np.ndarray, " P"] | Float64[np.ndarray, " P"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Student:
    """A student of a world, with its law at hand."""

    bench: Bench
    logits: Float64[np.ndarray, " E"]
    edge_logp: Float64[np.ndarray, " E"]

    @cached_property
    def canonical_share(self) -> Float64[np.ndarray, " E"]:
        """Its law among the canonical edges of each state; 0 on all others."""
        return canonical_share(self.bench.paths, self.edge_logp)


def student_of(bench: Bench, logits: Float64[np.ndarray, " E"]) -> Student:
    """The student with some logits."""
    return Student(bench=bench, logits=logits, edge_logp=bench.paths.log_law(logits))


@dataclass(frozen=True, kw_only=True, eq=False)
class Push:
    """The gradient, summed over tokens and paths, each path as often as it was drawn; and squared norms of
    each path's own, once: of the whole gradient, and of its part on the law among canonical tokens
    (`figures.within_canonical`)."""

    total: Float64[np.ndarray, " E"]
    squares: Float64[np.ndarray, " P"]
    canonical_squares: Float64[np.ndarray, " P"]


@runtime_checkable
class Signal(Protocol):
    """A method on a world. `paths` are different from each other and `counts` say how often each was drawn,
    or with which probability."""

    def push(self, student: Student, paths: Int64[np.ndarray, " P"], counts: Counts) -> Push:
        """The gradient of the loss of some paths: training goes the other way."""
        ...


CreditOf = Callable[[Int64[np.ndarray, " P"], Float64[np.ndarray, " N"], Counts], Float64[np.ndarray, " N"]]
"""From paths, the student's log-probs of their tokens and how often each was drawn to the tokens' credits."""


class CreditSignal:
    """`-sum credit * log S(token)`: the policy gradient where the student is the one that sampled."""

    def __init__(self, bench: Bench, credit: CreditOf) -> None:
        self._bench = bench
        self._credit = credit

    def push(self, student: Student, paths: Int64[np.ndarray, " P"], counts: Counts) -> Push:
        """The score-function gradient."""
        tokens, sizes = ragged(self._bench.paths.bounds, paths)
        edges = self._bench.paths.edge[tokens]
        credit = self._credit(paths, student.edge_logp[edges], counts)
        pushed = np.bincount(edges, credit * np.repeat(counts, sizes), len(student.logits))
        squares, canonical_squares = _squares(student, edges, credit, sizes)
        return Push(
            total=-centred(self._bench.paths, student.edge_logp, pushed),
            squares=squares,
            canonical_squares=canonical_squares,
        )


def imitation(bench: Bench) -> CreditSignal:
    """Cross-entropy of given answers: a credit of 1 for every token."""
    return CreditSignal(bench, lambda paths, logp, counts: np.ones(len(logp)))


def _squares(
    student: Student,
    edges: Int64[np.ndarray, " N"],
    credit: Float64[np.ndarray, " N"],
    sizes: Int64[np.ndarray, " P"],
) -> tuple[Float64[np.ndarray, " P"], Float64[np.ndarray, " P"]]:
    """Squared norms of `sum credit * grad log S(token)` of each path, whole and within canonical tokens.

    No path is twice in one state, so they are sums over tokens. The gradient of one log-prob is (1 at the
    edge) - S(. | state); within canonical tokens it is the same with the law among them, and 0 for a token
    that is none.
    """
    paths = student.bench.paths
    first = np.cumsum(sizes) - sizes
    prob, share = np.exp(student.edge_logp), student.canonical_share

    def norms(law: Float64[np.ndarray, " E"]) -> Float64[np.ndarray, " N"]:
        spread = np.add.reduceat(law**2, paths.state_bounds[:-1])[paths.edge_state[edges]]
        found: Float64[np.ndarray, " N"] = 1.0 - 2.0 * law[edges] + spread
        return found

    inside = np.where(paths.edge_is_canonical[edges], norms(share), 0.0)
    return np.add.reduceat(credit**2 * norms(prob), first), np.add.reduceat(credit**2 * inside, first)
