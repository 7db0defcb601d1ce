"""The operations that scoring needs, and how fast the matrix products of a model's own shapes can be."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from dragoman.models import Span, TokenScorer
from dragoman.models.loading import causal_lm

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH_TOKENS = 1024


def clock() -> float:
    """Seconds: the processor's with one thread, so that a busy machine does not count, else all."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def layers(model: PreTrainedModel) -> tuple[Counter[tuple[int, int]], tuple[int, int]]:
    """Shapes of the weights of all linear layers but the head, with their number, and that of the head."""
    base = causal_lm(model)
    head = base.get_output_embeddings()
    found = Counter(
        tuple(part.weight.shape) for part in base.modules() if type(part) is nn.Linear and part is not head
    )
    return found, tuple(head.weight.shape)


def model_flops(model: PreTrainedModel, spans: Sequence[Span], shared: int = 0) -> float:
    """That scoring needs; a multiplication and an addition are two.

    The first `shared` tokens are read for one span and not again for the others.
    """
    shapes, head = layers(model)
    config = causal_lm(model).config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    wide = config.num_attention_heads * width
    dense = sum(2 * out * into * times for (out, into), times in shapes.items())
    saved = len(spans) - 1
    read = sum(len(span.ids) for span in spans) - saved * shared
    scored = sum(len(span.is_stop) for span in spans)
    squares = sum(len(span.ids) ** 2 for span in spans) - saved * shared**2
    return dense * read + 2 * head[0] * head[1] * scored + 2 * config.num_hidden_layers * wide * squares


def best_products(model: PreTrainedModel, spans: Sequence[Span]) -> float:
    """Operations a second of the model's layers and head, one after the other, by the best product."""
    share = sum(len(span.is_stop) for span in spans) / sum(len(span.ids) for span in spans)
    return best_of_shapes(model, share, BATCH_TOKENS)


def best_of_shapes(model: PreTrainedModel, share: float, rows: int, *, training: bool = False) -> float:
    """Operations a second of the model's layers, one after the other, on so many rows, and of its head on a
    share of them, by the best product; with `training` also of the gradients of inputs and weights."""
    shapes, head = layers(model)
    dtype = next(model.parameters()).dtype
    slice_rows = TokenScorer(model, [1]).logit_slice
    operations = spent = 0.0
    for (out, into), times in [*shapes.items(), (head, share)]:
        own = slice_rows if (out, into) == head else rows
        products = [(own, out, into)]
        if training:
            products += [(own, into, out), (out, into, own)]
        for sizes in products:
            a_row = 2 * out * into * times
            operations += a_row
            spent += a_row / product_speed(*sizes, dtype)
    return operations / spent


def product_speed(rows: int, out: int, into: int, dtype: torch.dtype) -> float:
    inputs, weight = torch.randn(rows, into).to(dtype), torch.randn(out, into).to(dtype)
    fastest = float("inf")
    with torch.no_grad():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        by_mkldnn = torch.ops.mkldnn._linear_pointwise
        for work in (
            lambda: nn.functional.linear(inputs, weight),
            lambda: by_mkldnn(inputs, weight, None, "none", [], ""),
            lambda: by_mkldnn(inputs, packed, None, "none", [], ""),
        ):
            for _ in range(4):
                began = clock()
                work()
                fastest = min(fastest, clock() - began)
    return 2 * rows * out * into / fastest
