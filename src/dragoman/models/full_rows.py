"""Whole distributions behind hidden states, made when they are asked for: what is kept is N x D numbers and
one block of log-probs, not N x V.

A row is what the scoring pass saw: the same head, its logits in float32 (float64 stays), centred, and

    logp = logits - log sum exp(logits)

with the sum of these very logits: a product of another size may round another way, in bfloat16 by a tenth of
a nat, and a row has to have mass 1 all the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor, nn

from dragoman.models.masses import centred, parts
from dragoman.models.onednn import fastest_linears

BLOCK_VALUES = 2**24
"""Log-probs that are kept: 64 MB."""
BEHIND = 8
"""Places before the one asked for that are made with it, as rules look back within a chunk."""


class Blocks:
    """The distributions behind N hidden states under a head, one block of places at a time.

    The head must not change as long as rows are asked for.
    """

    def __init__(self, head: nn.Module, states: Float[Tensor, "N D"]) -> None:
        self._head = head
        self._states = states
        self._device = next((weight.device for weight in head.parameters()), states.device)
        self._first = 0
        self._block: np.ndarray | None = None

    @cached_property
    def num_ids(self) -> int:
        """Log-probs of a row; found by trying, as not every head tells."""
        return int(self._made(self._states.new_zeros((1, self._states.shape[1]))).shape[1])

    def rows(self, start: int, stop: int) -> Float32[np.ndarray, "n V"]:
        """The distributions at `start:stop`; a view of the block, if that holds so many."""
        if start == stop:
            return np.zeros((0, self.num_ids), np.float32)
        size = max(1, BLOCK_VALUES // self.num_ids)
        if stop - start > size:
            return np.concatenate([self.rows(at, min(at + size, stop)) for at in range(start, stop, size)])
        if self._block is None or not self._first <= start < stop <= self._first + len(self._block):
            self._first = max(0, start - BEHIND, stop - size)
            self._block = None  # before the next one is made
            self._block = self._made(self._states[self._first : self._first + size])
        return self._block[start - self._first : stop - self._first]

    def _made(self, states: Float[Tensor, "P D"]) -> Float32[np.ndarray, "P V"]:
        with torch.no_grad(), fastest_linears(self._head):
            # A copy, as a head may be nothing at all, and the logits are written over.
            logits_PV = self._head(states.to(self._device, copy=True))
            logits_PV = logits_PV if logits_PV.dtype == torch.float64 else logits_PV.float()
            logits_PV = centred(logits_PV)
            for part in parts(logits_PV):
                # `log_softmax` adds one by one, which is off by 1e-5 at vocabularies of today.
                logits_PV[part].sub_(logits_PV[part].exp().sum(-1, keepdim=True).log_())
            block: np.ndarray = logits_PV.float().cpu().numpy()
        block.setflags(write=False)
        return block


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadLogp:
    """The distributions of one response (`dragoman.full_logp.FullLogp`): places `start` on of some blocks,
    and `beyond` that were not read."""

    blocks: Blocks
    start: int
    known: Bool[np.ndarray, " N"]
    """Which of those that were read are distributions."""
    beyond: int = 0

    def __len__(self) -> int:
        return len(self.known) + self.beyond

    @property
    def usable(self) -> Bool[np.ndarray, " T"]:
        """Which places have a distribution."""
        return np.append(self.known, np.zeros(self.beyond, bool))

    def rows(self, places: slice) -> Float32[np.ndarray, "n V"]:
        """The distributions at some places that follow each other."""
        start, stop, step = places.indices(len(self))
        if step != 1:
            raise ValueError(f"rows are asked for place by place, but the slice has a step of {step}")
        stop = max(start, stop)
        first, last = (self.start + min(place, len(self.known)) for place in (start, stop))
        found = self.blocks.rows(first, last)
        missing = stop - start - len(found)
        return np.pad(found, ((0, missing), (0, 0)), constant_values=np.nan) if missing else found

    def at(self, place: int, ids: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        """The log-probs of some ids at one place."""
        found: np.ndarray = self.rows(slice(place, place + 1))[0, ids]
        return found

    def longer(self, beyond: int) -> HeadLogp:
        """With so many places more that were not read."""
        return replace(self, beyond=self.beyond + beyond)
