"""What every source of rollouts offers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dragoman.types import Prompt, Rollout


@dataclass(frozen=True, kw_only=True)
class Request:
    """One response wanted, or one conversation with several: sample number `sample` of a prompt."""

    prompt: Prompt
    sample: int


class RolloutEngine(Protocol):
    """A source of rollouts."""

    def rollouts(self, requests: Sequence[Request], *, seed: int, step: int) -> list[Rollout]:
        """The rollouts of each request, one a turn of the student's, in the order of requests and turns; the
        same arguments and weights give the same.

        A request has at least one rollout. It may have fewer than its prompt has turns: a conversation ends
        where a turn was cut short.
        """
        ...


def draw_seed(seed: int, step: int, key: str, sample: int, turn: int = 0) -> int:
    """A seed (63 bits) for one response, from nothing but what names it."""
    name = f"{seed}/{step}/{key}/{sample}" + (f".{turn}" if turn else "")
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1
