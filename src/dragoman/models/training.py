"""Layers whose weight gradients are added where they belong, while one process trains alone.

By itself torch makes each gradient of a weight as a tensor of its own and adds it to `grad` afterwards: twice
the memory traffic in every micro-batch but the first, and for an embedding a tensor of the size of the whole
table of which a few rows are not zero. Here a linear layer's product is added to `grad` at once, and an
embedding adds the rows that were looked up. On processors where torch's own products are not the fastest,
those of a linear layer are oneDNN's (`dragoman.models.onednn`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dragoman.models.heads import takes_gradient
from dragoman.models.loading import causal_lm
from dragoman.models.onednn import add_product, fastest_linear

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def gradients_in_place(model: PreTrainedModel, *, enabled: bool = True) -> Iterator[None]:
    """Within the block, which also holds the backward pass, plain linear layers and embeddings in float32 on
    CPU add their weights' gradients to `grad` as they are made; but the head, which is the loss's own
    (`dragoman.models.fused`).

    For a process that shares its gradients with nobody: hooks of a weight would not be called, so a weight
    that has some is left alone, as are layers with another `forward`.
    """
    replaced: list[nn.Module] = []
    head = causal_lm(model).get_output_embeddings()
    for layer in model.modules() if enabled else ():
        own = None if layer is head else _own_forward(layer)
        if own is not None:
            vars(layer)["forward"] = own
            replaced.append(layer)
    try:
        yield
    finally:
        for layer in replaced:
            del vars(layer)["forward"]


def _own_forward(layer: nn.Module) -> partial[Tensor] | None:
    """What a layer does in place of its own; None if that is nothing else."""
    weight: Any = getattr(layer, "weight", None)
    if type(weight) is not nn.Parameter or weight.device.type != "cpu" or weight.dtype != torch.float32:
        return None
    if "forward" in vars(layer) or (weight.requires_grad and not takes_gradient(weight)):
        return None
    if type(layer) is nn.Linear:
        return partial(_linear_layer, layer)
    if type(layer) is nn.Embedding and weight.requires_grad and _is_plain(layer):
        return partial(_Embedding.apply, weight, layer.padding_idx)
    return None


def _is_plain(layer: nn.Embedding) -> bool:
    return layer.max_norm is None and not layer.scale_grad_by_freq and not layer.sparse


def _linear_layer(layer: nn.Linear, inputs: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
    if inputs.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return nn.functional.linear(inputs, layer.weight, layer.bias)
    result: Tensor = _Linear.apply(inputs, layer.weight, layer.bias)  # type: ignore[no-untyped-call]
    return result


class _Linear(torch.autograd.Function):
    """`inputs @ weight.T + bias`."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: nn.Parameter, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs)
        ctx.weight = weight
        return fastest_linear(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (inputs,), weight = ctx.saved_tensors, ctx.weight
        wants_inputs, wants_weight, wants_bias = ctx.needs_input_grad
        grad_NV = grad.reshape(-1, grad.shape[-1])
        inputs_grad = fastest_linear(grad, weight.T, None) if wants_inputs else None
        if wants_weight:
            inputs_ND = inputs.reshape(-1, inputs.shape[-1])
            total = torch.empty_like(weight) if weight.grad is None else weight.grad
            add_product(total, grad_NV, inputs_ND, first=weight.grad is None)
            weight.grad = total
        return inputs_grad, None, grad_NV.sum(0) if wants_bias else None


class _Embedding(torch.autograd.Function):
    """Rows of a table; `padding` has no gradient."""

    @staticmethod
    def forward(ctx: Any, weight: nn.Parameter, padding: int | None, ids: Int[Tensor, "B L"]) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.weight, ctx.padding = weight, padding
        return nn.functional.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:
        (ids,), weight = ctx.saved_tensors, ctx.weight
        ids, grad_ND = ids.reshape(-1), grad.reshape(-1, grad.shape[-1])
        if ctx.padding is not None:
            is_text = ids != ctx.padding
            ids, grad_ND = ids[is_text], grad_ND[is_text]
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        weight.grad.index_add_(0, ids, grad_ND)
        return None, None, None
