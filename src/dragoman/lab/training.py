"""Training a student of a world: the same samples, updates and optimiser for every method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from dragoman.lab.bench import Bench
from dragoman.lab.exact import Standing, standing
from dragoman.lab.signals import Signal, Student, student_of

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
"""Of Adam."""
EARLY = 4
"""The first figure of a run's table is taken after this part of its updates: 60 of 240."""
_POINTS = 12
"""Of a learning curve, apart from the start."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """A run: how the student stands after some numbers of updates, the first of them 0."""

    updates: tuple[int, ...]
    standings: tuple[Standing, ...]

    @property
    def last(self) -> Standing:
        """At the end."""
        return self.standings[-1]

    def after(self, updates: int) -> Standing:
        """After a number of updates at which the student was looked at."""
        return self.standings[self.updates.index(updates)]


def marks_of(updates: int) -> tuple[int, ...]:
    """When a run of some updates looks at the student, the start aside."""
    grid = {round(updates * point / _POINTS) for point in range(1, _POINTS + 1)}
    return tuple(sorted((grid | {updates // EARLY, updates}) - {0}))


def train(
    bench: Bench,
    signal: Signal,
    *,
    lr: float,
    seed: Sequence[int],
    updates: int,
    samples: int,
    by_teacher: bool = False,
    marks: Sequence[int] | None = None,
) -> Course:
    """Train the first student by Adam and look at it at `marks` (`marks_of(updates)` if left out).

    Every update draws `samples` paths, of the student or (`by_teacher`) of texts from the teacher, written
    canonically; their summed gradient is divided by the number of their tokens. Equal seeds draw with equal
    random numbers, whatever the method.
    """
    paths = bench.paths
    rng = np.random.default_rng(list(seed))
    sampler = PathSampler(bench)
    lengths = np.diff(paths.bounds)
    logits = bench.first_logits.copy()
    moment, square = np.zeros_like(logits), np.zeros_like(logits)
    found = {0: standing(paths, logits)}
    wanted = marks_of(updates) if marks is None else marks
    for update in range(1, updates + 1):
        student = student_of(bench, logits)
        draws = rng.random((samples, sampler.longest))
        drawn = sampler.answers(draws[:, 0]) if by_teacher else sampler.rollouts(student, draws)
        picked, counts = np.unique(drawn, return_counts=True)
        gradient = signal.push(student, picked, counts).total / float((lengths[picked] * counts).sum())
        moment += (1.0 - BETA1) * (gradient - moment)
        square += (1.0 - BETA2) * (gradient**2 - square)
        scale = np.sqrt(square / (1.0 - BETA2**update)) + EPS
        logits = logits - lr * (moment / (1.0 - BETA1**update)) / scale
        if update in wanted:
            found[update] = standing(paths, logits)
    return Course(updates=tuple(found), standings=tuple(found.values()))


class PathSampler:
    """Draws paths edge by edge, all samples side by side."""

    def __init__(self, bench: Bench) -> None:
        self.longest = bench.path_names.longest
        self._paths = bench.paths
        self._by_name = bench.path_names
        self._teacher_sums = np.cumsum(bench.world.teacher_law)

    def answers(self, draws: Float64[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
        """Texts of the teacher, written canonically."""
        texts = np.searchsorted(self._teacher_sums, draws * self._teacher_sums[-1], side="right")
        last = len(self._teacher_sums) - 1
        found: Int64[np.ndarray, " B"] = self._paths.canonical_path[np.minimum(texts, last)]
        return found

    def rollouts(self, student: Student, draws: Float64[np.ndarray, "B L"]) -> Int64[np.ndarray, " B"]:
        """Paths of the student; each edge by inverting the distribution function of its state."""
        paths = self._paths
        sums = np.concatenate([[0.0], np.cumsum(np.exp(student.edge_logp))])
        names = np.zeros(len(draws), np.uint64)
        walking, state = np.arange(len(draws)), np.zeros(len(draws), np.int64)
        for column in range(self.longest):
            first, last = paths.state_bounds[state], paths.state_bounds[state + 1]
            place = sums[first] + draws[walking, column] * (sums[last] - sums[first])
            edge = np.clip(np.searchsorted(sums, place, side="right") - 1, first, last - 1)
            names[walking] += self._by_name.mark[edge]
            state = paths.next_state[edge]
            goes_on = state >= 0
            walking, state = walking[goes_on], state[goes_on]
            if not len(walking):
                break
        return self._by_name.find(names)
