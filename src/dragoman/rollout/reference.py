"""The student as it was before training: what penalties and credits measure its change against."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from dragoman.models import Span, TokenScorer, evaluating, score_spans
from dragoman.types import Event, Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class StudentReference:
    """Scores sampled tokens with the weights that a student has now, whatever becomes of it later.

    With adapters the weights under them do not change, so nothing is copied: the adapters are switched off
    while it scores. Otherwise it holds a second copy of all weights, in the student's precision and on its
    device.
    """

    def __init__(
        self, model: PreTrainedModel, stop_ids: Iterable[int], *, logit_slice: int | None, batch_tokens: int
    ) -> None:
        self._adapters = model if hasattr(model, "disable_adapter") else None
        held = model if self._adapters is not None else copy.deepcopy(model).requires_grad_(False)
        self._scorer = TokenScorer(held, stop_ids, logit_slice=logit_slice)
        self._batch_tokens = batch_tokens

    def scored(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """The rollouts with `reference_logp`; a stop has the mass of the whole stop set, as in sampling."""
        spans = [
            Span(
                ids=np.concatenate([rollout.context_ids, rollout.completion.ids]),
                start=len(rollout.context_ids),
                is_stop=rollout.completion.event == Event.STOP,
            )
            for rollout in rollouts
        ]
        without = nullcontext() if self._adapters is None else self._adapters.disable_adapter()
        with evaluating(self._scorer.model), without:
            scores = score_spans(self._scorer, spans, batch_tokens=self._batch_tokens)
        return [
            replace(rollout, reference_logp=found.logp)
            for rollout, found in zip(rollouts, scores, strict=True)
        ]
