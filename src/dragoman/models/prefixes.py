"""Which sequences begin alike, so that what they have in common is read once.

Samples of one prompt share its tokens, and the turns of a conversation all that was said before. Reading P
shared tokens once, and then n continuations of c_i tokens each behind them, in place of n whole sequences
saves

    (n - 1) P + ((n - 1) P^2 - sum_i c_i^2) / (2 PAIRS)        tokens

where a continuation attends to whole rectangles of P + c_i columns, as masked kernels do, and a sequence from
its beginning to half of a square.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Int64

PAIRS = 2048
"""Pairs of tokens whose attention takes as long as all layers take for one token; that of small models."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Sequences, by number, that are read behind their first `shared` tokens; 0 is whole sequences."""

    members: tuple[int, ...]
    shared: int


def readings(sequences: Sequence[Int64[np.ndarray, " _"]], cost: int) -> tuple[list[int], list[Reading]]:
    """For each sequence that whose reading contains its own, and how these are read.

    A sequence that is the beginning of another is read with it. The others are grouped where that saves more
    than `cost` tokens a group; those that stand alone are one reading, the last. What is found depends on the
    sequences only, but for equal ones not on their order.

    >>> readings([np.array(one) for one in ([5, 6, 7, 1], [5, 6, 7, 2, 3], [5, 6], [9])], cost=1)
    ([0, 1, 0, 3], [Reading(members=(0, 1), shared=3), Reading(members=(3,), shared=0)])
    """
    # Big-endian bytes have the order of the ids, so that neighbours have the most in common
    order = sorted(range(len(sequences)), key=lambda i: sequences[i].astype(">u8").tobytes())
    owner = list(range(len(sequences)))
    kept: list[int] = []
    common: list[int] = []
    for place in reversed(range(len(order))):
        own, later = order[place], kept[-1] if kept else None
        size = 0 if later is None else _common(sequences[own], sequences[later])
        if later is not None and size == len(sequences[own]):
            owner[own] = later
            continue
        if later is not None:
            common.append(size)
        kept.append(own)
    kept.reverse()
    common.reverse()
    lengths = np.array([len(sequences[index]) for index in kept], np.int64)
    _, groups = _grouped(lengths, np.array(common, np.int64), cost, 0, len(kept))
    found = [Reading(members=tuple(kept[low:high]), shared=shared) for low, high, shared in groups]
    grouped = {index for reading in found for index in reading.members}
    alone = tuple(index for index in kept if index not in grouped)
    return owner, [*found, *([Reading(members=alone, shared=0)] if alone else [])]


def _grouped(
    lengths: Int64[np.ndarray, " m"], common: Int64[np.ndarray, " _"], cost: int, low: int, high: int
) -> tuple[float, list[tuple[int, int, int]]]:
    """The best groups (first, end, shared) of the sorted sequences `low` to `high`, and what they save."""
    if high - low < 2:
        return 0.0, []
    between = common[low : high - 1]
    shared = int(between.min())
    if not shared:
        together = 0.0
    else:
        saved, behind = (high - low - 1) * shared, lengths[low:high] - shared
        together = saved + (saved * shared - float((behind**2).sum())) / (2 * PAIRS) - cost
    bounds = [low, *(low + 1 + np.flatnonzero(between == shared)).tolist(), high]
    parts = [_grouped(lengths, common, cost, start, end) for start, end in pairwise(bounds)]
    apart = sum(value for value, _ in parts)
    if together > apart:
        return together, [(low, high, shared)]
    return apart, [group for _, groups in parts for group in groups]


def _common(left: Int64[np.ndarray, " _"], right: Int64[np.ndarray, " _"]) -> int:
    """Tokens that two sequences have in common at their beginning."""
    size = min(len(left), len(right))
    differ = left[:size] != right[:size]
    return int(differ.argmax()) if differ.any() else size
