"""Metrics as numerator and denominator, so that parts of a batch add up to the whole.

A mean of means is wrong as soon as parts differ in size. Summing both halves and dividing once gives the
same figure however a step is cut into micro-batches and spread over ranks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64


@dataclass(frozen=True)
class Ratio:
    """A figure not yet divided; the denominator says what it is per (tokens, bytes, responses).

    >>> (Ratio(3.0, 1) + Ratio(1.0, 3)).value
    1.0
    """

    numerator: float
    denominator: float = 1.0

    def __add__(self, other: Ratio) -> Ratio:
        return Ratio(self.numerator + other.numerator, self.denominator + other.denominator)

    @property
    def value(self) -> float:
        """The quotient; NaN where nothing was counted."""
        return self.numerator / self.denominator if self.denominator else math.nan


@dataclass(frozen=True)
class Metrics:
    """Ratios by name.

    >>> part, rest = Metrics({"loss": Ratio(6.0, 2)}), Metrics({"loss": Ratio(0.0, 1), "kl": Ratio(1.0, 4)})
    >>> part.merge(rest).values()
    {'kl': 0.25, 'loss': 2.0}
    """

    ratios: Mapping[str, Ratio] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Sorted: the order of `values` and, by default, of the vector."""
        return sorted(self.ratios)

    def merge(self, *others: Metrics) -> Metrics:
        """Ratios of equal names added; a name that only one side has is kept as it is."""
        merged = dict(self.ratios)
        for other in others:
            for name, ratio in other.ratios.items():
                merged[name] = merged[name] + ratio if name in merged else ratio
        return Metrics(merged)

    def values(self) -> dict[str, float]:
        """The quotients in the order of their names; NaN where nothing was counted."""
        return {name: self.ratios[name].value for name in self.names}

    def to_vector(self, names: Sequence[str] | None = None) -> Float64[np.ndarray, " 2M"]:
        """All numerators, then all denominators, for a sum over ranks.

        Ranks must pass the same `names` (default: the own ones); a name this rank did not measure counts
        as 0/0. Raises ValueError if a measured name is not among them, as it would be lost.
        """
        names = self.names if names is None else names
        lost = sorted(set(self.ratios) - set(names))
        if lost:
            raise ValueError(f"metrics {lost} are not among the {len(names)} names of the vector")
        nothing = Ratio(0.0, 0.0)
        ratios = [self.ratios.get(name, nothing) for name in names]
        return np.array(
            [ratio.numerator for ratio in ratios] + [ratio.denominator for ratio in ratios], np.float64
        )

    @classmethod
    def from_vector(cls, names: Sequence[str], vector: Float64[np.ndarray, " 2M"]) -> Metrics:
        """The inverse of `to_vector`. Raises ValueError if the lengths do not fit."""
        if len(vector) != 2 * len(names):
            raise ValueError(
                f"got a vector of {len(vector)}, expected {2 * len(names)} for {len(names)} names"
            )
        halves = np.asarray(vector, np.float64).reshape(2, len(names)).tolist()
        return cls({name: Ratio(top, bottom) for name, top, bottom in zip(names, *halves, strict=True)})
