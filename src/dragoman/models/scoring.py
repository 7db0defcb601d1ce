"""Log-probs of given tokens under a causal language model, without a batch x length x vocabulary tensor.

The backbone runs once; the head runs on the wanted positions only, a slice of them at a time or, where
nothing is trained, some columns of the vocabulary (`dragoman.models.columns`), and these logits are dropped
before the next are made. With gradients either the loss is known, and head and loss are one pass
(`dragoman.models.fused`), or a slice's logits are made again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dragoman.models.candidates import Candidates, pieces
from dragoman.models.columns import (
    ACCELERATOR_VALUES,
    COLUMNS,
    MOST_LIKELY,
    is_divisible,
    room,
    scores_by_columns,
)
from dragoman.models.fused import SliceLoss, fused_loss
from dragoman.models.heads import HeadShape, ShapedHead, check_head, head_shape, is_fusible
from dragoman.models.kernels import scores_by_kernel
from dragoman.models.loading import causal_lm
from dragoman.models.slices import Asked, TokenScores, scores_of_slice

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel

SLICE_VALUES = {"cpu": 2**24}
"""Logits of a slice where `logit_slice` is not set: 64 MB in float32, which a matrix product on CPU is as
fast with as with more. Accelerators have as many as they do by columns."""
LEAST_SLICE = 128
"""Positions of a slice, at least: products of fewer rows are slower on CPU, as each reads the head once."""


class TokenScorer(nn.Module):
    """A causal language model as the function (sequences, targets) -> log-probs of the targets.

    A stop target has the probability of the whole stop set. As a module it is what Accelerate wraps.
    `sorted_ids` are the tokens whose log-probs are sorted where `num_sorted` is asked for; None is all.
    `logit_slice` is the number of positions whose logits exist at once, by columns a bound on their number;
    None fits it to the vocabulary. `loss_impl` names the kernel of a loss (`train.loss_impl`). Raises
    TrainingError for a head that is in parts on several processes.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        stop_ids: Iterable[int],
        *,
        logit_slice: int | None = None,
        topk: int = 0,
        sorted_ids: Iterable[int] | None = None,
        entropy: bool = False,
        full: bool = False,
        loss_impl: str = "auto",
    ) -> None:
        super().__init__()
        self.model = model
        self.logit_slice = logit_slice or fitting_slice(model)
        self.topk = topk
        self.entropy = entropy
        self.full = full
        self.loss_impl = loss_impl
        self.stop_ids: Tensor
        self.register_buffer("stop_ids", torch.tensor(sorted(stop_ids), dtype=torch.long), persistent=False)
        self.sorted_ids: Tensor | None
        ids = None if sorted_ids is None else torch.tensor(list(sorted_ids), dtype=torch.long)
        self.register_buffer("sorted_ids", ids, persistent=False)
        self._check_head()
        self.head_shape = head_shape(causal_lm(model))
        """None where logits are the model's own, made of whole batches."""

    def forward(
        self,
        input_ids: Int[Tensor, "B L"],
        row: Int[Tensor, " N"],
        column: Int[Tensor, " N"],
        target: Int[Tensor, " N"],
        is_stop: Bool[Tensor, " N"],
        candidates: Candidates | None = None,
        num_sorted: int = 0,
        loss: SliceLoss | None = None,
        unit_of: Int[Tensor, " N"] | None = None,
        position_ids: Int[Tensor, "B L"] | None = None,
        cache: Cache | None = None,
        scale: float = 1.0,
        in_place: bool = False,
    ) -> TokenScores | Float[Tensor, ""]:
        """Score target n by what the model predicts after position `[row[n], column[n]]`.

        Sequences are padded on the right, which causal attention does not see; a mask that said so would keep
        it from kernels that skip what lies ahead. Or several lie in a row, which `position_ids` tells apart
        (`dragoman.models.packing`). With a `cache` they go on behind what it holds, and are added to it.
        Gradients flow through `logp`, `entropy`, `candidate_logp`, `rest_logp` and `sorted_logp` only;
        reductions in float32. With a `loss`, the answer is its sum over slices of tokens in place of the
        scores, times `scale`; no slice ends within a unit (tokens of the same `unit_of`, but -1). With
        `in_place` the head's gradient may be added to it at once (`fused_loss`).
        """
        inputs = self._states(input_ids, position_ids, cache)[row, column]
        head, linear = self.head, self._linear
        # Logits are used up where there is no head before them.
        given = inputs.detach().clone() if self.full else None
        whole = self._asked(target, is_stop, candidates, num_sorted)
        if loss is not None:
            if is_fusible(head):
                self._check_head()
            found = scores_by_kernel(self.loss_impl, inputs, head, whole)
            if found is not None:
                return loss(found, slice(0, len(target))) * scale
        score, size = partial(self._score, head), self.logit_slice
        needs_all = loss is not None or candidates is not None or num_sorted or torch.is_grad_enabled()
        if not needs_all and self._is_divisible:
            assert self.head_shape is not None and isinstance(linear, nn.Linear)
            score = partial(scores_by_columns, linear, self.head_shape, self.values_at_once)
            size = max(1, self.values_at_once // COLUMNS)
        slices = _slices(len(target), size, unit_of)
        asked = _cut(whole, slices)
        if loss is not None and is_fusible(head):
            return fused_loss(inputs, head, slices, asked, loss, scale=scale, in_place=in_place)
        parts = [score(inputs[piece], own) for piece, own in zip(slices, asked, strict=True)]
        columns = zip(*parts, strict=True)
        found = TokenScores._make(None if values[0] is None else torch.cat(values) for values in columns)
        found = found._replace(states=given)
        return found if loss is None else loss(found, slice(0, len(target))) * scale

    def _states(
        self,
        input_ids: Int[Tensor, "B L"],
        position_ids: Int[Tensor, "B L"] | None,
        cache: Cache | None,
    ) -> Float[Tensor, "B L _"]:
        """What the head is given at every position; logits where these are the model's own."""
        base = causal_lm(self.model)
        asked: dict[str, Any] = {"use_cache": cache is not None}
        if cache is not None:
            asked["past_key_values"] = cache
        elif position_ids is not None:
            # A mask for each row would hide that there are several sequences in it.
            asked["position_ids"] = position_ids
        else:
            asked["attention_mask"] = torch.ones_like(input_ids)
        if self.head_shape is None:
            logits: Tensor = base(input_ids=input_ids, **asked).logits
            return logits
        backbone = getattr(base, base.base_model_prefix)
        states: Tensor = backbone(input_ids=input_ids, **asked).last_hidden_state
        return states

    @property
    def head(self) -> nn.Module:
        """What makes logits of the inputs that are kept of a position (`TokenScores.states`)."""
        if self.head_shape is None or self._linear is None:
            return nn.Identity()
        return self._linear if self.head_shape == HeadShape() else ShapedHead(self._linear, self.head_shape)

    @property
    def _linear(self) -> nn.Module | None:
        """The model's own head, if it tells."""
        found: nn.Module | None = causal_lm(self.model).get_output_embeddings()
        return found

    @property
    def width(self) -> int:
        """Values of what the head is given of a position; of its logits where these are the model's own."""
        config = causal_lm(self.model).config.get_text_config()
        return int(config.vocab_size if self.head_shape is None else config.hidden_size)

    @property
    def values_at_once(self) -> int:
        """Logits that exist at once where nothing is trained, but for a model that makes those of a batch."""
        values = self.logit_slice * num_rows(self.model)
        return room(next(self.model.parameters()).device, values) if self._is_divisible else values

    @property
    def _is_divisible(self) -> bool:
        """Whether some columns of the logits are enough at a time, without gradients."""
        if self.head_shape is None or self._linear is None:
            return False
        return self.topk <= MOST_LIKELY and is_divisible(self._linear)

    def _check_head(self) -> None:
        if self._linear is not None:
            check_head(self._linear, num_rows(self.model))

    def _asked(
        self,
        target: Int[Tensor, " N"],
        is_stop: Bool[Tensor, " N"],
        candidates: Candidates | None,
        num_sorted: int,
    ) -> Asked:
        """What is wanted of all tokens."""
        return Asked(
            target=target,
            is_stop=is_stop,
            stop_ids=self.stop_ids,
            topk=self.topk,
            entropy=self.entropy,
            candidates=candidates,
            num_sorted=num_sorted,
            sorted_ids=self.sorted_ids,
        )

    def _score(self, head: nn.Module, inputs: Float[Tensor, "P D"], asked: Asked) -> TokenScores:
        if torch.is_grad_enabled():
            found: TokenScores = checkpoint(scores_of_slice, head, inputs, asked, use_reentrant=False)
            return found
        return scores_of_slice(head, inputs, asked)


def _cut(asked: Asked, slices: Sequence[slice]) -> list[Asked]:
    """What is wanted of each slice."""
    own = [None] * len(slices) if asked.candidates is None else pieces(asked.candidates, slices)
    return [
        replace(asked, target=asked.target[piece], is_stop=asked.is_stop[piece], candidates=some)
        for piece, some in zip(slices, own, strict=True)
    ]


def fitting_slice(model: PreTrainedModel) -> int:
    """Positions whose logits are `SLICE_VALUES` numbers, at least `LEAST_SLICE`."""
    base = causal_lm(model)
    values = SLICE_VALUES.get(next(base.parameters()).device.type, ACCELERATOR_VALUES)
    return max(LEAST_SLICE, values // num_rows(model))


def num_rows(model: PreTrainedModel) -> int:
    """Rows of a model's whole head."""
    return int(causal_lm(model).config.get_text_config().vocab_size)


def _slices(num_tokens: int, size: int, unit_of: Int[Tensor, " N"] | None) -> list[slice]:
    """Slices of `size` tokens, at least one, longer where a unit would be cut."""
    ends = torch.tensor(range(size, num_tokens, size), dtype=torch.long)
    if unit_of is not None and len(ends):
        units = unit_of.cpu()
        within = torch.zeros(num_tokens, dtype=torch.bool)
        within[1:] = (units[1:] == units[:-1]) & (units[1:] >= 0)
        free = torch.nonzero(~within)[:, 0]
        free = torch.cat([free, free.new_tensor([num_tokens])])
        ends = torch.unique(free[torch.searchsorted(free, ends)])
        ends = ends[ends < num_tokens]
    bounds = [0, *ends.tolist(), num_tokens]
    return [slice(start, stop) for start, stop in pairwise(bounds)]
