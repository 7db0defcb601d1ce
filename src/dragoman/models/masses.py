"""The few log masses that scores are made of, out of a slice of logits, and the way back.

Whatever a score says of P positions with V logits each comes from three kinds of values:

    total_P = logsumexp(l_P)                                       the normaliser
    rest_P  = logsumexp(l_P + log free_P)                          what is outside a row's candidates
    picked_K = l[row_K, column_K]                                  single logits

`free` is 1 but for the few tokens that a row's candidates hold. Their gradient is, with g for theirs,

    dl[p, v] = g_total exp(l - total) + g_rest free exp(l - rest) + sum of g_picked of [p, v]

written over the logits in one pass, so that a slice costs two buffers of its size, forward and backward.
All is said of centred logits, the largest of a position 0: differences of masses keep their last digits then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable


class Places(NamedTuple):
    """Entries of a slice of logits."""

    row: Int[Tensor, " K"]
    column: Int[Tensor, " K"]


class Held(NamedTuple):
    """Tokens that a row's candidates hold, each (row, column) once: what is left of them outside."""

    row: Int[Tensor, " F"]
    column: Int[Tensor, " F"]
    log_free: Float[Tensor, " F"]
    """The log of 1 minus their weight among the candidates; -inf where nothing is left."""


class Masses(NamedTuple):
    """Of centred logits, in their precision, not normalised; `rest` is None where nothing is held."""

    total: Float[Tensor, " P"]
    picked: Float[Tensor, " K"]
    rest: Float[Tensor, " P"] | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> Masses:
        """All that there are, changed."""
        rest = None if self.rest is None else change(self.rest)
        return Masses(change(self.total), change(self.picked), rest)


def centred(logits_PV: Float[Tensor, "P V"]) -> Float[Tensor, "P V"]:
    """The logits less the largest of each position, in their place where nothing wants a gradient."""
    top_P1 = logits_PV.detach().amax(-1, keepdim=True)
    if logits_PV.requires_grad:
        return logits_PV - top_P1
    return logits_PV.sub_(top_P1)


def masses(
    logits_PV: Float[Tensor, "P V"], places: Places, held: Held | None, *, spent: bool = False
) -> Masses:
    """The masses, with gradients to the logits where these have them. Logits that are `spent` are not needed
    behind it; without gradients and held tokens they are written over, which saves a buffer of their size."""
    if torch.is_grad_enabled() and logits_PV.requires_grad:
        own = held if held is not None else (None, None, None)
        found = _Masses.apply(logits_PV, places.row, places.column, *own)  # type: ignore[no-untyped-call]
        return Masses(*found)
    if spent and held is None:
        picked_K = logits_PV[places.row, places.column]
        return Masses(logits_PV.exp_().sum(-1).log_(), picked_K)
    return read(logits_PV, places, held)


def read(logits_PV: Float[Tensor, "P V"], places: Places, held: Held | None) -> Masses:
    """The masses, without gradients. The logits are written to in between, and are the same behind it."""
    total_P = logits_PV.exp().sum(-1).log_()
    picked_K = logits_PV[places.row, places.column]
    if held is None:
        return Masses(total_P, picked_K)
    whole_F = logits_PV[held.row, held.column]
    logits_PV.index_put_((held.row, held.column), whole_F + held.log_free)
    rest_P = _logsumexp(logits_PV)
    logits_PV.index_put_((held.row, held.column), whole_F)
    return Masses(total_P, picked_K, rest_P)


def pull_back(
    logits_PV: Float[Tensor, "P V"], places: Places, held: Held | None, found: Masses, grads: Masses
) -> Float[Tensor, "P V"]:
    """The gradient of the logits, written over them, from those of the masses."""
    total_P, _, rest_P = found
    if held is None or rest_P is None or grads.rest is None:
        logits_PV.sub_(total_P[:, None]).exp_().mul_(grads.total[:, None])
    else:
        # Where nothing is outside there is nothing to pull; elsewhere `rest` is the scale on which what is
        # outside can be told from 0, and held tokens, which may be far above it, are written by themselves.
        nothing_P = torch.isneginf(rest_P)
        scale_P = torch.where(nothing_P, total_P, rest_P)
        from_rest_P = grads.rest.masked_fill(nothing_P, 0.0)
        whole_F = logits_PV[held.row, held.column]
        outside_F = (whole_F + held.log_free - scale_P[held.row]).exp() * from_rest_P[held.row]
        inside_F = (whole_F - total_P[held.row]).exp() * grads.total[held.row]
        factor_P = grads.total * (scale_P - total_P).exp() + from_rest_P
        logits_PV.sub_(scale_P[:, None]).exp_().mul_(factor_P[:, None])
        logits_PV.index_put_((held.row, held.column), inside_F + outside_F)
    return logits_PV.index_put_((places.row, places.column), grads.picked, accumulate=True)


def _logsumexp(logits_PV: Float[Tensor, "P V"]) -> Float[Tensor, " P"]:
    """`logits.logsumexp(-1)` with one buffer beside the logits; -inf for a row of -inf alone."""
    top_P1 = logits_PV.amax(-1, keepdim=True)
    top_P1 = top_P1.masked_fill(torch.isneginf(top_P1), 0.0)
    return (logits_PV - top_P1).exp_().sum(-1).log_().add_(top_P1[:, 0])


class _Masses(torch.autograd.Function):
    """`read` with `pull_back`, on logits that others may still need."""

    @staticmethod
    def forward(
        ctx: Any,
        logits_PV: Tensor,
        row: Tensor,
        column: Tensor,
        held_row: Tensor | None,
        held_column: Tensor | None,
        log_free: Tensor | None,
    ) -> tuple[Tensor, ...]:
        held = _held(held_row, held_column, log_free)
        found = read(logits_PV if held is None else logits_PV.clone(), Places(row, column), held)
        ctx.save_for_backward(logits_PV, row, column, held_row, held_column, log_free, *found)
        return tuple(values for values in found if values is not None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits_PV, row, column, held_row, held_column, log_free, *found = ctx.saved_tensors
        gradient = pull_back(
            logits_PV.clone(),
            Places(row, column),
            _held(held_row, held_column, log_free),
            Masses(*found),
            Masses(*grads),
        )
        return gradient, None, None, None, None, None


def _held(row: Tensor | None, column: Tensor | None, log_free: Tensor | None) -> Held | None:
    if row is None or column is None or log_free is None:
        return None
    return Held(row, column, log_free)
