"""Scores without gradients, some columns of the vocabulary at a time.

The normaliser of a position is a sum, so its logits need never exist side by side: some are made for many
positions at once, read while they are in the caches of the processor, and dropped. The head is read once
for all positions, where slices of positions read it once for each (`dragoman.models.slices`, which has the
scores that are made of the logits of the whole vocabulary).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dragoman.models.heads import HeadShape, is_matrix, shaped
from dragoman.models.masses import LEAST, Masses, Places, Wanted, weighted_sum
from dragoman.models.onednn import fastest_linear, is_own
from dragoman.models.slices import Asked, Slice, TokenScores, scores

VALUES = {"cpu": 2**20}
"""Logits that exist at once: 4 MB in float32."""
ACCELERATOR_VALUES = 2**27
COLUMNS = 1024
"""At a time, where there are many positions: as many are taken together as leave room for so many columns."""
EVEN_COLUMNS = 64
"""Rows of logits begin at multiples of so many numbers, where there is room: products may be slow else."""
MOST_LIKELY = 8
"""Of a position, that are found among some columns at a time; more are found faster among all."""


class _Sums(NamedTuple):
    """Of some columns, against the largest of them."""

    top: Float[Tensor, " P"]
    mass: Float[Tensor, " P"]
    """`sum of exp(l - top)`."""
    weighted: Float[Tensor, " P"] | None
    """`sum of exp(l - top) (l - top)`, for the entropy."""


def is_divisible(head: nn.Module) -> bool:
    """Whether logits can be made some columns at a time: by a matrix and nothing else."""
    return is_matrix(head) and ("forward" not in vars(head) or is_own(head))


def room(device: torch.device, most: int) -> int:
    """Logits that exist at once, at most `most`."""
    return min(VALUES.get(device.type, ACCELERATOR_VALUES), most)


def scores_by_columns(
    head: nn.Linear, shape: HeadShape, values: int, inputs_PD: Float[Tensor, "P D"], asked: Asked
) -> TokenScores:
    """The scores of a slice of positions, with `values` logits at a time, but at least a column.

    An id that the head has no row for cannot be: -inf. Which of equally likely tokens are told is open.
    """
    num_ids, size = len(head.weight), len(inputs_PD)
    wanted_PK = torch.cat([asked.target[:, None], asked.stop_ids.expand(size, -1)], dim=1)
    picked_PK: Tensor | None = None
    likely: tuple[Tensor, Tensor] | None = None
    sums: list[_Sums] = []
    width = max(1, values // max(size, 1))
    width = width // EVEN_COLUMNS * EVEN_COLUMNS or width
    for start in range(0, num_ids, width):
        piece = slice(start, min(start + width, num_ids))
        bias = None if head.bias is None else head.bias[piece]
        logits_PW = shaped(fastest_linear(inputs_PD, head.weight[piece], bias), shape)
        logits_PW = logits_PW if logits_PW.dtype == torch.float64 else logits_PW.float()
        if picked_PK is None:
            picked_PK = logits_PW.new_full(wanted_PK.shape, -torch.inf)
        picked_PK = _picked(logits_PW, wanted_PK - start, picked_PK)
        if asked.topk:
            likely = _largest(logits_PW, start, asked.topk, likely)
        sums.append(_summed(logits_PW, entropy=asked.entropy))
        del logits_PW  # or it would live until the next one is there
    assert picked_PK is not None
    top_P, mass_P, weighted_P = _joined(sums)
    topk_PK, topk_ids_PK = likely or (picked_PK[:, :0], wanted_PK[:, :0])
    picked_PK = picked_PK - top_P[:, None]
    total_P = mass_P.log()
    of = Slice(
        asked=asked,
        wanted=Wanted(Places(asked.target[:0], asked.target[:0])),
        sizes=[size, size * len(asked.stop_ids), 0, 0],
        missing=0,
        topk_ids=topk_ids_PK,
        topk=topk_PK - top_P[:, None],
    )
    found = Masses(
        total=total_P,
        picked=torch.cat([picked_PK[:, 0], picked_PK[:, 1:].reshape(-1)]),
        entropy=None if weighted_P is None else total_P - weighted_P / mass_P,
    )
    return scores(of, found)


def _picked(
    logits_PW: Float[Tensor, "P W"], column_PK: Int[Tensor, "P K"], known_PK: Float[Tensor, "P K"]
) -> Float[Tensor, "P K"]:
    """The logits of some columns, counted from the first of these; of others what is known."""
    last = logits_PW.shape[1] - 1
    is_here_PK = (column_PK >= 0) & (column_PK <= last)
    return torch.where(is_here_PK, logits_PW.gather(1, column_PK.clamp(0, last)), known_PK)


def _largest(
    logits_PW: Float[Tensor, "P W"], start: int, count: int, known: tuple[Tensor, Tensor] | None
) -> tuple[Float[Tensor, "P _"], Int[Tensor, "P _"]]:
    """The `count` largest logits and their ids, of these columns and those known."""
    best, ids = logits_PW.topk(min(count, logits_PW.shape[1]))
    ids = ids + start
    if known is None:
        return best, ids
    best, ids = torch.cat([known[0], best], dim=1), torch.cat([known[1], ids], dim=1)
    best, order = best.topk(min(count, best.shape[1]))
    return best, ids.gather(1, order)


def _summed(logits_PW: Float[Tensor, "P W"], *, entropy: bool) -> _Sums:
    """The sums of some columns, whose logits are used up."""
    # A token that cannot be (-inf) is less than any number
    top_P = logits_PW.amax(-1).clamp_min_(torch.finfo(logits_PW.dtype).min)
    logits_PW.sub_(top_P[:, None])
    weighted_P = weighted_sum(logits_PW) if entropy else None
    return _Sums(top_P, logits_PW.exp_().sum(-1), weighted_P)


def _joined(sums: Sequence[_Sums]) -> _Sums:
    """The sums of all columns. They are added at once: one after the other, what many unlikely tokens have
    together would be lost beside a likely one."""
    top_PK, mass_PK = (torch.stack(values, dim=1) for values in list(zip(*sums, strict=True))[:2])
    top_P = top_PK.amax(-1)
    shift_PK = (top_PK - top_P[:, None]).clamp_min_(LEAST)
    share_PK = shift_PK.exp()
    weighted = [one.weighted for one in sums if one.weighted is not None]
    weighted_P = None
    if weighted:
        weighted_P = (share_PK * (torch.stack(weighted, dim=1) + shift_PK * mass_PK)).sum(-1)
    return _Sums(top_P, (share_PK * mass_PK).sum(-1), weighted_P)
