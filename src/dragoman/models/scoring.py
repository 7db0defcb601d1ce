"""Log-probs of given tokens under a causal language model, without a batch x length x vocabulary tensor.

The backbone runs once; the head runs on the wanted positions only, a slice at a time, and a slice's
logits are dropped (in training: made again in the backward pass) before the next one begins.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dragoman.models.loading import causal_lm

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Candidates(NamedTuple):
    """For each of N scored tokens some outcomes of the distribution it comes from, C in all.

    Candidate c belongs to token `row[c]`, which must not decrease, and is the token `ids[c]`; or, where
    `member_of` is given (it must not decrease either), the weighted set of the tokens `ids[m]` with
    `member_of[m] == c`, whose mass is `sum_m exp(log_weight[m]) * S(ids[m])`. The weights of one token in
    the candidates of one row add up to at most 1. The stop set is one outcome, named by its smallest id.
    """

    row: Int[Tensor, " C"]
    ids: Int[Tensor, " M"]
    member_of: Int[Tensor, " M"] | None = None
    log_weight: Float[Tensor, " M"] | None = None


class TokenScores(NamedTuple):
    """Of N tokens: log-prob, and of the distribution it comes from the entropy, the most likely tokens and
    the log of the stop set's mass (-inf for an empty set); nats, float32.

    Where they were asked for: the log mass of each candidate, that outside a token's candidates (0 where
    it has none, -inf where nothing is left), and the R largest log-probs of `TokenScorer.sorted_ids`.
    """

    logp: Float[Tensor, " N"]
    entropy: Float[Tensor, " N"]
    topk_ids: Int[Tensor, "N K"]
    topk_logp: Float[Tensor, "N K"]
    stop_logp: Float[Tensor, " N"]
    candidate_logp: Float[Tensor, " C"] | None = None
    rest_logp: Float[Tensor, " N"] | None = None
    sorted_logp: Float[Tensor, "N R"] | None = None
    full_logp: Float[Tensor, "N V"] | None = None
    """The whole distribution, without gradient, where the scorer is `full`."""


class TokenScorer(nn.Module):
    """A causal language model as the function (sequences, targets) -> log-probs of the targets.

    A stop target has the probability of the whole stop set. As a module it is what Accelerate wraps.
    `sorted_ids` are the tokens whose log-probs are sorted where `num_sorted` is asked for; None is all.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        stop_ids: Iterable[int],
        *,
        logit_slice: int,
        topk: int = 0,
        sorted_ids: Iterable[int] | None = None,
        full: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.logit_slice = logit_slice
        self.topk = topk
        self.full = full
        self.stop_ids: Tensor
        self.register_buffer("stop_ids", torch.tensor(sorted(stop_ids), dtype=torch.long), persistent=False)
        self.sorted_ids: Tensor | None
        ids = None if sorted_ids is None else torch.tensor(list(sorted_ids), dtype=torch.long)
        self.register_buffer("sorted_ids", ids, persistent=False)
        self.has_plain_head = _has_plain_head(model)

    def forward(
        self,
        input_ids: Int[Tensor, "B L"],
        attention_mask: Int[Tensor, "B L"],
        row: Int[Tensor, " N"],
        column: Int[Tensor, " N"],
        target: Int[Tensor, " N"],
        is_stop: Bool[Tensor, " N"],
        candidates: Candidates | None = None,
        num_sorted: int = 0,
    ) -> TokenScores:
        """Score target n by what the model predicts after position `[row[n], column[n]]`.

        Sequences are padded on the right. Gradients flow through `logp`, `candidate_logp`, `rest_logp` and
        `sorted_logp` only; reductions in float32.
        """
        base = causal_lm(self.model)
        if self.has_plain_head:
            backbone = getattr(base, base.base_model_prefix)
            states = backbone(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
            inputs, head = states.last_hidden_state[row, column], base.get_output_embeddings()
        else:
            states = base(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
            inputs, head = states.logits[row, column], nn.Identity()
        starts = range(0, max(len(target), 1), self.logit_slice)
        pieces = [None] * len(starts) if candidates is None else _pieces(candidates, starts)
        parts = []
        for start, own in zip(starts, pieces, strict=True):
            piece = slice(start, start + self.logit_slice)
            arguments = (inputs[piece], target[piece], is_stop[piece], own, num_sorted)
            if torch.is_grad_enabled():
                parts.append(checkpoint(self._score, head, *arguments, use_reentrant=False))
            else:
                parts.append(self._score(head, *arguments))
        columns = zip(*parts, strict=True)
        return TokenScores._make(None if values[0] is None else torch.cat(values) for values in columns)

    def _score(
        self,
        head: nn.Module,
        inputs: Float[Tensor, "P D"],
        target: Int[Tensor, " P"],
        is_stop: Bool[Tensor, " P"],
        candidates: Candidates | None,
        num_sorted: int,
    ) -> TokenScores:
        logits_PV = head(inputs).float()
        total_P = logits_PV.logsumexp(-1)
        chosen_P = logits_PV.gather(-1, target[:, None]).squeeze(-1)
        stop_P = torch.full_like(total_P, -torch.inf)
        if len(self.stop_ids):
            stop_P = logits_PV[:, self.stop_ids].logsumexp(-1)
            chosen_P = torch.where(is_stop, stop_P, chosen_P)
        with torch.no_grad():
            logp_PV = logits_PV - total_P[:, None]
            entropy_P = -(logp_PV.exp() * logp_PV.clamp_min(torch.finfo(torch.float32).min)).sum(-1)
            topk = logp_PV.topk(self.topk, dim=-1)
            stop_logp_P = stop_P - total_P
        scores = TokenScores(chosen_P - total_P, entropy_P, topk.indices, topk.values, stop_logp_P)
        if self.full:
            scores = scores._replace(full_logp=logp_PV)
        if candidates is None and num_sorted == 0:
            return scores
        merged_PV = self._merge_stops(logits_PV, stop_P)
        if candidates is not None:
            inside_C, rest_P = candidate_logits(merged_PV, candidates)
            scores = scores._replace(
                candidate_logp=inside_C - total_P[candidates.row], rest_logp=rest_P - total_P
            )
        if num_sorted > 0:
            scores = scores._replace(sorted_logp=self._sorted(merged_PV, num_sorted) - total_P[:, None])
        return scores

    def _merge_stops(
        self, logits_PV: Float[Tensor, "P V"], stop_P: Float[Tensor, " P"]
    ) -> Float[Tensor, "P V"]:
        """The stop set as one outcome: its smallest id has the mass of all, the others none."""
        if len(self.stop_ids) < 2:
            return logits_PV
        merged_PV = logits_PV.index_fill(1, self.stop_ids, -torch.inf)
        return merged_PV.index_copy(1, self.stop_ids[:1], stop_P[:, None])

    def _sorted(self, logits_PV: Float[Tensor, "P V"], num_sorted: int) -> Float[Tensor, "P R"]:
        """The largest logits of the ids to be sorted, padded with -inf if they are fewer."""
        logits_PQ = logits_PV if self.sorted_ids is None else logits_PV[:, self.sorted_ids]
        size = min(num_sorted, logits_PQ.shape[1])
        best_PR = logits_PQ.topk(size, dim=-1).values
        return nn.functional.pad(best_PR, (0, num_sorted - size), value=-torch.inf)


def candidate_logits(
    logits_PV: Float[Tensor, "P V"], candidates: Candidates
) -> tuple[Float[Tensor, " C"], Float[Tensor, " P"]]:
    """Log mass of each candidate and of what is outside a row's candidates, both before normalisation.

    A token that has the weight w in its row's candidates counts outside with 1 - w, so that small
    remainders are sums, not differences: for single tokens this is `logsumexp` with them masked.
    """
    row_of, ids, member_of, log_weight = candidates
    row_M = row_of if member_of is None else row_of[member_of]
    weight_M = torch.ones_like(ids, dtype=logits_PV.dtype) if log_weight is None else log_weight.exp()
    inside_C = logits_PV[row_M, ids]
    if log_weight is not None:
        inside_C = inside_C + log_weight
    if member_of is not None:
        inside_C = _logsumexp_by_set(inside_C, member_of, len(row_of))
    free_PV = torch.ones_like(logits_PV, requires_grad=False)
    free_PV.index_put_((row_M, ids), -weight_M, accumulate=True)
    outside_PV = logits_PV + free_PV.clamp_min_(0.0).log_()
    nothing_P = torch.isneginf(outside_PV.detach()).all(-1)
    # The gradient of a logsumexp of nothing is NaN, which no later mask removes.
    rest_P = outside_PV.masked_fill(nothing_P[:, None], 0.0).logsumexp(-1)
    return inside_C, rest_P.masked_fill(nothing_P, -torch.inf)


def _logsumexp_by_set(
    values: Float[Tensor, " M"], set_of: Int[Tensor, " M"], num_sets: int
) -> Float[Tensor, " C"]:
    """Log of the summed exponentials of each set; -inf, without gradient, for a set without any mass."""
    lowest = values.new_full((num_sets,), -torch.inf)
    top_C = lowest.scatter_reduce(0, set_of, values.detach(), "amax")
    empty_C = torch.isneginf(top_C)
    base_C = top_C.masked_fill(empty_C, 0.0)
    sum_C = values.new_zeros(num_sets).index_add(0, set_of, (values - base_C[set_of]).exp())
    return (sum_C.masked_fill(empty_C, 1.0).log() + base_C).masked_fill(empty_C, -torch.inf)


def _pieces(candidates: Candidates, starts: range) -> list[Candidates]:
    """The candidates of each slice of tokens, rows and sets numbered within it."""
    row, ids, member_of, log_weight = candidates
    ends = torch.tensor([*starts[1:], starts.stop + starts.step], device=row.device)
    bounds_C = torch.searchsorted(row, ends)
    bounds_M = bounds_C if member_of is None else torch.searchsorted(member_of, bounds_C)
    pieces, first, first_member = [], 0, 0
    for start, last, last_member in zip(starts, bounds_C.tolist(), bounds_M.tolist(), strict=True):
        own = slice(first_member, last_member)
        pieces.append(
            Candidates(
                row=row[first:last] - start,
                ids=ids[own],
                member_of=None if member_of is None else member_of[own] - first,
                log_weight=None if log_weight is None else log_weight[own],
            )
        )
        first, first_member = last, last_member
    return pieces


def _has_plain_head(model: PreTrainedModel) -> bool:
    """Whether logits are just `head(backbone(ids))`; found by trying, as some models scale or cap them
    (a cap far above the logits of the trial would not show, so a declared one is believed).
    """
    base = causal_lm(model)
    backbone, head = getattr(base, base.base_model_prefix, None), base.get_output_embeddings()
    capped = getattr(base.config.get_text_config(), "final_logit_softcapping", None) is not None
    if backbone is None or backbone is base or head is None or capped:
        return False
    device = next(base.parameters()).device
    ids = torch.arange(4, device=device)[None]
    with torch.no_grad():
        expected = base(input_ids=ids, use_cache=False).logits
        got = head(backbone(input_ids=ids, use_cache=False).last_hidden_state)
    return bool(torch.equal(got, expected) or torch.allclose(got, expected, rtol=1e-3, atol=1e-3))
