"""Decoding many responses with a batch that is kept full: one that has ended makes room for the next.

What several prompts begin with is read once (`dragoman.models.prefixes`), and so is a prompt that several
responses share. The last token of a prompt is read by the step that draws the first of its response. Longer
prompts go first, so that a later one always fits in front of the column at which all rows end
(`dragoman.rollout.slots`).
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
from jaxtyping import Float, Int64
from torch import Tensor

from dragoman.models import evaluating
from dragoman.models.loading import causal_lm
from dragoman.models.memory import give_back_freed
from dragoman.models.onednn import fast_linears
from dragoman.models.rope import rope_border
from dragoman.models.sharing import repeated, shared_readings
from dragoman.padding import right_padded
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
    """Tokens in the cache: all but the last of the context and what was drawn."""
    drawn: list[tuple[float, ...]] = field(default_factory=list)
    """Id, log-prob, entropy, log mass of the stops."""
    stop: StopReason | None = None

    @property
    def last(self) -> int:
        return int(self.drawn[-1][0] if self.drawn else self.job.context[-1])

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
                    batch.read([self._running(number, job) for number, job in taken])
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
            length=len(job.context) - 1,
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
    """Rows being written and their cache. `num_spare` columns in front and behind belong to no row: with one
    there is always something to mask and to leave out, one case in place of several for a compiled graph."""

    def __init__(self, base: PreTrainedModel, num_slots: int, num_spare: int) -> None:
        self._base = base
        self._num_spare = num_spare
        self._num_layers = len(native_cache(base.config).layers)
        # A compiled graph would be made anew for one slot
        self.cache = SlotCache(self._num_layers, max(num_slots, 1 + num_spare))
        self._capacity = 0
        self.rows: list[_Running] = []

    def read(self, new: Sequence[_Running]) -> None:
        """Read the contexts of new rows but for their last tokens."""
        # Of a context of one token the shapes of its keys are wanted
        contexts = [row.job.context[: max(1, row.length)] for row in new]
        owner, plan = shared_readings(self._base, contexts)
        place: dict[int, tuple[DynamicCache, int]] = {}
        for reading in plan:
            own = [contexts[index] for index in reading.members]
            cache = self._keys(own, reading.shared)
            place.update((index, (cache, number)) for number, index in enumerate(reading.members))
        self._make_room(new, cache)
        for row, index in zip(new, owner, strict=True):
            self.cache.write(*place[index], row.length)
            self.rows.append(row)

    def _keys(self, contexts: Sequence[Int64[np.ndarray, " _"]], shared: int) -> DynamicCache:
        """Keys and values of contexts, the first `shared` tokens of which are the same."""
        cache = plain_cache(self._num_layers)
        if shared:
            self._extend(cache, contexts[0][None, :shared], 0)
            cache = repeated(cache, len(contexts))
        # Causal attention sees no padding on the right
        ids, _ = right_padded([context[shared:] for context in contexts])
        self._extend(cache, ids, shared)
        return cache

    def _extend(self, cache: DynamicCache, ids_BL: Int64[np.ndarray, "B L"], length: int) -> None:
        """Add the keys of tokens behind the `length` that a cache holds."""
        ids = torch.from_numpy(ids_BL).to(self._base.device)
        columns = torch.arange(length + ids.shape[1], device=ids.device).expand(len(ids), -1)
        backbone = self._base.base_model
        backbone(
            input_ids=ids,
            attention_mask=torch.ones_like(columns),
            position_ids=columns[:, length:],
            past_key_values=cache,
            use_cache=True,
            **({"logits_to_keep": 1} if backbone is self._base else {}),
        )

    def step(self) -> Float[Tensor, "B V"]:
        """Read the last token of every row; what follows it."""
        device = self._base.device
        ids = torch.tensor([[row.last] for row in self.rows], device=device)
        lengths = torch.tensor([row.length for row in self.rows], device=device)
        columns = torch.arange(self.cache.length + 1, device=device)
        mask = (columns >= self.cache.length - lengths[:, None]).long()
        output = self._base(
            input_ids=ids,
            attention_mask=mask,
            position_ids=lengths[:, None],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        for row in self.rows:
            row.length += 1
        logits: Tensor = output.logits[:, -1]
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
        left = max(row.job.limit - len(row.drawn) for row in [*self.rows, *new]) + self._num_spare
        if length + left <= self._capacity:
            return
        length = max(used, *(row.length for row in new)) + self._num_spare
        self._capacity = length + left
        self.cache.reserve(like, self.cache.length - used, length, self._capacity)


def can_decode(model: PreTrainedModel, longest: int) -> bool:
    """Whether a model takes what `Decoder` gives it: positions of a token each, and keys and values by
    column, which are the same for any length up to that of the longest sequence. What remains (recurrent
    states, say) is for `generate`."""
    border = rope_border(model)
    if border is not None and longest > border:
        return False
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
