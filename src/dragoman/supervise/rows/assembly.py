"""From the candidates of single places to the rows of a response: one way to cut them, one to join them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from dragoman.supervise.rows.common import Mass, Response, Rule, place_of
from dragoman.text import NOWHERE
from dragoman.types import RowLabel, Rows


class Candidates(NamedTuple):
    """One row: the mass of each of K candidates, and the mass that was left outside.

    Candidate k is the token `ids[k]`; or, with `sizes`, the set of the `sizes[k]` tokens that lie at its
    place in `ids`, each with its `weight`, 1 if left out.
    """

    ids: Int64[np.ndarray, " M"]
    sizes: Int64[np.ndarray, " K"] | None
    mass: Float64[np.ndarray, " K"]
    left: float
    weight: Float64[np.ndarray, " M"] | None = None

    @property
    def num_tokens(self) -> Int64[np.ndarray, " K"]:
        """Tokens of each candidate."""
        return np.ones(len(self.mass), np.int64) if self.sizes is None else self.sizes


def assemble(response: Response, rule: Callable[[Response, int], Candidates | None]) -> Rows:
    """The rows of all tokens that are asked for, under a rule that gives None where there is no row.

    Rows are of sets only where some candidate has several tokens, or a weight.
    """
    size = len(response.teacher_of)
    counts, residual = np.zeros(size, np.int64), np.zeros(size)
    label = np.full(size, RowLabel.NONE, np.uint8)
    found: list[Candidates] = []
    for index in np.flatnonzero(response.asked).tolist():
        row = rule(response, index)
        if row is None:
            continue
        found.append(row)
        counts[index] = len(row.mass)
        residual[index] = row.left
        label[index] = response.label(index)
    sizes = np.concatenate([np.zeros(0, np.int64), *(row.num_tokens for row in found)])
    weights = [row.weight for row in found if row.weight is not None]
    weighted = len(weights) > 0
    return Rows(
        bounds=_bounds(counts),
        ids=np.concatenate([np.zeros(0, np.int64), *(row.ids for row in found)]),
        logp=np.log(np.concatenate([np.zeros(0), *(row.mass for row in found)])).astype(np.float32),
        residual=residual.astype(np.float32),
        label=label,
        member_bounds=_bounds(sizes) if weighted or (sizes > 1).any() else None,
        log_weight=np.log(np.concatenate(weights)).astype(np.float32) if weighted else None,
    )


def rows_of(response: Response, rule: Rule, topk: int | None) -> Rows:
    """The rows of single tokens under a rule of masses.

    A row keeps its `topk` largest candidates (all, for None), the sampled token among them if it has mass;
    the others' mass is part of the residual.
    """

    def row(response: Response, index: int) -> Candidates | None:
        mass = rule(response, index)
        return None if mass is None else kept(mass, topk, int(response.target[index]))

    return assemble(response, row)


def kept(mass: Mass, topk: int | None, always: int) -> Candidates:
    """The `topk` largest masses, `always` among them if it has any."""
    places = largest(mass.of_id, topk, place_of(mass.ids, always))
    others = float(np.delete(mass.of_id, places).sum())
    return Candidates(mass.ids[places], None, mass.of_id[places], mass.rest + others)


def telling(rule: Rule) -> Rule:
    """A rule without the rows that have no candidate: alone, they say nothing."""

    def told(response: Response, index: int) -> Mass | None:
        mass = rule(response, index)
        return mass if mass is not None and mass.of_id.any() else None

    return told


def largest(
    mass: Float64[np.ndarray, " V"], topk: int | None, always: int = NOWHERE
) -> Int64[np.ndarray, " k"]:
    """The places of the `topk` largest positive masses, ascending, `always` among them if it has mass."""
    # A partition is far cheaper than sorting all of a vocabulary.
    least = 0.0 if topk is None or len(mass) <= topk else np.partition(mass, -topk)[-topk]
    if topk is None or not least > 0.0:
        # Fewer than `topk`.
        return np.flatnonzero(mass > 0.0)
    ids = np.flatnonzero(mass >= least)
    # A stable order, so that ties are cut alike everywhere.
    found = ids[np.argsort(-mass[ids], kind="stable")[:topk]]
    if always != NOWHERE and mass[always] > 0.0 and always not in found:
        found[-1] = always
    return np.sort(found)


def _bounds(sizes: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n_plus_1"]:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
