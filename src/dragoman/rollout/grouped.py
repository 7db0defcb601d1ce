"""Attention of one token a row without copies of the keys that several heads share.

On CPU, scaled dot-product attention with a mask has one head of queries for each head of keys. The heads
that share one are put in place of tokens here: [B, H x G, 1, D] becomes [B, H, G, D], with the same products.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, no_type_check

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

_NAME = "dragoman_grouped"


@no_type_check  # what is traced is traced with its decorators
def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """As `sdpa` of transformers, to which everything goes that is not one token a row under one mask for all
    heads: [B, H x G, 1, D] and keys [B, H, W, D] to [B, 1, H x G, D]."""
    is_plain = all(kwargs.get(name) is None for name in ("position_bias", "cache", "s_aux"))
    if not is_plain or query.shape[2] != 1 or attention_mask is None or attention_mask.shape[1] != 1:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return found
    rows, heads, _, width = query.shape
    grouped = query.reshape(rows, key.shape[1], heads // key.shape[1], width)
    output = torch.nn.functional.scaled_dot_product_attention(
        grouped, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling
    )
    return output.reshape(rows, 1, heads, value.shape[-1]), None


@contextmanager
def grouped_attention(config: Any) -> Iterator[None]:
    """Within the block, a model of this configuration attends so, if it uses `sdpa` otherwise."""
    before = config._attn_implementation
    if before == "sdpa":
        config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before


AttentionInterface.register(_NAME, attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)
