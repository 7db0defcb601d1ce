"""Linear layers by oneDNN, where nothing is trained: on CPU two to four times as fast as torch's own product
for the few rows of a decoding step, and some per cent for many (decision 0013).

torch takes oneDNN for low precisions only, and else a library that is slow for small products on some
processors. What is called here is what its compiler puts in place of a linear layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

PACK_ROWS = 16
"""Rows that weights are packed for; the order that oneDNN chooses is the same for all small numbers."""


@contextmanager
def fast_linears(model: nn.Module, *, packed: bool) -> Iterator[None]:
    """Within the block, and without gradients, linear layers in float32 on CPU are products by oneDNN.

    With `packed` their weights are copied once in the order that it reads fastest, which pays for itself
    after some ten calls; weights that change within the block are not seen then. Elsewhere nothing changes.
    """
    with ExitStack() as stack:
        if not torch.is_grad_enabled() and is_available():
            done: dict[int, Tensor] = {}
            for layer in filter(_is_plain, model.modules()):
                stack.enter_context(_replaced(layer, packed, done))
        yield


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`nn.functional.linear` for values that need no gradient."""
    if weight.device.type == "cpu" and weight.dtype == torch.float32 and is_available():
        return _product(weight, weight, bias, inputs)
    return nn.functional.linear(inputs, weight, bias)


@cache
def is_available() -> bool:
    """Whether this torch has the product, and it is right."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    with torch.no_grad():
        inputs, weight = torch.arange(6.0).view(2, 3), torch.arange(12.0).view(4, 3)
        try:
            found = _product(_pack(weight), weight, None, inputs)
        except (AttributeError, RuntimeError):
            return False
        return torch.equal(found, inputs @ weight.T)


def _product(packed: Tensor, weight: Tensor, bias: Tensor | None, inputs: Tensor) -> Tensor:
    """By oneDNN where inputs are of the weights' precision and autocast does not ask for another."""
    if inputs.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return nn.functional.linear(inputs, weight, bias)
    result: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")
    return result


def _pack(weight: Tensor) -> Tensor:
    result: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), PACK_ROWS)
    return result


def _is_plain(layer: Any) -> bool:
    return (
        type(layer) is nn.Linear
        and type(layer.weight) is nn.Parameter
        and layer.weight.device.type == "cpu"
        and layer.weight.dtype == torch.float32
        and "forward" not in vars(layer)  # another's, such as that of Accelerate's hooks
    )


@contextmanager
def _replaced(layer: Any, packed: bool, done: dict[int, Tensor]) -> Iterator[None]:
    """A layer with another product; hooks on it are called as ever."""
    weight = order = layer.weight.detach()
    if packed:
        if id(layer.weight) not in done:
            done[id(layer.weight)] = _pack(weight)
        order = done[id(layer.weight)]
    bias = None if layer.bias is None else layer.bias.detach()
    vars(layer)["forward"] = partial(_product, order, weight, bias)
    try:
        yield
    finally:
        del vars(layer)["forward"]
