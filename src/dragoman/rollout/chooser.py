"""The choice of every token of a batch; also as a logits processor of `generate` that leaves it none.

A choice is a race of exponential clocks (the Gumbel-max trick) whose generator belongs to one response: a
response does not depend on what else is in its batch, and rounding that depends on the batch's shape changes
a draw only where two clocks all but tie. Blocks of the vocabulary race first, then the tokens of the one that
won: the first arrival of a block is exponential too, with the block's probability as its rate. Log-probs are
taken on the spot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int64
from torch import Tensor, nn

from dragoman.config import RolloutConfig
from dragoman.errors import UsageError
from dragoman.types import StopReason


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn: `top_k` 0 and `top_p` 1 keep the whole distribution. A response also ends where
    it holds one of the `stop_strings`.
    """

    max_new_tokens: int
    batch_size: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop_strings: tuple[str, ...] = ()
    compile: bool = False
    """Run layers compiled (`dragoman.rollout.compiled`)."""

    @classmethod
    def from_config(
        cls, config: RolloutConfig, *, max_new_tokens: int | None = None, batch_size: int | None = None
    ) -> Sampling:
        """As a configuration says, but for what is given here."""
        return cls(
            max_new_tokens=max_new_tokens or config.max_new_tokens,
            batch_size=batch_size or config.batch_size,
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            stop_strings=config.stop_strings,
            compile=config.compile,
        )

    def __post_init__(self) -> None:
        if "" in self.stop_strings:
            raise UsageError(
                "rollout.stop_strings holds an empty text, which every response would end with at once; "
                "expected texts that are not empty"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Draws:
    """What was drawn for one response and what the model thought of it; see `Rollout`."""

    ids: Int64[np.ndarray, " S"]
    logp: Float32[np.ndarray, " S"]
    entropy: Float32[np.ndarray, " S"]
    stop_logp: Float32[np.ndarray, " S"]
    stop: StopReason | None
    """None if the response reached the longest length allowed."""


class Chosen(NamedTuple):
    """One token a row, and what the model thinks of it (nats)."""

    ids: Int[Tensor, " B"]
    logp: Float[Tensor, " B"]
    entropy: Float[Tensor, " B"]
    stop_logp: Float[Tensor, " B"]


Warper = Callable[[Tensor, Tensor], Tensor]
_BLOCK = 256
"""Ids that race together: about the square root of a vocabulary, so that few clocks are drawn."""


def make_warpers(sampling: Sampling) -> list[Warper]:
    """What changes the distribution that is drawn from."""
    from transformers.generation.logits_process import (
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    found: list[Warper] = []
    if sampling.temperature != 1.0:
        found.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        found.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        found.append(TopPLogitsWarper(sampling.top_p))
    return found


def choose(
    logits_BV: Float[Tensor, "B V"],
    generators: Sequence[torch.Generator],
    stops: Int[Tensor, " S"],
    warpers: Sequence[Warper],
) -> Chosen:
    """One exact draw a row, each from its own generator; a stop has the log-prob of the whole stop set."""
    logp = logits_BV.float().log_softmax(-1)
    mass = logp.exp()
    warped = mass
    if warpers:
        changed = logits_BV
        for warper in warpers:
            # None of the warpers looks at the ids
            changed = warper(stops, changed)
        warped = changed.float().softmax(-1)
    ids = _race(warped, generators)
    stop_logp = logp[:, stops].logsumexp(-1)
    taken = torch.where(torch.isin(ids, stops), stop_logp, logp.gather(-1, ids[:, None]).squeeze(-1))
    entropy = -logp.clamp_min_(torch.finfo(torch.float32).min).mul_(mass).sum(-1)
    return Chosen(ids, taken, entropy, stop_logp)


def _race(mass_BV: Float[Tensor, "B V"], generators: Sequence[torch.Generator]) -> Int[Tensor, " B"]:
    """A draw from each row, which need not sum to 1 (decisions 0005, 0020)."""
    size, num_ids = mass_BV.shape
    blocks_BKI = nn.functional.pad(mass_BV, (0, -num_ids % _BLOCK)).view(size, -1, _BLOCK)
    num_blocks = blocks_BKI.shape[1]
    clocks = mass_BV.new_empty(size, num_blocks + _BLOCK)
    for row, generator in enumerate(generators):
        clocks[row].exponential_(generator=generator)
    block_B = (blocks_BKI.sum(-1) / clocks[:, :num_blocks]).argmax(-1)
    inside_BI = blocks_BKI[torch.arange(size, device=mass_BV.device), block_B]
    return block_B * _BLOCK + (inside_BI / clocks[:, num_blocks:]).argmax(-1)


class Chooser:
    """Draws each next token and keeps the book. `token_bytes` gives the bytes of an id, none for an event."""

    def __init__(
        self,
        seeds: Sequence[int],
        device: torch.device,
        stops: Sequence[int],
        sampling: Sampling,
        token_bytes: Callable[[int], bytes],
    ) -> None:
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self._stops = torch.tensor(stops, device=device)
        self._warpers = make_warpers(sampling)
        self._steps: list[Chosen] = []
        self._strings = StringStops(sampling.stop_strings, len(seeds), token_bytes)

    def __call__(self, input_ids: Int[Tensor, "B L"], scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        found = choose(scores, self._generators, self._stops, self._warpers)
        self._steps.append(found)
        chosen = found.ids
        if self._strings:
            self._strings.add(chosen.tolist())
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen[:, None], 0.0)

    def finished(self, input_ids: Int[Tensor, "B L"], scores: object, **others: object) -> Bool[Tensor, " B"]:
        """Which rows hold a stop string: a stopping criterion of `generate`, which sees to stops itself."""
        return torch.tensor([end is not None for end in self._strings.ends], device=input_ids.device)

    def response(self, index: int, limit: int) -> Draws:
        """One row, up to its first stop token or the token that completes a stop string, and no longer than
        `limit`: other rows of the batch may have gone on."""
        ids, *values = (
            torch.stack([step[part][index] for step in self._steps[:limit]]).cpu().numpy()
            for part in range(4)
        )
        places = np.flatnonzero(np.isin(ids, self._stops.cpu().numpy()))
        end = self._strings.ends[index]
        size, stop = len(ids), None
        if len(places):
            size, stop = int(places[0]) + 1, StopReason.STOP
        if end is not None and end < size + (stop is None):
            size, stop = end, StopReason.STRING
        logp, entropy, stop_logp = (value[:size] for value in values)
        return Draws(ids=ids[:size], logp=logp, entropy=entropy, stop_logp=stop_logp, stop=stop)


class StringStops:
    """Watches rows of tokens for texts. The bytes of a row are searched, so that it does not matter how a
    text is cut into tokens; control tokens have none and are passed over.

    >>> watch = StringStops(("END",), 1, {7: b"an E", 8: b"ND."}.__getitem__)
    >>> watch.add([7])
    >>> watch.add([8])
    >>> watch.ends
    [2]
    """

    def __init__(self, strings: Sequence[str], num_rows: int, token_bytes: Callable[[int], bytes]) -> None:
        self._wanted = [string.encode() for string in strings]
        self._token_bytes = token_bytes
        self._kept = max(map(len, self._wanted), default=1) - 1
        self._tails = [b""] * num_rows
        self._num_tokens = 0
        self.ends: list[int | None] = [None] * num_rows
        """For each row the number of tokens up to the one that completed a text, or None."""

    def __bool__(self) -> bool:
        return bool(self._wanted)

    def add(self, ids: Sequence[int]) -> None:
        """Take the next token of every row; what follows a text found is passed over."""
        self._num_tokens += 1
        for row, index in enumerate(ids):
            if self.ends[row] is not None:
                continue
            text = self._tails[row] + self._token_bytes(index)
            if any(wanted in text for wanted in self._wanted):
                self.ends[row] = self._num_tokens
            self._tails[row] = text[len(text) - self._kept :] if len(text) > self._kept else text
