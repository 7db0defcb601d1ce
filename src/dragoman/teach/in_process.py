"""A teacher in this process: sequences bucketed by length, never the logits of a whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from dragoman.config import TeacherConfig
from dragoman.models import Span, SpanScores, TokenScorer, context_length, score_spans
from dragoman.models.memory import give_back_pages
from dragoman.render import Renderer
from dragoman.text import Tokenization
from dragoman.types import DropReason, Event, Rollout, TeacherCaps, TeacherLevel, TeacherScores, TeacherView

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_LEVELS = {0: TeacherLevel.REALISED, "all": TeacherLevel.LOGITS}
"""What a teacher tells for `teacher.topk`; for any other number, the most likely tokens."""


def in_process_caps(config: TeacherConfig, tokenization: Tokenization) -> TeacherCaps:
    """What a teacher in this process will offer, which is known before its weights are read."""
    return TeacherCaps(
        level=_LEVELS.get(config.topk, TeacherLevel.TOPK),
        generates=True,
        has_reference=config.reference is not None,
    )


class InProcessTeacher:
    """Scores with a model held in memory; never trained, never given gradients.

    If the `student`'s ids mean the same to this model, it scores them as they were sampled, odd
    segmentations included: plain on-policy distillation. Else it scores its own tokens of the bytes, with
    thinking and tool calls in its own form. A `reference` scores the same tokens beside it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        renderer: Renderer,
        config: TeacherConfig,
        student: Renderer | None = None,
        reference: InProcessTeacher | None = None,
    ) -> None:
        self.name = config.model
        self.model = model.requires_grad_(False)
        self.renderer = renderer
        self.reference = reference
        limits = [limit for limit in (config.max_length, context_length(model)) if limit is not None]
        self.max_length = min(limits) if limits else None
        self._batch_tokens = config.batch_tokens
        self._student = student
        self._same_ids = student is not None and student.tokenization.same_ids_as(renderer.tokenization)
        self._scorer = TokenScorer(
            self.model,
            renderer.tokenization.stop_ids,
            logit_slice=config.logit_slice,
            topk=0 if config.topk == "all" else config.topk,
            full=config.topk == "all",
        )
        self.caps = replace(
            in_process_caps(config, renderer.tokenization),
            has_reference=reference is not None,
            full_row=self._scorer.width if self._scorer.full else 0,
        )

    def view(self, rollout: Rollout) -> TeacherView:
        """The same response bytes inside the teacher's own conversation."""
        return self.renderer.view(rollout, student=self._student, keep_ids=self._same_ids)

    def score(self, views: Sequence[TeacherView]) -> list[TeacherScores]:
        """Log-probs of every view's completion, in order, and the stop set's mass at every place; a stop's
        log-prob is that of the whole stop set.

        Tokens beyond the teacher's context are missing with the reason `teacher_context`, non-finite
        values with `non_finite`.
        """
        kept = [self._kept(view) for view in views]
        spans = [
            Span(
                ids=view.ids[:size],
                start=view.start,
                is_stop=view.completion.event[: max(size - view.start, 0)] == Event.STOP,
            )
            for view, size in zip(views, kept, strict=True)
        ]
        scored = score_spans(self._scorer, spans, batch_tokens=self._batch_tokens)
        found = [_teacher_scores(view, scores) for view, scores in zip(views, scored, strict=True)]
        if self.reference is None:
            return found
        return [
            replace(scores, reference_logp=of_reference.logp)
            for scores, of_reference in zip(found, self.reference.score(views), strict=True)
        ]

    def rest(self) -> None:
        """Let go of the pages of the weights until the next step, most of which has no use for them."""
        give_back_pages(self.model)
        if self.reference is not None:
            self.reference.rest()

    def _kept(self, view: TeacherView) -> int:
        """Tokens of a view that fit the context."""
        return len(view.ids) if self.max_length is None else min(len(view.ids), self.max_length)


def _teacher_scores(view: TeacherView, scores: SpanScores) -> TeacherScores:
    beyond = len(view.completion) - len(scores.logp)
    finite = np.isfinite(scores.logp)
    missing = np.where(finite, DropReason.NONE, DropReason.NON_FINITE)
    has_topk = scores.topk_ids.shape[1] > 0
    pad = ((0, beyond), (0, 0))
    unknown = np.full(beyond, np.nan)
    return TeacherScores(
        full_logp=None if scores.full_logp is None else scores.full_logp.longer(beyond),
        logp=np.append(np.where(finite, scores.logp, np.nan), unknown).astype(np.float32),
        missing=np.append(missing, np.full(beyond, DropReason.TEACHER_CONTEXT)).astype(np.uint8),
        topk_ids=np.pad(scores.topk_ids, pad).astype(np.int32) if has_topk else None,
        topk_logp=np.pad(scores.topk_logp, pad, constant_values=-np.inf).astype(np.float32)
        if has_topk
        else None,
        stop_logp=np.append(scores.stop_logp, unknown).astype(np.float32),
    )
