"""A linear head and a loss behind it in one pass, a slice of positions at a time.

`total = sum over slices of loss(scores(inputs @ weight.T + bias))`, with the gradients of `inputs`, `weight`
and `bias` made where the logits of a slice exist anyway: three matrix products a slice, as for whole logits,
and no tensor of positions x vocabulary at any time. The same idea is behind Liger's fused linear
cross-entropy (Hsu et al. 2024, arXiv 2410.10989); here the loss is any function of `TokenScores` that is a
sum over tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dragoman.models.masses import Masses, centred, pull_back, read
from dragoman.models.onednn import linear
from dragoman.models.slices import Asked, TokenScores, prepare, scores

SliceLoss = Callable[[TokenScores, slice], Tensor]
"""A sum over tokens, one slice of them at a time: from the scores of some tokens, and which these are, to
their part of the sum (a scalar)."""


def fused_loss(
    inputs_ND: Float[Tensor, "N D"],
    head: nn.Linear,
    slices: Sequence[slice],
    asked: Iterable[Asked],
    loss: SliceLoss,
) -> Float[Tensor, ""]:
    """The sum of a loss over all slices, with gradients to inputs and head.

    `asked` are those of `slices`. Reductions are in float32 or better; the gradient of a head in a lower
    precision is summed over slices in float32. Autocast applies to the products as it does to a module.
    """
    with_gradient = torch.is_grad_enabled()
    arguments = (inputs_ND, head.weight, head.bias, tuple(slices), tuple(asked), loss, with_gradient)
    total: Tensor = _FusedLoss.apply(*arguments)  # type: ignore[no-untyped-call]
    return total


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        slices: Sequence[slice],
        asked: Sequence[Asked],
        loss: SliceLoss,
        with_gradient: bool,
    ) -> Tensor:
        product_dtype = _product_dtype(inputs_ND)
        cast_VD = weight_VD.to(product_dtype)
        wide = torch.promote_types(weight_VD.dtype, torch.float32)
        wanted = ctx.needs_input_grad if with_gradient else (False,) * 3
        inputs_grad = torch.empty_like(inputs_ND) if wanted[0] else None
        weight_grad = torch.zeros_like(weight_VD, dtype=wide) if wanted[1] else None
        bias_grad = torch.zeros_like(bias_V, dtype=wide) if bias_V is not None and wanted[2] else None
        total = inputs_ND.new_zeros((), dtype=torch.promote_types(inputs_ND.dtype, torch.float32))
        for piece, own in zip(slices, asked, strict=True):
            inputs_PD = inputs_ND[piece].to(product_dtype)
            bias = None if bias_V is None else bias_V.to(product_dtype)
            logits_PV = _wide(linear(inputs_PD, cast_VD, bias))
            value, logits_grad = _slice_gradient(logits_PV, own, loss, piece)
            del logits_PV  # or it would live until the next slice has its own
            total = total + value
            if bias_grad is not None:
                bias_grad += logits_grad.sum(0)
            logits_grad = logits_grad.to(product_dtype)
            if inputs_grad is not None:
                inputs_grad[piece] = logits_grad @ cast_VD
            if weight_grad is not None:
                _add_product(weight_grad, logits_grad, inputs_PD)
            del logits_grad
        ctx.grads = [inputs_grad, weight_grad, bias_grad]
        ctx.dtypes = [inputs_ND.dtype, weight_VD.dtype, None if bias_V is None else bias_V.dtype]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # Scaled in place, as a head's gradient is as large as the head: the second time would be wrong.
        grads, ctx.grads = ctx.grads, None
        if grads is None:
            raise RuntimeError("a fused loss can be run backward once; make the loss again")
        scaled = [
            None if values is None else values.mul_(grad).to(dtype)
            for values, dtype in zip(grads, ctx.dtypes, strict=True)
        ]
        return (*scaled, None, None, None, None)


def _slice_gradient(
    logits_PV: Float[Tensor, "P V"], asked: Asked, loss: SliceLoss, tokens: slice
) -> tuple[Float[Tensor, ""], Float[Tensor, "P V"]]:
    """The loss of a slice, and its gradient with respect to the logits, in their place."""
    logits_PV = centred(logits_PV)
    of = prepare(logits_PV, asked)
    found = read(logits_PV, of.places, of.held)
    leaves = found.each(Tensor.requires_grad_)
    with torch.enable_grad():
        value = loss(scores(of, leaves), tokens)
    given = [values for values in leaves if values is not None]
    grads = [torch.zeros_like(values) for values in given]
    if value.requires_grad:
        made = torch.autograd.grad(value, given, allow_unused=True)
        grads = [zero if one is None else one for zero, one in zip(grads, made, strict=True)]
    with torch.no_grad():
        gradient = pull_back(logits_PV, of.places, of.held, found.each(Tensor.detach), Masses(*grads))
    return value.detach(), gradient


def _product_dtype(inputs: Tensor) -> torch.dtype:
    """What the head multiplies in: that of its inputs, or autocast's."""
    kind = inputs.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inputs.dtype


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _add_product(total_VD: Tensor, logits_grad_PV: Tensor, inputs_PD: Tensor) -> None:
    """Add `logits_grad.T @ inputs`; in the precision of the sum, where that is the product's."""
    if total_VD.dtype == logits_grad_PV.dtype:
        total_VD.addmm_(logits_grad_PV.T, inputs_PD)
    else:
        total_VD += logits_grad_PV.T @ inputs_PD
