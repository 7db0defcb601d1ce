"""Which models can read several continuations behind a prefix that was read once, what is read so, and the
cache of it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from dragoman.models.loading import causal_lm
from dragoman.models.modes import evaluating
from dragoman.models.prefixes import Reading, readings
from dragoman.models.rope import rope_border

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel

logger = logging.getLogger(__name__)

GROUP_COST = {"cpu": 64}
"""What reading a group by itself costs, in tokens: two more passes, of fewer rows each."""
ACCELERATOR_GROUP_COST = 4096

_LENGTHS = (7, 5)
"""Of the prefix and the continuations of the trial."""
_MOST_ERROR = 0.05
"""Of what a continuation would change if the prefix were not seen; low precision needs some."""
_KNOWN: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def shared_readings(
    model: PreTrainedModel, sequences: Sequence[Int64[np.ndarray, " _"]]
) -> tuple[list[int], list[Reading]]:
    """`readings` that pay on the model's device; whole sequences where it cannot go on behind others. None
    has sequences on either side of a `rope_border`."""
    border = rope_border(model)
    is_long = [border is not None and len(ids) > border for ids in sequences]
    if any(is_long):
        sides = [[i for i, long in enumerate(is_long) if long is side] for side in (False, True)]
        return list(range(len(sequences))), [Reading(members=tuple(s), shared=0) for s in sides if s]
    device = next(model.parameters()).device.type
    owner, plan = readings(sequences, GROUP_COST.get(device, ACCELERATOR_GROUP_COST))
    if any(reading.shared for reading in plan) and not reads_on(model):
        plan = [Reading(members=tuple(i for reading in plan for i in reading.members), shared=0)]
    return owner, plan


def new_cache(model: PreTrainedModel) -> Cache:
    """A cache that grows, as the model's layers need it."""
    from transformers import DynamicCache

    return DynamicCache(config=causal_lm(model).config)


def repeated(cache: Cache, times: int) -> Cache:
    """A copy of the cache of one sequence for so many, which may go on differently."""
    own = copy.deepcopy(cache)
    own.batch_repeat_interleave(times)
    return own


def reads_on(model: PreTrainedModel) -> bool:
    """Whether continuations behind a cached prefix have the logits that they have in whole sequences, found
    by trying once. A model without such a cache reads whole sequences."""
    if model not in _KNOWN:
        _KNOWN[model] = _tried(model)
    return _KNOWN[model]


def _tried(model: PreTrainedModel) -> bool:
    base = causal_lm(model)
    device = base.get_input_embeddings().weight.device
    prefix, size = _LENGTHS
    ids = torch.arange(1, 1 + prefix + 2 * size, device=device) % base.config.get_text_config().vocab_size
    ends = ids[prefix:].view(2, size)
    whole = torch.cat([ids[:prefix].expand(2, -1), ends], dim=1)
    with torch.no_grad(), evaluating(base):
        expected = _logits(base, whole)[:, prefix:]
        without = _logits(base, ends)
        try:
            cache = new_cache(model)
            _logits(base, ids[None, :prefix], cache)
            first, second = (_logits(base, ends, repeated(cache, 2)) for _ in range(2))
        except torch.OutOfMemoryError:
            raise
        except (
            AttributeError,
            IndexError,
            KeyError,
            RuntimeError,
            TypeError,
            ValueError,
        ):
            logger.info("%s has no cache that can be shared: whole sequences are read", type(base).__name__)
            return False
    scale = (without - expected).norm()
    return all(bool((found - expected).norm() <= _MOST_ERROR * scale) for found in (first, second))


def _logits(
    base: PreTrainedModel, ids: Int[Tensor, "B L"], cache: Cache | None = None
) -> Float[Tensor, "B L V"]:
    logits: Tensor = base(input_ids=ids, past_key_values=cache, use_cache=cache is not None).logits
    return logits.float()
