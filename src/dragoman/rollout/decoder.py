"""Decoding many responses with a batch that is kept full: one that has ended makes room for the next.

A prompt that several responses share is read once. Longer prompts go first, so that a later one always fits
in front of the column at which all rows end (`dragoman.rollout.slots`).
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from dragoman.models import evaluating
from dragoman.models.loading import causal_lm
from dragoman.models.memory import give_back_freed
from dragoman.models.onednn import fast_linears
from dragoman.padding import left_padded
from dragoman.rollout.chooser import Chosen, Draws, Sampling, StringStops, choose, make_warpers
from dragoman.rollout.compiled import compiled_layers
from dragoman.rollout.slots import SlotCache, fits_slots, native_cache, plain_cache
from dragoman.types import StopReason

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.cache_utils import DynamicCache

FREE_SHARE = 0.25
"""Of the slots: with this share free, prompts that wait are read. Reading one at a time would stop all others
as often."""


_LAYER_TYPES = {"full_attention", "sliding_attention"}


class Job(NamedTuple):
    """A response to be written: at most `limit` tokens behind `context`, drawn by a generator of its own."""

    context: Int64[np.ndarray, " P"]
    limit: int
    seed: int


@dataclass(kw_only=True, eq=False)
class _Running:
    """A response being written."""

    number: int
    job: Job
    generator: torch.Generator
    watch: StringStops
    length: int
    """Tokens in the cache: the context and all drawn but the last."""
    drawn: list[tuple[float, ...]] = field(default_factory=list)
    """Id, log-prob, entropy, log mass of the stops."""
    stop: StopReason | None = None

    @property
    def is_over(self) -> bool:
        return self.stop is not None or len(self.drawn) >= self.job.limit

    def add(self, values: Sequence[float], stops: frozenset[int]) -> None:
        """Take the next token."""
        self.drawn.append(tuple(values))
        index = int(values[0])
        if index in stops:
            self.stop = StopReason.STOP
        elif self.watch:
            self.watch.add([index])
            if self.watch.ends[0] is not None:
                self.stop = StopReason.STRING

    def draws(self) -> Draws:
        ids, logp, entropy, stop_logp = np.array(self.drawn, np.float64).reshape(-1, 4).T
        return Draws(
            ids=ids.astype(np.int64),
            logp=logp.astype(np.float32),
            entropy=entropy.astype(np.float32),
            stop_logp=stop_logp.astype(np.float32),
            stop=self.stop,
        )


class Decoder:
    """Writes responses with a model in this process. `token_bytes` gives the bytes of an id."""

    def __init__(
        self,
        model: PreTrainedModel,
        stops: Sequence[int],
        sampling: Sampling,
        token_bytes: Callable[[int], bytes],
    ) -> None:
        self._model = model
        self._stops = frozenset(stops)
        self._pad = min(stops)
        self._sampling = sampling
        self._token_bytes = token_bytes
        self._warpers = make_warpers(sampling)

    def run(self, jobs: Sequence[Job]) -> list[Draws]:
        """All responses, in the order of the jobs; the same for the same jobs and weights."""
        order = sorted(range(len(jobs)), key=lambda number: -len(jobs[number].context))
        waiting = deque((number, jobs[number]) for number in order)
        found: dict[int, Draws] = {}
        traced = self._sampling.compile
        with (
            torch.no_grad(),
            evaluating(self._model),
            fast_linears(self._model, packed=True, traced=traced),
            ExitStack() as stack,
        ):
            base = causal_lm(self._model)
            compiled = compiled_layers(base) if traced else None
            batch = _Batch(base, self._sampling.batch_size, num_spare=int(compiled is not None))
            if compiled is not None:
                stack.enter_context(compiled.stepping(batch.cache))
            least = max(1, int(self._sampling.batch_size * FREE_SHARE))
            while waiting or batch.rows:
                free = self._sampling.batch_size - len(batch.rows)
                if waiting and (free >= least or not batch.rows):
                    taken = [waiting.popleft() for _ in range(min(free, len(waiting)))]
                    new = [self._running(number, job) for number, job in taken]
                    self._draw(batch.read(new, self._pad), new)
                else:
                    self._draw(batch.step(), batch.rows)
                for row in batch.end():
                    found[row.number] = row.draws()
        give_back_freed()
        return [found[number] for number in range(len(jobs))]

    def _running(self, number: int, job: Job) -> _Running:
        device = next(self._model.parameters()).device
        return _Running(
            number=number,
            job=job,
            generator=torch.Generator(device).manual_seed(job.seed),
            watch=StringStops(self._sampling.stop_strings, 1, self._token_bytes),
            length=len(job.context),
        )

    def _draw(self, logits_BV: Float[Tensor, "B V"], rows: Sequence[_Running]) -> None:
        """The next token of some rows."""
        stops = torch.tensor(sorted(self._stops), device=logits_BV.device)
        chosen = choose(logits_BV, [row.generator for row in rows], stops, self._warpers)
        for row, values in zip(rows, _rows(chosen), strict=True):
            row.add(values, self._stops)


def _rows(chosen: Chosen) -> list[list[float]]:
    """In one transfer; ids below 2^24 are exact in float32, which every device has."""
    found: list[list[float]] = torch.stack([values.float() for values in chosen], dim=1).tolist()
    return found


class _Batch:
    """Rows being written and their cache. `num_spare` columns in front belong to no row: with one there is
    always something to mask, which for a compiled graph is one case in place of two."""

    def __init__(self, base: PreTrainedModel, num_slots: int, num_spare: int) -> None:
        self._base = base
        self._num_spare = num_spare
        self._num_layers = len(native_cache(base.config).layers)
        # A compiled graph would be made anew for one slot
        self.cache = SlotCache(self._num_layers, max(num_slots, 1 + num_spare))
        self._capacity = 0
        self.rows: list[_Running] = []

    def read(self, new: Sequence[_Running], pad: int) -> Float[Tensor, "B V"]:
        """Read the contexts of new rows, each different one once; what follows each of them."""
        contexts: dict[bytes, int] = {}
        place = [contexts.setdefault(row.job.context.tobytes(), len(contexts)) for row in new]
        first = [place.index(number) for number in range(len(contexts))]
        padded = left_padded([new[number].job.context for number in first], pad)
        ids, mask = (torch.from_numpy(values).to(self._base.device) for values in padded)
        read = plain_cache(self._num_layers)
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        logits = self._forward(ids, mask, positions, read)
        self._make_room(new, read)
        for row, number in zip(new, place, strict=True):
            self.cache.write(read, number, row.length)
            self.rows.append(row)
        return logits[place]

    def step(self) -> Float[Tensor, "B V"]:
        """Read the last token of every row; what follows it."""
        device = self._base.device
        ids = torch.tensor([[int(row.drawn[-1][0])] for row in self.rows], device=device)
        lengths = torch.tensor([row.length for row in self.rows], device=device)
        columns = torch.arange(self.cache.length + 1, device=device)
        mask = (columns >= self.cache.length - lengths[:, None]).long()
        logits = self._forward(ids, mask, lengths[:, None], self.cache)
        for row in self.rows:
            row.length += 1
        return logits

    def end(self) -> list[_Running]:
        """Leave out the rows that are over, and return them."""
        over = [index for index, row in enumerate(self.rows) if row.is_over]
        found = [self.rows[index] for index in over]
        for index in reversed(over):
            self.cache.drop(index)
            self.rows[index] = self.rows[-1]
            self.rows.pop()
        return found

    def _make_room(self, new: Sequence[_Running], like: DynamicCache) -> None:
        """Columns for all that rows may still write, those that no row uses any more given up."""
        used = max((row.length for row in self.rows), default=0)
        length = max(self.cache.length, *(row.length for row in new))
        left = max(row.job.limit - len(row.drawn) for row in [*self.rows, *new])
        if length + left <= self._capacity:
            return
        length = max(used, *(row.length for row in new)) + self._num_spare
        self._capacity = length + left
        self.cache.reserve(like, self.cache.length - used, length, self._capacity)

    def _forward(
        self, ids: Int[Tensor, "B L"], mask: Int[Tensor, "B W"], positions: Int[Tensor, "B L"], cache: object
    ) -> Float[Tensor, "B V"]:
        output = self._base(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        last: Tensor = output.logits[:, -1]
        return last


def can_decode(model: PreTrainedModel) -> bool:
    """Whether a model takes what `Decoder` gives it: positions of a token each, and keys and values by
    column. What remains (recurrent states, say) is for `generate`."""
    base = causal_lm(model)
    parameters = inspect.signature(type(base).forward).parameters
    if not {"position_ids", "past_key_values", "logits_to_keep"} <= parameters.keys():
        return False
    config = base.config.get_text_config()
    # Earlier versions of transformers make ordinary layers of what has a state besides.
    has_state = getattr(base, "_is_stateful", False)
    if has_state or not set(getattr(config, "layer_types", None) or ()) <= _LAYER_TYPES:
        return False
    rope = getattr(config, "rope_parameters", None) or {}
    is_plain = not config.is_encoder_decoder and "mrope_section" not in rope
    return is_plain and fits_slots(native_cache(base.config).layers)
