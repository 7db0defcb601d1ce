"""A world with everything that methods are measured on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64

from dragoman.lab.chunks import PathChunks, TeacherModel, path_chunks, teacher_model
from dragoman.lab.paths import PathNames, Paths, enumerate_paths
from dragoman.lab.worlds import World, WorldSettings, make_world
from dragoman.padding import stretches
from dragoman.text.pair import PairTables


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """A world, all paths of its student, and the teacher's log-probs of each."""

    world: World
    paths: Paths
    teacher: TeacherModel
    chunks: PathChunks

    @cached_property
    def tables(self) -> PairTables:
        """What the two vocabularies have to do with each other, as in training."""
        return PairTables(self.world.student, self.world.teacher)

    @cached_property
    def first_logits(self) -> Float64[np.ndarray, " E"]:
        """The student before training."""
        logits: Float64[np.ndarray, " E"] = np.log(self.paths.first)
        return logits

    @cached_property
    def first_logp(self) -> Float64[np.ndarray, " E"]:
        """Log-probs of the student before training."""
        return self.paths.log_law(self.first_logits)

    @cached_property
    def path_names(self) -> PathNames:
        """What finds the paths that samples took."""
        return PathNames(self.paths)

    @cached_property
    def target_logits(self) -> Float64[np.ndarray, " E"]:
        """A student whose law is `q*`: edges off it have a probability of 1e-30, states off it their first
        law."""
        inside = self.paths.state_is_canonical[self.paths.edge_state]
        return np.log(np.where(inside, np.maximum(self.paths.target, 1e-30), self.paths.first))


def make_bench(settings: WorldSettings) -> Bench:
    """Build a world and enumerate it."""
    return bench_of(make_world(settings))


def bench_of(world: World) -> Bench:
    """Enumerate a world."""
    paths = enumerate_paths(world)
    teacher = teacher_model(paths)
    return Bench(world=world, paths=paths, teacher=teacher, chunks=path_chunks(paths, teacher))


def ragged(bounds: np.ndarray, picked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The places `bounds[i]:bounds[i + 1]` of every picked i, one stretch behind the other, and their
    lengths.

    >>> ragged(np.array([0, 2, 3, 6]), np.array([2, 0]))[0].tolist()
    [3, 4, 5, 0, 1]
    """
    sizes = np.diff(bounds)[picked]
    return stretches(bounds[picked], sizes), sizes
