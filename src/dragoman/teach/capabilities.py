"""What a teacher may offer beyond views and scores, for those who ask (`isinstance` on the protocols)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int64

from dragoman.types import Prompt, TeacherView


@dataclass(frozen=True, kw_only=True, eq=False)
class Generation:
    """What a teacher writes by itself, always the most likely token: text, and what else it tells."""

    data: bytes
    ids: Int64[np.ndarray, " N"] | None = None
    """The ids of the text, stops and other control tokens left out."""
    logp: Float[np.ndarray, " N"] | None = None
    note: str = ""
    """Why the text is shorter than was asked for, if it is."""


@runtime_checkable
class Generates(Protocol):
    """A teacher that can be asked for an answer of its own."""

    def generate(self, prompt: Prompt, max_new_tokens: int) -> Generation:
        """Its greedy answer, up to its first control token."""
        ...


@runtime_checkable
class FullRows(Protocol):
    """A teacher that tells the log-probs of its whole vocabulary."""

    def full_row(self, view: TeacherView, index: int) -> Float[np.ndarray, " V"]:
        """The distribution, in nats, from which token `index` of the completion was drawn."""
        ...
