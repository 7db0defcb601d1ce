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


class TokenScores(NamedTuple):
    """Of N tokens: log-prob, and of the distribution it comes from the entropy, the most likely tokens and
    the log of the stop set's mass (-inf for an empty set); nats, float32."""

    logp: Float[Tensor, " N"]
    entropy: Float[Tensor, " N"]
    topk_ids: Int[Tensor, "N K"]
    topk_logp: Float[Tensor, "N K"]
    stop_logp: Float[Tensor, " N"]


class TokenScorer(nn.Module):
    """A causal language model as the function (sequences, targets) -> log-probs of the targets.

    A stop target has the probability of the whole stop set. As a module it is what Accelerate wraps.
    """

    def __init__(
        self, model: PreTrainedModel, stop_ids: Iterable[int], *, logit_slice: int, topk: int = 0
    ) -> None:
        super().__init__()
        self.model = model
        self.logit_slice = logit_slice
        self.topk = topk
        self.stop_ids: Tensor
        self.register_buffer("stop_ids", torch.tensor(sorted(stop_ids), dtype=torch.long), persistent=False)
        self.has_plain_head = _has_plain_head(model)

    def forward(
        self,
        input_ids: Int[Tensor, "B L"],
        attention_mask: Int[Tensor, "B L"],
        row: Int[Tensor, " N"],
        column: Int[Tensor, " N"],
        target: Int[Tensor, " N"],
        is_stop: Bool[Tensor, " N"],
    ) -> TokenScores:
        """Score target n by what the model predicts after position `[row[n], column[n]]`.

        Sequences are padded on the right. Gradients flow through `logp` only; reductions in float32.
        """
        base = causal_lm(self.model)
        if self.has_plain_head:
            backbone = getattr(base, base.base_model_prefix)
            states = backbone(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
            inputs, head = states.last_hidden_state[row, column], base.get_output_embeddings()
        else:
            states = base(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
            inputs, head = states.logits[row, column], nn.Identity()
        parts = []
        for start in range(0, max(len(target), 1), self.logit_slice):
            piece = slice(start, start + self.logit_slice)
            arguments = (inputs[piece], target[piece], is_stop[piece])
            if torch.is_grad_enabled():
                parts.append(checkpoint(self._score, head, *arguments, use_reentrant=False))
            else:
                parts.append(self._score(head, *arguments))
        return TokenScores(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def _score(
        self,
        head: nn.Module,
        inputs: Float[Tensor, "P D"],
        target: Int[Tensor, " P"],
        is_stop: Bool[Tensor, " P"],
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
        return TokenScores(chosen_P - total_P, entropy_P, topk.indices, topk.values, stop_logp_P)


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
