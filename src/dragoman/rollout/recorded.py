"""Turns that a conversation already holds, scored by the student as it is now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dragoman.errors import DataError, RenderError
from dragoman.models import Span, SpanScores, TokenScorer, context_length, evaluating, score_spans
from dragoman.render import Renderer
from dragoman.rollout.engine import Request
from dragoman.rollout.episodes import sampled_places
from dragoman.types import Event, Prompt, Rollout, StopReason


class RecordedEngine:
    """Answers requests with the assistant's turns of their prompts that are marked as sampled and have words.

    The turns are written in the student's form and canonical tokens, with its stop; their log-probs are those
    of the `scorer`'s model at the time. Every sample of a prompt is the same.
    """

    def __init__(self, scorer: TokenScorer, renderer: Renderer, batch_tokens: int) -> None:
        self._scorer = scorer
        self._renderer = renderer
        self._batch_tokens = batch_tokens

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Raise DataError for a prompt without recorded turns, RenderError for one that cannot be rendered
        or whose turns do not fit the model's context."""
        for prompt in prompts:
            self._drafts(Request(prompt=prompt, sample=0), step=0)

    def rollouts(self, requests: Sequence[Request], *, seed: int, step: int) -> list[Rollout]:
        """One rollout a recorded turn; see `RolloutEngine`."""
        drafts = [draft for request in requests for draft in self._drafts(request, step)]
        spans = [
            Span(
                ids=np.concatenate([draft.context_ids, draft.completion.ids]),
                start=len(draft.context_ids),
                is_stop=draft.completion.event == Event.STOP,
            )
            for draft in drafts
        ]
        with evaluating(self._scorer.model):
            scored = score_spans(self._scorer, spans, batch_tokens=self._batch_tokens)
        return [_with_scores(draft, scores) for draft, scores in zip(drafts, scored, strict=True)]

    def _drafts(self, request: Request, step: int) -> list[Rollout]:
        """The recorded turns of a prompt, not yet scored."""
        prompt = request.prompt
        where = f"prompt {prompt.key!r} ({prompt.origin or 'no file'})"
        places = sampled_places(prompt)
        if not places or prompt.messages is None:
            raise DataError(
                f"{where} has no recorded turn, so rollout.engine=recorded finds nothing to train on; mark "
                "the student's turns with `sampled: true`, or set rollout.engine=sample"
            )
        found = []
        for turn, place in enumerate(places):
            message = prompt.messages[place]
            if message.is_slot:
                raise DataError(
                    f"{where}: message {place} is sampled but has no words, so there is nothing recorded; "
                    "give it content, or set rollout.engine=sample to have the student write it"
                )
            before = replace(prompt, messages=prompt.messages[:place])
            draft = Rollout(
                prompt=before,
                sample=request.sample,
                context_ids=self._renderer.context_ids(before),
                completion=self._renderer.response(message, before),
                behaviour_logp=None,
                stop=StopReason.STOP,
                policy_version=step,
                turn=turn,
            )
            self._check_room(draft, f"{where}: message {place}")
            found.append(draft)
        return found

    def _check_room(self, draft: Rollout, where: str) -> None:
        size, limit = len(draft.context_ids) + len(draft.completion), context_length(self._scorer.model)
        if limit is not None and size > limit:
            raise RenderError(
                f"{where} ends after {size} tokens, more than the {limit} of the model "
                f"{self._renderer.tokenization.name!r}, whose log-probs there mean nothing. Shorten the "
                "conversation, or take `sampled` from that turn"
            )


def _with_scores(draft: Rollout, scores: SpanScores) -> Rollout:
    return replace(draft, behaviour_logp=scores.logp, entropy=scores.entropy, stop_logp=scores.stop_logp)
