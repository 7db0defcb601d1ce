"""What every source of rollouts offers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dragoman.types import Prompt, Rollout


@dataclass(frozen=True, kw_only=True)
class Request:
    """One response wanted: sample number `sample` of a prompt."""

    prompt: Prompt
    sample: int


class RolloutEngine(Protocol):
    """A source of rollouts."""

    def rollouts(self, requests: Sequence[Request], *, seed: int, step: int) -> list[Rollout]:
        """One rollout per request, in their order; the same arguments and weights give the same."""
        ...


def draw_seed(seed: int, step: int, key: str, sample: int) -> int:
    """A seed (63 bits) for one response, from nothing but what names it."""
    name = f"{seed}/{step}/{key}/{sample}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little") >> 1
