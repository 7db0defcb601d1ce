"""Products as torch's compiler may see them: an operation whose weight is named by a number.

Weights in an order of oneDNN's own cannot be traced, and a compiled graph that held them would serve one
layer, for one step of training. So a graph holds `dragoman::product(inputs, slot, size)`, and `slot`, a value
that is read when it runs, says whose product is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from types import MethodType
from typing import Any, no_type_check

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
"""Of inputs with a weight and bias that it knows."""

_LIBRARY = torch.library.Library("dragoman", "DEF")  # type: ignore[no-untyped-call]
_products: dict[int, Product] = {}
_numbers = count()


def _run(inputs: Tensor, slot: Tensor, size: int) -> Tensor:
    return _products[int(slot.item())](inputs)


def _shape(inputs: Tensor, slot: Tensor, size: int) -> Tensor:
    return inputs.new_empty((*inputs.shape[:-1], size))


_LIBRARY.define("product(Tensor inputs, Tensor slot, SymInt size) -> Tensor")  # type: ignore[no-untyped-call]
_LIBRARY.impl("product", _run, "CPU")  # type: ignore[no-untyped-call]
_LIBRARY.impl("product", _shape, "Meta")  # type: ignore[no-untyped-call]
PRODUCT = torch.ops.dragoman.product.default


@contextmanager
def known(product: Product) -> Iterator[Tensor]:
    """A slot for a product, as long as the block lasts."""
    number = next(_numbers)
    _products[number] = product
    try:
        yield torch.tensor(number)
    finally:
        del _products[number]


def routed(layer: Any, eager: Product, slot: Tensor, size: int, first: int) -> dict[str, Any]:
    """What makes of a linear layer one whose forward is `eager` and, in what is compiled, the values
    [first, first + its own size) of the `size` that the product of a slot has."""
    return {"forward": MethodType(_forward, layer), "_eager": eager, "_slot": slot, "_place": (size, first)}


@no_type_check  # what is traced is traced with its decorators
def _forward(layer: Any, inputs: Tensor) -> Tensor:
    if not torch.compiler.is_compiling():
        found: Tensor = layer._eager(inputs)
        return found
    size, first = layer._place
    joint: Tensor = PRODUCT(inputs, layer._slot, size)
    return joint[..., first : first + layer.out_features]
