"""Scores of the tokens of one slice of positions, as a function of the logits there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dragoman.models.candidates import Candidates, by_candidate, held, in_stops
from dragoman.models.masses import Masses, Places, Wanted, centred, masses


class TokenScores(NamedTuple):
    """Of N tokens: log-prob, and of the distribution it comes from the most likely tokens and the log of the
    stop set's mass (-inf for an empty set); nats, float32.

    Where they were asked for: the entropy; the log mass of each candidate, that outside a token's candidates
    (0 where it has none, -inf where nothing is left), and the R largest log-probs of
    `TokenScorer.sorted_ids`. All of these and `logp` have gradients.
    """

    logp: Float[Tensor, " N"]
    topk_ids: Int[Tensor, "N K"]
    topk_logp: Float[Tensor, "N K"]
    stop_logp: Float[Tensor, " N"]
    entropy: Float[Tensor, " N"] | None = None
    candidate_logp: Float[Tensor, " C"] | None = None
    rest_logp: Float[Tensor, " N"] | None = None
    sorted_logp: Float[Tensor, "N R"] | None = None
    states: Float[Tensor, "N D"] | None = None
    """What the head was given, without gradient, where the scorer is `full`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """What is wanted of P positions."""

    target: Int[Tensor, " P"]
    is_stop: Bool[Tensor, " P"]
    stop_ids: Int[Tensor, " S"]
    topk: int = 0
    entropy: bool = False
    candidates: Candidates | None = None
    num_sorted: int = 0
    sorted_ids: Int[Tensor, " Q"] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice:
    """A slice of logits as read: which entries were picked, in parts, and what needs no gradient."""

    asked: Asked
    wanted: Wanted
    sizes: list[int]
    """Picked entries that are targets, stops, members of candidates and sorted ones."""
    missing: int
    """Of `num_sorted`, those there are no ids for."""
    topk_ids: Int[Tensor, "P K"]
    topk: Float[Tensor, "P K"]


def prepare(logits_PV: Float[Tensor, "P V"], asked: Asked) -> Slice:
    """Which entries of centred logits the scores are made of; without gradients."""
    logits_PV = logits_PV.detach()
    size, num_ids = logits_PV.shape
    position = torch.arange(size, device=logits_PV.device)
    rows, columns = [position], [asked.target]
    rows.append(position.repeat_interleave(len(asked.stop_ids)))
    columns.append(asked.stop_ids.repeat(size))
    own = asked.candidates
    rows.append(position[:0] if own is None else own.row_of_member)
    columns.append(position[:0] if own is None else own.ids)
    best_PR = _best(logits_PV, asked)
    rows.append(position.repeat_interleave(best_PR.shape[1]))
    columns.append(best_PR.reshape(-1))
    # The likeliest 0 would cost as much as the likeliest one.
    topk_PK, topk_ids_PK = (logits_PV if asked.topk else logits_PV[:, :0]).topk(asked.topk)
    return Slice(
        asked=asked,
        wanted=Wanted(
            places=Places(torch.cat(rows), torch.cat(columns)),
            held=None if own is None else held(own, num_ids, asked.stop_ids),
            entropy=asked.entropy,
        ),
        sizes=[len(part) for part in rows],
        missing=asked.num_sorted - best_PR.shape[1],
        topk_ids=topk_ids_PK,
        topk=topk_PK,
    )


def scores(of: Slice, found: Masses) -> TokenScores:
    """The scores from the masses that `of` asked for, with gradients to these; `states` apart."""
    asked, total_P = of.asked, found.total
    target_P, stops, members, best = torch.split(found.picked, of.sizes)
    stop_P = torch.full_like(total_P, -torch.inf)
    if len(asked.stop_ids):
        stop_P = stops.view(-1, len(asked.stop_ids)).logsumexp(-1)
        target_P = torch.where(asked.is_stop, stop_P, target_P)
    result = TokenScores(
        logp=target_P - total_P,
        topk_ids=of.topk_ids,
        topk_logp=of.topk - total_P.detach()[:, None],
        stop_logp=(stop_P - total_P).detach(),
        entropy=found.entropy,
    )
    own = asked.candidates
    if own is not None:
        assert found.rest is not None
        merged = _merged(members, own.row_of_member, own.ids, stop_P, asked.stop_ids)
        inside_C = by_candidate(merged, own)
        result = result._replace(candidate_logp=inside_C - total_P[own.row], rest_logp=found.rest - total_P)
    if asked.num_sorted:
        row, ids = (torch.split(part, of.sizes)[-1] for part in of.wanted.places)
        merged = _merged(best, row, ids, stop_P, asked.stop_ids)
        sorted_PR = merged.view(-1, asked.num_sorted - of.missing) - total_P[:, None]
        result = result._replace(sorted_logp=nn.functional.pad(sorted_PR, (0, of.missing), value=-torch.inf))
    return result


def scores_of_slice(head: nn.Module, inputs: Float[Tensor, "P D"], asked: Asked) -> TokenScores:
    """The scores of one slice of positions, with gradients where they are on."""
    logits_PV = head(inputs)
    logits_PV = logits_PV if logits_PV.dtype == torch.float64 else logits_PV.float()
    logits_PV = centred(logits_PV)
    of = prepare(logits_PV, asked)
    return scores(of, masses(logits_PV, of.wanted))


def _merged(
    values: Float[Tensor, " M"],
    row: Int[Tensor, " M"],
    ids: Int[Tensor, " M"],
    stop_P: Float[Tensor, " P"],
    stop_ids: Int[Tensor, " S"],
) -> Float[Tensor, " M"]:
    """The stop set as one outcome: its smallest id has the mass of all, the others none."""
    if len(stop_ids) < 2:
        return values
    is_set, is_other = in_stops(ids, stop_ids)
    return torch.where(is_set, stop_P[row], values).masked_fill(is_other, -torch.inf)


def _best(logits_PV: Float[Tensor, "P V"], asked: Asked) -> Int[Tensor, "P R"]:
    """The ids to be sorted that have the largest logits, largest first, the stop set merged."""
    if not asked.num_sorted:
        return asked.target.new_zeros((len(logits_PV), 0))
    ids_Q = asked.sorted_ids
    if ids_Q is None:
        ids_Q = torch.arange(logits_PV.shape[1], device=logits_PV.device)
    logits_PQ = logits_PV[:, ids_Q]
    if len(asked.stop_ids) > 1:
        is_set, is_other = in_stops(ids_Q, asked.stop_ids)
        logits_PQ[:, is_set] = logits_PV[:, asked.stop_ids].logsumexp(-1, keepdim=True)
        logits_PQ[:, is_other] = -torch.inf
    return ids_Q[logits_PQ.topk(min(asked.num_sorted, len(ids_Q)), dim=-1).indices]
