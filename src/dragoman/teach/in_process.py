"""A teacher in this process: sequences bucketed by length, logits a slice of positions at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from dragoman.config import TeacherConfig
from dragoman.models import TokenScorer, context_length
from dragoman.padding import length_buckets, right_padded
from dragoman.render import Renderer
from dragoman.types import DropReason, Event, Rollout, TeacherCaps, TeacherLevel, TeacherScores, TeacherView

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class InProcessTeacher:
    """Scores with a model held in memory; never trained, never given gradients.

    If the `student`'s ids mean the same to this model, it scores them as they were sampled, odd
    segmentations included: plain on-policy distillation. Else it scores its own tokens of the bytes, with
    thinking and tool calls in its own form.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        renderer: Renderer,
        config: TeacherConfig,
        student: Renderer | None = None,
    ) -> None:
        self.name = config.model
        self.model = model.requires_grad_(False)
        self.renderer = renderer
        self.caps = TeacherCaps(
            level=TeacherLevel.TOPK if config.topk else TeacherLevel.REALISED, generates=True
        )
        limits = [limit for limit in (config.max_length, context_length(model)) if limit is not None]
        self.max_length = min(limits) if limits else None
        self._batch_tokens = config.batch_tokens
        self._student = student
        self._same_ids = student is not None and student.tokenization.same_ids_as(renderer.tokenization)
        self._scorer = TokenScorer(
            self.model, renderer.tokenization.stop_ids, logit_slice=config.logit_slice, topk=config.topk
        )

    def view(self, rollout: Rollout) -> TeacherView:
        """The same response bytes inside the teacher's own conversation."""
        return self.renderer.view(rollout, student=self._student, keep_ids=self._same_ids)

    def score(self, views: Sequence[TeacherView]) -> list[TeacherScores]:
        """Log-probs of every view's completion, in order; a stop's is that of the whole stop set.

        Tokens beyond the teacher's context are missing with the reason `teacher_context`, non-finite
        values with `non_finite`.
        """
        found: dict[int, TeacherScores] = {}
        lengths = [self._kept(view) for view in views]
        for bucket in length_buckets(lengths, self._batch_tokens):
            for index, scores in zip(bucket, self._score_batch([views[i] for i in bucket]), strict=True):
                found[index] = scores
        return [found[index] for index in range(len(views))]

    def _kept(self, view: TeacherView) -> int:
        """Tokens of a view that fit the context."""
        return len(view.ids) if self.max_length is None else min(len(view.ids), self.max_length)

    def _score_batch(self, views: Sequence[TeacherView]) -> list[TeacherScores]:
        kept = [self._kept(view) for view in views]
        ids, mask = right_padded([view.ids[:size] for view, size in zip(views, kept, strict=True)])
        counts = [max(size - view.start, 0) for view, size in zip(views, kept, strict=True)]
        spans = [np.arange(view.start, view.start + count) for view, count in zip(views, counts, strict=True)]
        row = np.repeat(np.arange(len(views)), counts)
        place = np.concatenate(spans)
        is_stop = np.concatenate(
            [view.completion.event[:count] == Event.STOP for view, count in zip(views, counts, strict=True)]
        )
        device = next(self.model.parameters()).device
        tensors = [
            torch.from_numpy(a).to(device) for a in (ids, mask, row, place - 1, ids[row, place], is_stop)
        ]
        with torch.no_grad():
            logp, _, topk_ids, topk_logp = (value.cpu().numpy() for value in self._scorer(*tensors))
        ends = np.cumsum(counts)
        return [
            self._scores(view, logp[end - n : end], topk_ids[end - n : end], topk_logp[end - n : end])
            for view, n, end in zip(views, counts, ends, strict=True)
        ]

    def _scores(
        self, view: TeacherView, logp: np.ndarray, topk_ids: np.ndarray, topk_logp: np.ndarray
    ) -> TeacherScores:
        beyond = len(view.completion) - len(logp)
        finite = np.isfinite(logp)
        missing = np.where(finite, DropReason.NONE, DropReason.NON_FINITE)
        has_topk = topk_ids.shape[1] > 0
        pad = ((0, beyond), (0, 0))
        return TeacherScores(
            logp=np.append(np.where(finite, logp, np.nan), np.full(beyond, np.nan)).astype(np.float32),
            missing=np.append(missing, np.full(beyond, DropReason.TEACHER_CONTEXT)).astype(np.uint8),
            topk_ids=np.pad(topk_ids, pad).astype(np.int32) if has_topk else None,
            topk_logp=np.pad(topk_logp, pad, constant_values=-np.inf).astype(np.float32)
            if has_topk
            else None,
        )
