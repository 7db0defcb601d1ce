"""The whole distribution at every place of a response, asked for a few places at a time.

A teacher's T x V log-probs are larger than all else of a step, and rules read a row or two at once. So what
`TeacherScores` has is not an array: a teacher in this process makes rows when they are asked for
(`dragoman.models.full_rows`), and only what is small by itself is held as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int64


@runtime_checkable
class FullLogp(Protocol):
    """Log-probs in nats of every teacher id at each of T places; NaN throughout where they are missing.

    Places are read fastest in their order. What is returned must not be written to.
    """

    def __len__(self) -> int: ...

    @property
    def usable(self) -> Bool[np.ndarray, " T"]:
        """Which places have a distribution: nothing in it is NaN, or above 0 but by rounding."""
        ...

    def rows(self, places: slice) -> Float32[np.ndarray, "n V"]:
        """The distributions at some places that follow each other."""
        ...

    def at(self, place: int, ids: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        """The log-probs of some ids at one place."""
        ...


@dataclass(frozen=True, eq=False)
class HeldLogp:
    """All of them in memory: T x V numbers.

    >>> held = HeldLogp(np.log(np.array([[0.5, 0.5], [0.9, 0.1]], np.float32)))
    >>> len(held), held.at(1, np.array([1])).round(2).tolist(), held.rows(slice(0, 1)).shape
    (2, [-2.299999952316284], (1, 2))
    """

    values: Float32[np.ndarray, "T V"]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def usable(self) -> Bool[np.ndarray, " T"]:
        """Which places have a distribution."""
        # The largest of a row is NaN if any is; -inf alone is a mass of 0.
        usable: np.ndarray = self.values.max(axis=1, initial=-np.inf) <= 1e-3
        return usable

    def rows(self, places: slice) -> Float32[np.ndarray, "n V"]:
        """The distributions at some places that follow each other."""
        return self.values[places]

    def at(self, place: int, ids: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        """The log-probs of some ids at one place."""
        found: np.ndarray = self.values[place, ids]
        return found
