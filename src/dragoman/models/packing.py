"""Which models read several sequences in one row of a batch as if each stood alone."""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dragoman.models.loading import causal_lm
from dragoman.models.modes import evaluating
from dragoman.padding import Packing

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

_LENGTHS = (7, 5)
"""Of the two sequences of the trial."""
_MOST_LEAK = 0.05
"""Of what the first sequence would change in the second if it were seen; low precision needs some."""


def packing_of(model: PreTrainedModel) -> Packing:
    """How sequences for a model may be packed, found by trying: positions that begin anew tell transformers'
    masks, and kernels for sequences of different lengths, where a sequence begins. A model that looks beyond,
    or counts its columns itself, is given padded rows.
    """
    base = causal_lm(model)
    config = base.config.get_text_config()
    if config.is_encoder_decoder or "position_ids" not in inspect.signature(type(base).forward).parameters:
        return Packing.PADDED
    if not _keeps_apart(base):
        logger.info("%s sees sequences in one row as one, so they are padded", type(base).__name__)
        return Packing.PADDED
    return Packing.LINE if str(config._attn_implementation).startswith("flash") else Packing.ROWS


def _keeps_apart(base: PreTrainedModel) -> bool:
    """Whether a sequence behind another in one row has the logits that it has alone."""
    device = base.get_input_embeddings().weight.device
    ids = torch.arange(1, 1 + sum(_LENGTHS), device=device)[None] % base.config.get_text_config().vocab_size
    positions = torch.cat([torch.arange(size, device=device) for size in _LENGTHS])[None]
    first = _LENGTHS[0]
    with torch.no_grad(), evaluating(base):
        packed = _logits(base, ids, positions)[first:]
        alone = _logits(base, ids[:, first:], positions[:, first:])
        mixed = _logits(base, ids, torch.arange(ids.shape[1], device=device)[None])[first:]
    return bool((packed - alone).norm() <= _MOST_LEAK * (mixed - alone).norm())


def _logits(
    base: PreTrainedModel, ids: Int[Tensor, "1 L"], positions: Int[Tensor, "1 L"]
) -> Float[Tensor, "L V"]:
    logits: Tensor = base(input_ids=ids, position_ids=positions, attention_mask=None, use_cache=False).logits
    return logits[0].float()
