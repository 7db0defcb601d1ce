"""Every way in which the student can write every text of a world, and the exact laws over them.

The student is a table: its state is the token prefix if that is the beginning of some text's canonical
tokenisation, else the number of the byte prefix alone; in each state it has a logit for each token with which
some text goes on. An *edge* is a state with one of its tokens. The target `q*` of `docs/methods.md` is such a
table, so training can reach it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt64

from dragoman.lab.worlds import World

SLIP = 0.02
"""Share of every state's first probability that is spread evenly over its edges."""

Prefix = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Paths:
    """P paths (token sequences with a stop at the end), their N tokens one after the other, and E edges.

    Path p is the tokens `bounds[p]:bounds[p + 1]`; token n takes edge `edge[n]`. Those of state s are
    `state_bounds[s]:state_bounds[s + 1]`. State 0 is the beginning.
    """

    world: World
    num_states: int
    edge_state: Int64[np.ndarray, " E"]
    """Never decreasing."""
    edge_token: Int64[np.ndarray, " E"]
    edge: Int64[np.ndarray, " N"]
    bounds: Int64[np.ndarray, " P_plus_1"]
    text_of: Int64[np.ndarray, " P"]
    is_canonical: Bool[np.ndarray, " P"]
    target: Float64[np.ndarray, " E"]
    """`q*`: the law of the next student token of the teacher's texts, written canonically; 0 on edges that
    leave the canonical tokenisations, and on all edges of states off them."""
    first: Float64[np.ndarray, " E"]
    """The student's law before training."""

    @cached_property
    def path_of(self) -> Int64[np.ndarray, " N"]:
        """The path of every token."""
        return np.repeat(np.arange(len(self.text_of)), np.diff(self.bounds))

    @cached_property
    def state_bounds(self) -> Int64[np.ndarray, " Q_plus_1"]:
        """Where the edges of each of Q states are."""
        return np.searchsorted(self.edge_state, np.arange(self.num_states + 1))

    @cached_property
    def state_is_canonical(self) -> Bool[np.ndarray, " Q"]:
        """States that are the beginning of a canonical tokenisation."""
        return np.logical_or.reduceat(self.edge_is_canonical, self.state_bounds[:-1])

    @cached_property
    def next_state(self) -> Int64[np.ndarray, " E"]:
        """The state that each edge leads to; -1 behind a stop."""
        found = np.full(len(self.edge_state), -1)
        inside = np.delete(np.arange(len(self.edge)), self.bounds[1:] - 1)
        found[self.edge[inside]] = self.edge_state[self.edge[inside + 1]]
        return found

    @cached_property
    def canonical_path(self) -> Int64[np.ndarray, " X"]:
        """The canonical path of every text."""
        found = np.empty(len(self.world.texts), np.int64)
        found[self.text_of[self.is_canonical]] = np.flatnonzero(self.is_canonical)
        return found

    @cached_property
    def edge_is_canonical(self) -> Bool[np.ndarray, " E"]:
        """Edges that a canonical tokenisation takes."""
        return self.target > 0

    def log_law(self, logits: Float64[np.ndarray, " E"]) -> Float64[np.ndarray, " E"]:
        """Log-probabilities of the edges of each state."""
        top = np.maximum.reduceat(logits, self.state_bounds[:-1])
        total = np.add.reduceat(np.exp(logits - top[self.edge_state]), self.state_bounds[:-1])
        logp: Float64[np.ndarray, " E"] = logits - (top + np.log(total))[self.edge_state]
        return logp

    def path_logp(self, edge_logp: Float64[np.ndarray, " E"]) -> Float64[np.ndarray, " P"]:
        """Log-probability of every path."""
        return np.add.reduceat(edge_logp[self.edge], self.bounds[:-1])

    def text_law(self, path_prob: Float64[np.ndarray, " P"]) -> Float64[np.ndarray, " X"]:
        """Probability of every text, over all ways to write it."""
        return np.bincount(self.text_of, path_prob, len(self.world.texts))


class PathNames:
    """Paths by their edges: a path is known by the sum of one random number for each, modulo 2^64."""

    def __init__(self, paths: Paths) -> None:
        self.longest = int(np.diff(paths.bounds).max())
        """Tokens of the longest path."""
        self.mark: UInt64[np.ndarray, " E"] = np.random.default_rng(0).integers(
            2**64, size=len(paths.edge_state), dtype=np.uint64
        )
        """The number of every edge."""
        names = np.add.reduceat(self.mark[paths.edge], paths.bounds[:-1])
        self._order = np.argsort(names)
        self._names = names[self._order]
        if not (np.diff(self._names) > 0).all():
            raise AssertionError("two paths have one name; take other marks")

    def find(self, names: UInt64[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
        """The paths with these sums of marks."""
        found: Int64[np.ndarray, " B"] = self._order[np.searchsorted(self._names, names)]
        return found


def enumerate_paths(world: World) -> Paths:
    """All paths of a world and their exact laws."""
    builder = _Builder(world)
    for index in range(len(world.texts)):
        builder.add_text(index)
    return builder.finish()


class _Builder:
    def __init__(self, world: World) -> None:
        self.world = world
        student = world.student
        self.stop = min(student.stop_ids)
        self.spelled = {data: i for i, data in enumerate(student.vocabulary_bytes()) if data}
        self.longest = max(map(len, self.spelled))
        self.canonical = [(*student.encode(text).ids.tolist(), self.stop) for text in world.texts]
        self.teacher_mass: dict[Prefix, float] = defaultdict(float)
        self.student_mass: dict[Prefix, float] = defaultdict(float)
        for ids, teacher, own in zip(self.canonical, world.teacher_law, world.student_law, strict=True):
            for size in range(len(ids) + 1):
                self.teacher_mass[ids[:size]] += float(teacher)
                self.student_mass[ids[:size]] += float(own)
        self.state_of: dict[Prefix | bytes, int] = {}
        self.edge_of: dict[tuple[int, int], int] = {}
        self.edge_keys: list[tuple[Prefix | bytes, int]] = []
        self.edge_state: list[int] = []
        self.edges: list[int] = []
        self.sizes: list[int] = []
        self.text_of: list[int] = []
        self.is_canonical: list[bool] = []
        self.own_token: dict[bytes, int] = {}

    def add_text(self, index: int) -> None:
        text = self.world.texts[index]

        def walk(prefix: Prefix, at: int, taken: list[int]) -> None:
            key: Prefix | bytes = prefix if prefix in self.teacher_mass else text[:at]
            if at == len(text):
                self.edges += [*taken, self._edge(key, self.stop)]
                self.sizes.append(len(taken) + 1)
                self.text_of.append(index)
                self.is_canonical.append((*prefix, self.stop) == self.canonical[index])
                return
            for end in range(at + 1, min(at + self.longest, len(text)) + 1):
                token = self.spelled.get(text[at:end])
                if token is not None:
                    walk((*prefix, token), end, [*taken, self._edge(key, token)])

        walk((), 0, [])

    def _edge(self, key: Prefix | bytes, token: int) -> int:
        state = self.state_of.setdefault(key, len(self.state_of))
        edge = self.edge_of.setdefault((state, token), len(self.edge_of))
        if edge == len(self.edge_keys):
            self.edge_keys.append((key, token))
            self.edge_state.append(state)
        return edge

    def finish(self) -> Paths:
        order = np.argsort(self.edge_state, kind="stable")
        number = np.argsort(order)
        edge_state = np.array(self.edge_state, np.int64)[order]
        keys = [self.edge_keys[edge] for edge in order.tolist()]
        target = np.zeros(len(edge_state))
        first = np.zeros(len(edge_state))
        odd_mass = self._odd_states()
        for edge, (key, token) in enumerate(keys):
            if isinstance(key, tuple):
                target[edge] = self.teacher_mass.get((*key, token), 0.0) / self.teacher_mass[key]
                first[edge] = self.student_mass.get((*key, token), 0.0) / self.student_mass[key]
            else:
                first[edge] = odd_mass[key].get(token, 0.0)
        degree = np.bincount(edge_state)[edge_state]
        return Paths(
            world=self.world,
            num_states=len(self.state_of),
            edge_state=edge_state,
            edge_token=np.array([token for _, token in keys], np.int64),
            edge=number[np.array(self.edges, np.int64)],
            bounds=np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64),
            text_of=np.array(self.text_of, np.int64),
            is_canonical=np.array(self.is_canonical),
            target=target,
            first=(1 - SLIP) * first + SLIP / degree,
        )

    def _odd_states(self) -> dict[bytes, dict[int, float]]:
        """The student's first law off the canonical tokenisations: what is left of the text, as it would
        write that by itself."""
        masses: dict[bytes, dict[int, float]] = {
            key: defaultdict(float) for key in self.state_of if not isinstance(key, tuple)
        }
        for text, mass in zip(self.world.texts, self.world.student_law, strict=True):
            for at in range(len(text) + 1):
                if (of_state := masses.get(text[:at])) is not None:
                    of_state[self._own(text[at:])] += float(mass)
        found = {}
        for key, of_state in masses.items():
            total = sum(of_state.values())
            found[key] = {token: mass / total for token, mass in of_state.items()}
        return found

    def _own(self, rest: bytes) -> int:
        """The first token of what is left of a text, written by itself."""
        if rest not in self.own_token:
            self.own_token[rest] = int(self.world.student.encode(rest).ids[0]) if rest else self.stop
        return self.own_token[rest]
