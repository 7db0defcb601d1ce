"""Linear layers by oneDNN, where nothing is trained: on CPU two to four times as fast as torch's own product
for the few rows of a decoding step, and some per cent for many (decision 0013).

torch takes oneDNN for low precisions only, and else a library that is slow for small products on some
processors. What is called here is what its compiler puts in place of a linear layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import Any, TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dragoman.models.processor import mkl_is_at_home
from dragoman.models.traced import known, routed

PACK_ROWS = 16
"""Rows that weights are packed for; the order that oneDNN chooses is the same for all small numbers."""
MOST_OF_ONE_ROW = 2**22
"""Values of a weight that torch multiplies with one row; a head of more is read faster by oneDNN."""
SUM_VALUES = 2**20
"""Values of a product to be added to something that are made at once, and are still in the caches then."""
_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers of one module that are called one after the other on the same input, by their usual names."""


@contextmanager
def fast_linears(model: nn.Module, *, packed: bool, traced: bool = False) -> Iterator[None]:
    """Within the block, and without gradients, linear layers in float32 on CPU are products by oneDNN.

    With `packed` their weights are copied once in the order that it reads fastest, which pays for itself
    after some ten calls; weights that change within the block are not seen then. Layers that share an input
    become one product. With `traced` as well, torch's compiler passes through the layers
    (`dragoman.models.traced`). Elsewhere nothing changes.
    """
    with ExitStack() as stack:
        if not torch.is_grad_enabled() and is_available():
            done: dict[int, Tensor] = {}
            for layers in _siblings(model) if packed else ():
                joint = _Joint(layers)
                slot = stack.enter_context(known(joint.whole)) if traced else None
                for number, layer in enumerate(layers):
                    own = partial(joint, number)
                    stack.enter_context(_replaced(layer, own, slot, joint.size, joint.first[number]))
            for layer in filter(_is_plain, model.modules()):
                alone = _alone(layer, packed, done)
                slot = stack.enter_context(known(alone)) if traced else None
                stack.enter_context(_replaced(layer, alone, slot, layer.out_features))
        yield


@contextmanager
def fastest_linears(model: nn.Module) -> Iterator[None]:
    """Within the block, and without gradients, linear layers by whoever is the faster one for many rows."""
    if mkl_is_at_home():
        yield
        return
    with fast_linears(model, packed=False):
        yield


def is_own(layer: nn.Module) -> bool:
    """Whether a layer's `forward` is a product that `fast_linears` has put there."""
    forward = vars(layer).get("forward")
    return isinstance(forward, partial) and forward.func is _product


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`nn.functional.linear` for values that need no gradient."""
    # Columns of a larger matrix are torch's: oneDNN multiplies them one by one, thousands of times as slow
    is_whole = weight.is_contiguous() or weight.T.is_contiguous()
    if weight.device.type == "cpu" and weight.dtype == torch.float32 and is_whole and is_available():
        return _product(weight, weight, bias, inputs)
    return nn.functional.linear(inputs, weight, bias)


def fastest_linear(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`nn.functional.linear` for values that need no gradient, by whoever is the faster one for many rows."""
    product = nn.functional.linear if mkl_is_at_home() else linear
    return product(inputs, weight, bias)


def add_product(
    total_VD: Float[Tensor, "V D"],
    left_NV: Float[Tensor, "N V"],
    right_ND: Float[Tensor, "N D"],
    *,
    first: bool = False,
) -> None:
    """`total += left.T @ right` in place, or with `first` whatever is in `total` is written over, for values
    that need no gradient, by whoever is the faster one for many rows."""
    by_onednn = total_VD.device.type == "cpu" and total_VD.dtype == torch.float32 and is_available()
    # oneDNN is not asked for products of nothing
    if mkl_is_at_home() or not by_onednn or not right_ND.is_contiguous() or not len(left_NV):
        total_VD.addmm_(left_NV.T, right_ND, beta=0 if first else 1)
        return
    size = max(1, SUM_VALUES // total_VD.shape[1])
    for total, left in zip(torch.split(total_VD, size), torch.split(left_NV, size, dim=1), strict=True):
        product = linear(left.T, right_ND.T, None)
        if first:
            total.copy_(product)
        else:
            total.add_(product)


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
    """By oneDNN where inputs are of the weights' precision and autocast does not ask for another; not for one
    row and a weight of few bytes where MKL is at home, which reads it at a higher rate (decision 0018)."""
    is_small = inputs.numel() == weight.shape[1] and weight.numel() <= MOST_OF_ONE_ROW
    if not _suits(inputs) or (is_small and mkl_is_at_home()):
        return nn.functional.linear(inputs, weight, bias)
    return _by_onednn(packed, bias, inputs)


def _by_onednn(packed: Tensor, bias: Tensor | None, inputs: Tensor) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")
    return result


def _suits(inputs: Tensor) -> bool:
    return inputs.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def _pack(weight: Tensor) -> Tensor:
    result: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), PACK_ROWS)
    return result


def _is_plain(layer: Any) -> TypeGuard[nn.Linear]:
    return (
        type(layer) is nn.Linear
        and type(layer.weight) is nn.Parameter
        and layer.weight.device.type == "cpu"
        and layer.weight.dtype == torch.float32
        and layer.weight.is_contiguous()
        and "forward" not in vars(layer)  # another's, such as that of Accelerate's hooks
    )


def _alone(layer: nn.Linear, packed: bool, done: dict[int, Tensor]) -> partial[Tensor]:
    """The product of one layer; a weight that several share is packed once."""
    weight = order = layer.weight.detach()
    if packed:
        if id(layer.weight) not in done:
            done[id(layer.weight)] = _pack(weight)
        order = done[id(layer.weight)]
    return partial(_product, order, weight, _bias(layer))


def _siblings(model: nn.Module) -> Iterator[list[nn.Linear]]:
    """Layers with the same input that can be one product."""
    for parent in model.modules():
        for names in _SIBLINGS:
            layers = [layer for name in names if _is_plain(layer := getattr(parent, name, None))]
            if len(layers) == len(names) and len({layer.in_features for layer in layers}) == 1:
                yield layers


class _Joint:
    """Several layers as one product, made when the first of them is called."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self._own = [(layer.weight.detach(), _bias(layer)) for layer in layers]
        self._sizes = [layer.out_features for layer in layers]
        self._packed = _pack(torch.cat([weight for weight, _ in self._own]))
        self._bias: Tensor | None = None
        if any(bias is not None for _, bias in self._own):
            filled = [weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in self._own]
            self._bias = torch.cat(filled)
        self.size = sum(self._sizes)
        self.first = [sum(self._sizes[:number]) for number in range(len(layers))]
        self._inputs: tuple[Tensor, int] | None = None
        self._parts: tuple[Tensor, ...] = ()

    def __call__(self, number: int, inputs: Tensor) -> Tensor:
        """The product of one of the layers. It is made anew for inputs that are not those of the last call,
        or have been written to since."""
        weight, bias = self._own[number]
        if not _suits(inputs):
            return nn.functional.linear(inputs, weight, bias)
        given = None if inputs.is_inference() else (inputs, inputs._version)
        known = self._inputs
        if given is None or known is None or known[0] is not inputs or known[1] != given[1]:
            self._parts = torch.split(self.whole(inputs), self._sizes, dim=-1)
            self._inputs = given
        found = self._parts[number]
        if number == len(self._sizes) - 1:
            self._inputs, self._parts = None, ()
        return found

    def whole(self, inputs: Tensor) -> Tensor:
        """The products of all layers, side by side."""
        return _by_onednn(self._packed, self._bias, inputs)


def _bias(layer: nn.Linear) -> Tensor | None:
    return None if layer.bias is None else layer.bias.detach()


@contextmanager
def _replaced(
    layer: Any, product: partial[Tensor], slot: Tensor | None, size: int = 0, first: int = 0
) -> Iterator[None]:
    """A layer with another product; hooks on it are called as ever. With a slot, a compiled graph takes the
    values from `first` on of the `size` that the slot's product has."""
    own = {"forward": product} if slot is None else routed(layer, product, slot, size, first)
    vars(layer).update(own)
    try:
        yield
    finally:
        for name in own:
            del vars(layer)[name]
