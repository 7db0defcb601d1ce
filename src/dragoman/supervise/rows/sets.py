"""Masses of student tokens of which some are known only together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64

from dragoman.supervise.rows.common import largest


@dataclass(kw_only=True, eq=False)
class Sets:
    """Masses of student tokens and which of them are told apart only together; `ended` is the mass of which
    nothing more is known."""

    single: Float64[np.ndarray, " Vs"]
    lost: float = 0.0
    ended: float = 0.0
    _parent: dict[int, int] = field(default_factory=dict)

    def join(self, ids: Sequence[int]) -> None:
        """Make some tokens one set."""
        for index in ids[1:]:
            self._parent[self.find(index)] = self.find(ids[0])

    def find(self, index: int) -> int:
        """The token that names a token's set."""
        while (parent := self._parent.setdefault(index, index)) != index:
            self._parent[index] = index = self._parent[parent]
        return index

    def candidates(self, topk: int | None, always: int) -> list[tuple[list[int], float]]:
        """Sets with their masses, at most `topk`, that of token `always` among them."""
        members: dict[int, list[int]] = defaultdict(list)
        for index in list(self._parent):
            members[self.find(index)].append(index)
        mass = self.single.copy()
        for name, ids in members.items():
            total = float(mass[ids].sum())
            mass[ids] = 0.0
            mass[name] = total
        wanted = self.find(always) if always in self._parent else always
        return [(sorted(members.get(i, [i])), float(mass[i])) for i in largest(mass, topk, wanted).tolist()]
