"""Scores without gradients, some columns of the vocabulary at a time.

The normaliser of a position is a running sum, so its logits need never exist side by side: some are made for
many positions at once, read while they are in the caches of the processor, and dropped. The head is read once
for all positions, where slices of positions read it once for each (`dragoman.models.slices`, which has the
scores that are made of the logits of the whole vocabulary).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dragoman.models.heads import HeadShape, is_matrix, shaped
from dragoman.models.masses import Masses, Places, Wanted, weighted_sum
from dragoman.models.onednn import fastest_linear, is_own
from dragoman.models.slices import Asked, Slice, TokenScores, scores

VALUES = {"cpu": 2**20}
"""Logits that exist at once: 4 MB in float32."""
ACCELERATOR_VALUES = 2**27
LEAST_COLUMNS = 1024
MOST_LIKELY = 8
"""Of a position, that are found among some columns at a time; more are found faster among all."""


class _Sums(NamedTuple):
    """Of the columns read so far, against the largest of them."""

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
    """The scores of a slice of positions, with `values` logits at a time, but at least a column."""
    num_ids, size = len(head.weight), len(inputs_PD)
    wanted_PK = torch.cat([asked.target[:, None], asked.stop_ids.expand(size, -1)], dim=1)
    picked_PK = topk_PK = topk_ids_PK = sums = None
    width = max(1, values // max(size, 1))
    for start in range(0, num_ids, width):
        piece = slice(start, min(start + width, num_ids))
        bias = None if head.bias is None else head.bias[piece]
        logits_PW = shaped(fastest_linear(inputs_PD, head.weight[piece], bias), shape)
        logits_PW = logits_PW if logits_PW.dtype == torch.float64 else logits_PW.float()
        picked_PK = _picked(logits_PW, wanted_PK - start, picked_PK)
        if asked.topk:
            topk_PK, topk_ids_PK = _largest(logits_PW, start, asked.topk, topk_PK, topk_ids_PK)
        sums = _added(logits_PW, sums, entropy=asked.entropy)
    assert sums is not None and picked_PK is not None
    total_P = sums.mass.log()
    if topk_PK is None or topk_ids_PK is None:
        topk_PK, topk_ids_PK = picked_PK[:, :0], wanted_PK[:, :0]
    of = Slice(
        asked=asked,
        wanted=Wanted(Places(asked.target[:0], asked.target[:0])),
        sizes=[size, size * len(asked.stop_ids), 0, 0],
        missing=0,
        topk_ids=topk_ids_PK,
        topk=topk_PK - sums.top[:, None],
    )
    picked_PK = picked_PK - sums.top[:, None]
    found = Masses(
        total=total_P,
        picked=torch.cat([picked_PK[:, 0], picked_PK[:, 1:].reshape(-1)]),
        entropy=None if sums.weighted is None else total_P - sums.weighted / sums.mass,
    )
    return scores(of, found)


def _picked(
    logits_PW: Float[Tensor, "P W"], column_PK: Int[Tensor, "P K"], known_PK: Float[Tensor, "P K"] | None
) -> Float[Tensor, "P K"]:
    """The logits of some columns, counted from the first of these; of others what is known."""
    last = logits_PW.shape[1] - 1
    found_PK = logits_PW.gather(1, column_PK.clamp(0, last))
    if known_PK is None:
        return found_PK
    return torch.where((column_PK >= 0) & (column_PK <= last), found_PK, known_PK)


def _largest(
    logits_PW: Float[Tensor, "P W"],
    start: int,
    count: int,
    known_PK: Float[Tensor, "P _"] | None,
    known_ids_PK: Int[Tensor, "P _"] | None,
) -> tuple[Float[Tensor, "P _"], Int[Tensor, "P _"]]:
    """The `count` largest logits and their ids, of these columns and those known."""
    best, ids = logits_PW.topk(min(count, logits_PW.shape[1]))
    ids = ids + start
    if known_PK is None or known_ids_PK is None:
        return best, ids
    best, ids = torch.cat([known_PK, best], dim=1), torch.cat([known_ids_PK, ids], dim=1)
    best, order = best.topk(min(count, best.shape[1]))
    return best, ids.gather(1, order)


def _added(logits_PW: Float[Tensor, "P W"], sums: _Sums | None, *, entropy: bool) -> _Sums:
    """The sums with some columns more, whose logits are used up."""
    # A token that cannot be (-inf) is less than any number
    top_P = logits_PW.amax(-1).clamp_min_(torch.finfo(logits_PW.dtype).min)
    top_P = top_P if sums is None else torch.maximum(top_P, sums.top)
    logits_PW.sub_(top_P[:, None])
    weighted_P = weighted_sum(logits_PW) if entropy else None
    mass_P = logits_PW.exp_().sum(-1)
    if sums is None:
        return _Sums(top_P, mass_P, weighted_P)
    shift_P = sums.top - top_P
    share_P = shift_P.exp()
    if weighted_P is not None and sums.weighted is not None:
        weighted_P += share_P * (sums.weighted + shift_P * sums.mass)
    return _Sums(top_P, mass_P + share_P * sums.mass, weighted_P)
