"""A linear head and a loss behind it in one pass, a slice of positions at a time.

`total = sum over slices of loss(scores(inputs @ weight.T + bias))`, with the gradients of `inputs`, `weight`
and `bias` made where the logits of a slice exist anyway: three matrix products a slice, as for whole logits,
and no tensor of positions x vocabulary at any time. The same idea is behind Liger's fused linear
cross-entropy (Hsu et al. 2024, arXiv 2410.10989); here the loss is any function of `TokenScores` that is a
sum over tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dragoman.models.heads import product_dtype, takes_gradient
from dragoman.models.masses import centred, pull_back, read
from dragoman.models.onednn import add_product, fastest_linear, linear
from dragoman.models.slices import Asked, TokenScores, prepare, scores

SliceLoss = Callable[[TokenScores, slice], Tensor]
"""A sum over tokens, one slice of them at a time: from the scores of some tokens, and which these are, to
their part of the sum (a scalar)."""


class _Plan(NamedTuple):
    """What is done with the logits; `into` is where the gradient of the head is added at once."""

    slices: Sequence[slice]
    asked: Sequence[Asked]
    loss: SliceLoss
    scale: float
    with_gradient: bool
    into: Tensor | None
    is_new: bool
    """Whether there is nothing in `into` yet."""


def fused_loss(
    inputs_ND: Float[Tensor, "N D"],
    head: nn.Linear,
    slices: Sequence[slice],
    asked: Iterable[Asked],
    loss: SliceLoss,
    *,
    scale: float = 1.0,
    in_place: bool = False,
) -> Float[Tensor, ""]:
    """`scale` times the sum of a loss over all slices, with gradients to inputs and head.

    `asked` are those of `slices`, which follow each other and hold every position. Reductions are in float32
    or better; the gradient of a head in a lower precision is summed over slices in float32. Autocast applies
    to the products as it does to a module.

    With `in_place` the gradient of the head's weight is added to its `grad` here and now, so that there is
    no second tensor of the size of the head: for a loss that is run backward as it is, once (RuntimeError if
    it has been multiplied by something), in a process that nobody waits for. A weight with hooks, or that is
    no leaf in float32 or better, is treated as ever.
    """
    bounds = [0, *[piece.stop for piece in slices]]
    # Gradients of positions in no slice would be whatever was in memory.
    assert slices and [piece.start for piece in slices] == bounds[:-1] and bounds[-1] == len(inputs_ND)
    with_gradient = torch.is_grad_enabled()
    into = is_new = None
    if in_place and with_gradient and takes_gradient(head.weight):
        is_new = head.weight.grad is None
        into = torch.empty_like(head.weight) if head.weight.grad is None else head.weight.grad
    plan = _Plan(tuple(slices), tuple(asked), loss, scale, with_gradient, into, bool(is_new))
    total: Tensor = _FusedLoss.apply(inputs_ND, head.weight, head.bias, plan)  # type: ignore[no-untyped-call]
    if into is not None:
        head.weight.grad = into
    return total


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, plan: _Plan) -> Tensor:
        dtype = product_dtype(inputs_ND)
        cast_VD = weight_VD.to(dtype)
        cast_DV = cast_VD.T
        wide = torch.promote_types(weight_VD.dtype, torch.float32)
        wanted = ctx.needs_input_grad if plan.with_gradient else (False,) * 3
        inputs_grad = torch.empty_like(inputs_ND) if wanted[0] else None
        weight_grad, is_new = plan.into, plan.is_new
        if weight_grad is None and wanted[1]:
            weight_grad, is_new = torch.empty_like(weight_VD, dtype=wide), True
        bias_grad = torch.zeros_like(bias_V, dtype=wide) if bias_V is not None and wanted[2] else None
        total = inputs_ND.new_zeros((), dtype=torch.promote_types(inputs_ND.dtype, torch.float32))
        for piece, own in zip(plan.slices, plan.asked, strict=True):
            inputs_PD = inputs_ND[piece].to(dtype)
            bias = None if bias_V is None else bias_V.to(dtype)
            logits_PV = _wide(linear(inputs_PD, cast_VD, bias))
            value, logits_grad = _slice_gradient(logits_PV, own, plan, piece)
            del logits_PV  # or it would live until the next slice has its own
            total = total + value
            if bias_grad is not None:
                bias_grad += logits_grad.sum(0)
            logits_grad = logits_grad.to(dtype)
            if inputs_grad is not None:
                inputs_grad[piece] = fastest_linear(logits_grad, cast_DV, None)
            if weight_grad is not None:
                _add_product(weight_grad, logits_grad, inputs_PD, first=is_new)
                is_new = False
            del logits_grad
        ctx.grads = [inputs_grad, None if plan.into is not None else weight_grad, bias_grad]
        ctx.dtypes = [inputs_ND.dtype, weight_VD.dtype, None if bias_V is None else bias_V.dtype]
        ctx.is_final = plan.into is not None
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # Scaled in place, as a head's gradient is as large as the head: the second time would be wrong.
        grads, ctx.grads = ctx.grads, None
        if grads is None:
            raise RuntimeError("a fused loss can be run backward once; make the loss again")
        if ctx.is_final and float(grad) != 1.0:
            raise RuntimeError(
                f"a fused loss was multiplied by {float(grad)} after the gradient of its head had been "
                "added in place; give the factor as `scale`, or make the loss without `in_place`"
            )
        scaled = [
            None if values is None else values.mul_(grad).to(dtype)
            for values, dtype in zip(grads, ctx.dtypes, strict=True)
        ]
        return (*scaled, None)


def _slice_gradient(
    logits_PV: Float[Tensor, "P V"], asked: Asked, plan: _Plan, tokens: slice
) -> tuple[Float[Tensor, ""], Float[Tensor, "P V"]]:
    """The loss of a slice, and its gradient with respect to the logits, in their place."""
    logits_PV = centred(logits_PV)
    of = prepare(logits_PV, asked)
    found, behind = read(logits_PV, of.wanted)
    leaves = found.each(Tensor.requires_grad_)
    with torch.enable_grad():
        value = plan.loss(scores(of, leaves), tokens)
        value = value if plan.scale == 1.0 else value * plan.scale
    if value.requires_grad:
        given = [one for one in leaves if one is not None]
        made = iter(torch.autograd.grad(value, given, allow_unused=True, materialize_grads=True))
        grads = leaves.each(lambda _: next(made))
    else:
        grads = leaves.each(torch.zeros_like)
    with torch.no_grad():
        gradient = pull_back(behind, of.wanted, found.each(Tensor.detach), grads)
    return value.detach(), gradient


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _add_product(total_VD: Tensor, logits_grad_PV: Tensor, inputs_PD: Tensor, *, first: bool) -> None:
    """Add `logits_grad.T @ inputs`, or begin with it; in the precision of the sum, where that is the
    product's."""
    if total_VD.dtype == logits_grad_PV.dtype:
        add_product(total_VD, logits_grad_PV, inputs_PD, first=first)
    elif first:
        total_VD.copy_(logits_grad_PV.T @ inputs_PD)
    else:
        total_VD += logits_grad_PV.T @ inputs_PD
