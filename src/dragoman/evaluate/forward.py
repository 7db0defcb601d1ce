"""Forward KL on held-out prompts: what a student gives to texts that the teacher has written.

The teacher writes once and never changes, so all evaluations of a run, and all runs with the same teacher,
prompts and seed, are measured on the same texts. Reverse KL sees what the student writes and the teacher
would not; forward KL sees what the teacher writes and the student would not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32

from dragoman.alignment import align
from dragoman.errors import RenderError
from dragoman.models import Span, TokenScorer, context_length, evaluating, score_spans
from dragoman.observe import Metrics, Ratio
from dragoman.render import Renderer
from dragoman.rollout import Request
from dragoman.supervise.credit.chunks import chunk_sums
from dragoman.types import Alignment, Event, Prompt, Rollout, TeacherView

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class TeacherText:
    """One turn that the teacher wrote, with its own log-probs, and the same turn as the student reads it.

    `reading` is a view with the roles exchanged: the response in the student's conversation and tokens.
    The first side of `alignment` is the teacher's tokens. Both are None where the student cannot be shown
    the turn.
    """

    written: Rollout
    reading: TeacherView | None
    alignment: Alignment | None


@dataclass(frozen=True, kw_only=True, eq=False)
class ForwardKL:
    """The teacher's texts, written at the first evaluation and kept, and the student that reads them.

    `write` is `RolloutEngine.rollouts` of the teacher, drawing from its own distribution. Where ids mean the
    same to both models the student reads them as the teacher drew them, else in its own canonical tokens of
    the bytes.
    """

    write: Callable[..., list[Rollout]]
    teacher: Renderer
    student: Renderer
    scorer: TokenScorer
    """The student as it is at any time."""
    batch_tokens: int
    """Padded tokens in one pass of the scorer."""
    _kept: dict[tuple[int, str], list[TeacherText]] = field(default_factory=dict, init=False)

    def texts(self, prompts: Sequence[Prompt], *, seed: int) -> list[list[TeacherText]]:
        """What the teacher wrote to each prompt, one text a turn; written now where it was not before."""
        new = [prompt for prompt in prompts if (seed, prompt.key) not in self._kept]
        if new:
            requests = [Request(prompt=prompt, sample=0) for prompt in new]
            found: dict[tuple[int, str], list[TeacherText]] = {(seed, prompt.key): [] for prompt in new}
            for written in self.write(requests, seed=seed, step=0):
                found[seed, written.prompt.key].append(self._read(written))
            self._kept.update(found)
        return [self._kept[seed, prompt.key] for prompt in prompts]

    def measured(self, prompts: Sequence[Prompt], *, seed: int) -> list[Metrics]:
        """The figures of each prompt (`forward_metrics`) under the student as it is now."""
        texts = self.texts(prompts, seed=seed)
        scored = iter(self._scores([text for own in texts for text in own]))
        return [Metrics().merge(*(forward_metrics(text, next(scored)) for text in own)) for own in texts]

    def _read(self, written: Rollout) -> TeacherText:
        same_ids = self.student.tokenization.same_ids_as(self.teacher.tokenization)
        try:
            view = self.student.view(written, student=self.teacher, keep_ids=same_ids)
        except RenderError as error:
            logger.warning("the student cannot read the teacher's text %s: %s", written.key, error)
            return TeacherText(written=written, reading=None, alignment=None)
        return TeacherText(
            written=written,
            reading=view,
            alignment=align(written.completion, view.completion, view.correspondence),
        )

    def _scores(self, texts: Sequence[TeacherText]) -> list[Float32[np.ndarray, " N"]]:
        """The student's log-probs of each reading; NaN beyond its context, none where there is no reading."""
        limit = context_length(self.scorer.model)
        views = [text.reading for text in texts if text.reading is not None]
        spans = []
        for view in views:
            size = len(view.ids) if limit is None else min(len(view.ids), limit)
            is_stop = view.completion.event[: max(size - view.start, 0)] == Event.STOP
            spans.append(Span(ids=view.ids[:size], start=view.start, is_stop=is_stop))
        with evaluating(self.scorer.model):
            found = iter(score_spans(self.scorer, spans, batch_tokens=self.batch_tokens))
        scored = []
        for text in texts:
            size = 0 if text.reading is None else len(text.reading.completion)
            logp = np.full(size, np.nan, np.float32)
            if text.reading is not None:
                known = next(found).logp
                logp[: len(known)] = known
            scored.append(logp)
        return scored


def forward_metrics(text: TeacherText, student_logp: Float32[np.ndarray, " N"]) -> Metrics:
    """The figures of one text, as ratios that add up over texts.

    `forward_kl_per_byte`: sum of L_T - L_S over comparable chunks with finite values on both sides, stops
    included, over the bytes of those chunks (nats a byte); over the teacher's own samples its expectation is
    the forward KL of the responses. `forward_coverage`: the teacher's tokens in those chunks; what the
    student cannot spell or be shown is not among them.
    """
    written, alignment = text.written, text.alignment
    size = len(written.completion)
    if alignment is None:
        return Metrics({"forward_kl_per_byte": Ratio(0.0, 0.0), "forward_coverage": Ratio(0, size)})
    if written.behaviour_logp is None:
        raise ValueError(f"the teacher's text {written.key} has no log-probs, which a distance needs")
    teacher = chunk_sums(written.behaviour_logp, alignment.student_bounds)
    student = chunk_sums(student_logp, alignment.teacher_bounds)
    known = alignment.comparable & np.isfinite(teacher) & np.isfinite(student)
    num_bytes = int(np.diff(written.completion.bounds[alignment.student_bounds])[known].sum())
    num_tokens = int(np.diff(alignment.student_bounds)[known].sum())
    return Metrics(
        {
            "forward_kl_per_byte": Ratio(float((teacher - student)[known].sum()), num_bytes),
            "forward_coverage": Ratio(num_tokens, size),
        }
    )
