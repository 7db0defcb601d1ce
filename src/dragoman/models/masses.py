"""The few log masses that scores are made of, out of a slice of logits, and the way back.

Whatever a score says of P positions with V logits each comes from four kinds of values:

    total_P   = logsumexp(l_P)                                     the normaliser
    rest_P    = logsumexp(l_P + log free_P)                        what is outside a row's candidates
    entropy_P = total_P - sum of exp(l_P - total_P) l_P            of the distribution
    picked_K  = l[row_K, column_K]                                 single logits

`free` is 1 but for the few tokens that a row's candidates hold. Their gradient is, with g for theirs and
s for exp(l - total),

    dl[p, v] = g_total s + g_rest free exp(l - rest) - g_entropy s (log s + entropy) + g_picked of [p, v]

The logits are exponentiated in their place, and the gradient is written over these exponentials: a slice
costs one buffer of its size, forward and backward. All is said of centred logits, the largest of a
position 0, so that differences of masses keep their last digits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

PART_VALUES = 2**22
"""Values of a slice that are worked on at once where a second buffer is needed."""

DEEP = -60.0
"""Nats below the likeliest token from where on a float32 loses digits of a mass."""

LEAST = -1e4
"""Nats that stand for -inf where the mass, 0, is a factor: finite, and finite times a gradient."""


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


class Wanted(NamedTuple):
    """Which masses of a slice are asked for."""

    places: Places
    held: Held | None = None
    entropy: bool = False


class Masses(NamedTuple):
    """Of centred logits, in their precision, not normalised; None for what is not asked for."""

    total: Float[Tensor, " P"]
    picked: Float[Tensor, " K"]
    rest: Float[Tensor, " P"] | None = None
    entropy: Float[Tensor, " P"] | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> Masses:
        """All that there are, changed."""
        return Masses._make(None if one is None else change(one) for one in self)


class Exponentials(NamedTuple):
    """A slice behind `read`: `exp(l + log free - base)`, and the logits of held tokens; without these, of
    `exp(l)` alone."""

    values: Float[Tensor, "P V"]
    base: Float[Tensor, " P"] | None = None
    held: Float[Tensor, " F"] | None = None


def centred(logits_PV: Float[Tensor, "P V"]) -> Float[Tensor, "P V"]:
    """The logits less the largest of each position, in their place where nothing wants a gradient."""
    top_P1 = logits_PV.detach().amax(-1, keepdim=True)
    if logits_PV.requires_grad:
        return logits_PV - top_P1
    return logits_PV.sub_(top_P1)


def masses(logits_PV: Float[Tensor, "P V"], wanted: Wanted) -> Masses:
    """The masses, with gradients to the logits where these have them; else the logits are used up."""
    if torch.is_grad_enabled() and logits_PV.requires_grad:
        places, held, entropy = wanted
        own = held if held is not None else (None, None, None)
        found = _Masses.apply(logits_PV, *places, *own, entropy)  # type: ignore[no-untyped-call]
        return Masses._make(found)
    return read(logits_PV, wanted)[0]


def read(logits_PV: Float[Tensor, "P V"], wanted: Wanted) -> tuple[Masses, Exponentials]:
    """The masses, without gradients, and what the logits have become in their place."""
    places, held, asks_entropy = wanted
    picked_K = logits_PV[places.row, places.column]
    expected_P = weighted_sum(logits_PV) if asks_entropy else None
    if held is None:
        sum_P, rest_P = logits_PV.exp_().sum(-1), None
        behind = Exponentials(logits_PV)
    else:
        whole_F = logits_PV[held.row, held.column]
        logits_PV.index_put_((held.row, held.column), whole_F + held.log_free)
        outside_P = logits_PV.amax(-1)
        logits_PV.index_put_((held.row, held.column), whole_F)
        # Where held tokens are far above all others, these are small numbers only on a scale of their own.
        is_deep_P = (outside_P < DEEP) & ~torch.isneginf(outside_P)
        base_P = torch.where(is_deep_P, outside_P, 0.0)
        (deep,) = is_deep_P.nonzero(as_tuple=True)
        deep_RV = logits_PV[deep]
        sum_P = logits_PV.exp_().sum(-1)
        logits_PV[deep] = deep_RV.sub_(base_P[deep, None]).exp_()
        free_F = (whole_F + held.log_free - base_P[held.row]).exp()
        logits_PV.index_put_((held.row, held.column), free_F)
        rest_P = logits_PV.sum(-1).log_().add_(base_P)
        behind = Exponentials(logits_PV, base_P, whole_F)
    total_P = sum_P.log()
    entropy_P = None if expected_P is None else total_P - expected_P / sum_P
    return Masses(total_P, picked_K, rest_P, entropy_P), behind


def pull_back(behind: Exponentials, wanted: Wanted, found: Masses, grads: Masses) -> Float[Tensor, "P V"]:
    """The gradient of the logits, written over the exponentials, from those of the masses."""
    values_PV, base_P, whole_F = behind
    places, held, _ = wanted
    shift_P = -found.total if base_P is None else base_P - found.total
    share_P = shift_P.exp()
    factor_P = grads.total * share_P
    if held is not None and base_P is not None and found.rest is not None and grads.rest is not None:
        # Where nothing is outside there is nothing to pull.
        nothing_P = torch.isneginf(found.rest)
        scale_P = torch.where(nothing_P, found.total, found.rest)
        from_rest_P = grads.rest.masked_fill(nothing_P, 0.0)
        factor_P = factor_P + from_rest_P * (base_P - scale_P).exp()
    if found.entropy is None or grads.entropy is None:
        values_PV.mul_(factor_P[:, None])
    else:
        offset_P, slope_P = shift_P + found.entropy, -grads.entropy * share_P
        for part in parts(values_PV):
            log_p = _finite(values_PV[part].log()).add_(offset_P[part, None])
            values_PV[part].mul_(log_p.mul_(slope_P[part, None]).add_(factor_P[part, None]))
    if held is not None and whole_F is not None:
        row = held.row
        logp_F, slope_F = whole_F - found.total[row], grads.total[row]
        if found.entropy is not None and grads.entropy is not None:
            slope_F = slope_F - grads.entropy[row] * (_finite(logp_F) + found.entropy[row])
        outside_F = (whole_F + held.log_free - scale_P[row]).exp() * from_rest_P[row]
        values_PV.index_put_((row, held.column), logp_F.exp() * slope_F + outside_F)
    return values_PV.index_put_((places.row, places.column), grads.picked, accumulate=True)


def weighted_sum(logits_PV: Float[Tensor, "P V"]) -> Float[Tensor, " P"]:
    """`sum of exp(l) l` of logits below 0; impossible tokens count as 0."""
    pieces = [logits_PV[part] for part in parts(logits_PV)]
    return torch.cat([_finite(piece).mul_(piece.exp()).sum(-1) for piece in pieces])


def _finite(values: Tensor) -> Tensor:
    return values.clamp_min(LEAST)


def parts(values_PV: Float[Tensor, "P V"]) -> Iterator[slice]:
    """Few positions at a time, in at least one part, of `PART_VALUES` values."""
    num_positions, num_ids = values_PV.shape
    size = max(1, PART_VALUES // max(num_ids, 1))
    for start in range(0, max(num_positions, 1), size):
        yield slice(start, min(start + size, num_positions))


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
        entropy: bool,
    ) -> tuple[Tensor | None, ...]:
        wanted = Wanted(Places(row, column), _held(held_row, held_column, log_free), entropy)
        found, behind = read(logits_PV.clone(), wanted)
        ctx.entropy = entropy
        ctx.save_for_backward(row, column, held_row, held_column, log_free, *found, *behind)
        return tuple(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        row, column, held_row, held_column, log_free, *kept = ctx.saved_tensors
        found, (values_PV, base_P, whole_F) = Masses._make(kept[:4]), kept[4:]
        gradient = pull_back(
            Exponentials(values_PV.clone(), base_P, whole_F),
            Wanted(Places(row, column), _held(held_row, held_column, log_free), ctx.entropy),
            found,
            Masses._make(grads),
        )
        return gradient, None, None, None, None, None, None


def _held(row: Tensor | None, column: Tensor | None, log_free: Tensor | None) -> Held | None:
    if row is None or column is None or log_free is None:
        return None
    return Held(row, column, log_free)
