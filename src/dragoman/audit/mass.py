"""Vocabulary overlap by probability mass: what share of what a side might write next is one token of the
other too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from dragoman.audit.pair_facts import SideMass
from dragoman.render import Renderer
from dragoman.text import vocabulary_map

NUM_LIKELY = 64
"""Most likely tokens looked at; what lies beyond them is reported as a tail and not guessed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedIds:
    """Ids of either side that the other has as one token: equal bytes, or the end of an answer."""

    student: np.ndarray
    teacher: np.ndarray

    @classmethod
    def of(cls, student: Renderer, teacher: Renderer) -> SharedIds:
        """The shared ids of a pair."""
        pairs = vocabulary_map(student.tokenization, teacher.tokenization)
        return cls(
            student=np.append(pairs.student_ids, sorted(student.tokenization.stop_ids)),
            teacher=np.append(pairs.teacher_ids, sorted(teacher.tokenization.stop_ids)),
        )


def side_mass(
    shared: np.ndarray, rows: Sequence[tuple[Int[np.ndarray, "N K"], Float[np.ndarray, "N K"]]]
) -> SideMass:
    """The mean mass on shared ids over some positions, given the ids and log-probs of their likeliest
    tokens; positions without values (log-prob -inf throughout) do not count."""
    mass, known, num, width = 0.0, 0.0, 0, 0
    for ids, logp in rows:
        here = np.isfinite(logp).any(axis=1)
        probability = np.exp(logp[here].astype(np.float64))
        mass += float((probability * np.isin(ids[here], shared)).sum())
        known += float(probability.sum())
        num += int(here.sum())
        width = max(width, ids.shape[1])
    count = max(num, 1)
    return SideMass(shared=mass / count, tail=max(1 - known / count, 0.0), num_positions=num, k=width)
