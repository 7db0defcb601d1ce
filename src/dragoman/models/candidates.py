"""Some outcomes of a token's distribution: single tokens or weighted sets of them, the stop set as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dragoman.models.masses import Held, Places, Wanted, masses


class Candidates(NamedTuple):
    """For each of N scored tokens some outcomes of the distribution it comes from, C in all.

    Candidate c belongs to token `row[c]`, which must not decrease, and is the token `ids[c]`; or, where
    `member_of` is given (it must not decrease either), the weighted set of the tokens `ids[m]` with
    `member_of[m] == c`, whose mass is `sum_m exp(log_weight[m]) * S(ids[m])`. The weights of one token in
    the candidates of one row add up to at most 1; without `log_weight` no token is in a row twice. The stop
    set is one outcome, named by its smallest id.
    """

    row: Int[Tensor, " C"]
    ids: Int[Tensor, " M"]
    member_of: Int[Tensor, " M"] | None = None
    log_weight: Float[Tensor, " M"] | None = None

    @property
    def row_of_member(self) -> Int[Tensor, " M"]:
        """The token each member belongs to."""
        return self.row if self.member_of is None else self.row[self.member_of]


def candidate_masses(
    logits_PV: Float[Tensor, "P V"], candidates: Candidates
) -> tuple[Float[Tensor, " C"], Float[Tensor, " P"]]:
    """Log mass of each candidate and of what is outside a row's candidates.

    A token that has the weight w in its row's candidates counts outside with 1 - w, so that small
    remainders are sums, not differences: for single tokens this is `logsumexp` with them masked.
    """
    no_stops = candidates.ids.new_zeros(0)
    places = Places(candidates.row_of_member, candidates.ids)
    own = held(candidates, logits_PV.shape[1], no_stops)
    centred_PV = logits_PV - logits_PV.detach().amax(-1, keepdim=True)
    total_P, picked_M, rest_P, _ = masses(centred_PV, Wanted(places, own))
    assert rest_P is not None
    return by_candidate(picked_M, candidates) - total_P[candidates.row], rest_P - total_P


def held(candidates: Candidates, num_ids: int, stop_ids: Int[Tensor, " S"]) -> Held:
    """What candidates leave outside. A candidate that is the stop set holds all stops."""
    row, column, log_weight = candidates.row_of_member, candidates.ids, candidates.log_weight
    if len(stop_ids):
        is_set, is_other = in_stops(column, stop_ids)
        plain = ~(is_set | is_other)
        size, times = len(stop_ids), int(is_set.sum())
        row = torch.cat([row[plain], row[is_set].repeat_interleave(size)])
        column = torch.cat([column[plain], stop_ids.repeat(times)])
        if log_weight is not None:
            log_weight = torch.cat([log_weight[plain], log_weight[is_set].repeat_interleave(size)])
    if log_weight is None:
        return Held(row, column, torch.full(row.shape, -torch.inf, device=row.device))
    place_U, number_M = torch.unique(row * num_ids + column, return_inverse=True)
    weight_U = log_weight.new_zeros(len(place_U)).index_add_(0, number_M, log_weight.exp())
    return Held(place_U // num_ids, place_U % num_ids, (1.0 - weight_U).clamp_min_(0.0).log_())


def in_stops(
    ids: Int[Tensor, " M"], stop_ids: Int[Tensor, " S"]
) -> tuple[Bool[Tensor, " M"], Bool[Tensor, " M"]]:
    """Which ids stand for the whole stop set, and which are other stops, that are never by themselves."""
    if not len(stop_ids):
        nothing = torch.zeros_like(ids, dtype=torch.bool)
        return nothing, nothing
    is_set = ids == stop_ids[0]
    return is_set, torch.isin(ids, stop_ids) & ~is_set


def by_candidate(values: Float[Tensor, " M"], candidates: Candidates) -> Float[Tensor, " C"]:
    """The log mass of each candidate from those of its members; -inf, without gradient, for a set without
    any mass."""
    if candidates.log_weight is not None:
        values = values + candidates.log_weight
    if candidates.member_of is None:
        return values
    set_of, num_sets = candidates.member_of, len(candidates.row)
    lowest = values.new_full((num_sets,), -torch.inf)
    top_C = lowest.scatter_reduce(0, set_of, values.detach(), "amax")
    empty_C = torch.isneginf(top_C)
    base_C = top_C.masked_fill(empty_C, 0.0)
    sum_C = values.new_zeros(num_sets).index_add(0, set_of, (values - base_C[set_of]).exp())
    return (sum_C.masked_fill(empty_C, 1.0).log() + base_C).masked_fill(empty_C, -torch.inf)


def pieces(candidates: Candidates, slices: Sequence[slice]) -> list[Candidates]:
    """The candidates of each slice of tokens, rows and sets numbered within it; the slices follow each
    other."""
    row, ids, member_of, log_weight = candidates
    ends = torch.tensor([piece.stop for piece in slices], device=row.device)
    bounds_C = torch.searchsorted(row, ends)
    bounds_M = bounds_C if member_of is None else torch.searchsorted(member_of, bounds_C)
    found, first, first_member = [], 0, 0
    for piece, last, last_member in zip(slices, bounds_C.tolist(), bounds_M.tolist(), strict=True):
        own = slice(first_member, last_member)
        found.append(
            Candidates(
                row=row[first:last] - piece.start,
                ids=ids[own],
                member_of=None if member_of is None else member_of[own] - first,
                log_weight=None if log_weight is None else log_weight[own],
            )
        )
        first, first_member = last, last_member
    return found
