"""One pass through the house: requests become rollouts, views, scores, alignments and supervision."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from dragoman.alignment import align
from dragoman.config import MethodConfig
from dragoman.errors import RenderError
from dragoman.methods import Method, Writer
from dragoman.observe import Record
from dragoman.render import Renderer
from dragoman.rollout import Request, RolloutEngine
from dragoman.supervise import Guard, SampledSettings, supervise_answer, supervise_sampled
from dragoman.teach import Teacher
from dragoman.types import Alignment, DropReason, Rollout, Supervision, TeacherScores, TeacherView

logger = logging.getLogger(__name__)


@dataclass
class Stopwatch:
    """Seconds spent by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


Supervise = Callable[[Rollout, TeacherScores, Alignment], Supervision]


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """The stages before the loss. With a `writer` other than the student, its answers become the student's
    and are not scored."""

    student: Renderer
    engine: RolloutEngine
    teacher: Teacher
    supervise: Supervise | None
    writer: Renderer | None = None

    def records(
        self, requests: Sequence[Request], *, seed: int, step: int, watch: Stopwatch | None = None
    ) -> list[Record]:
        """Everything known about the responses to some requests, in their order."""
        watch = watch or Stopwatch()
        with watch.stage("rollout"):
            rollouts = self.engine.rollouts(requests, seed=seed, step=step)
        if self.supervise is None:
            answers = [answer_for_student(rollout, self.student, self.writer) for rollout in rollouts]
            return [Record(rollout=a, supervision=supervise_answer(a), step=step) for a in answers]
        with watch.stage("teacher"):
            views = [self._view(rollout) for rollout in rollouts]
            scores = iter(self.teacher.score([view for view in views if view is not None]))
        records = []
        with watch.stage("align"):
            for rollout, view in zip(rollouts, views, strict=True):
                if view is None:
                    records.append(Record(rollout=rollout, supervision=refused(rollout), step=step))
                    continue
                score = next(scores)
                alignment = align(rollout.completion, view.completion, view.correspondence)
                records.append(
                    Record(
                        rollout=rollout,
                        view=view,
                        scores=score,
                        alignment=alignment,
                        supervision=self.supervise(rollout, score, alignment),
                        step=step,
                    )
                )
        return records

    def _view(self, rollout: Rollout) -> TeacherView | None:
        """The teacher's view; None where its template refuses what the student's earlier turns have made
        (two calls at once, say). Of a first turn it is the data that is wrong, and the error is raised.
        """
        try:
            return self.teacher.view(rollout)
        except RenderError as error:
            if rollout.turn == 0:
                raise
            logger.warning("rollout %s has no signal: %s", rollout.key, error)
            return None


def refused(rollout: Rollout) -> Supervision:
    """No signal at all, as the teacher's template refuses the conversation."""
    size = len(rollout.completion)
    return Supervision(
        weight=np.zeros(size, np.float32),
        reason=np.full(size, DropReason.REFUSED, np.uint8),
        chunk_of=np.arange(size),
        credit=np.zeros(size, np.float32),
    )


def supervisor(method: Method, config: MethodConfig) -> Supervise | None:
    """The supervision of a method; None where the teacher writes and nothing is scored."""
    if method.writer is Writer.TEACHER or method.credit is None:
        return None
    settings = SampledSettings(
        credit=method.credit,
        guard=Guard(config.guard),
        guard_penalty=config.guard_penalty,
        clamp=config.clamp,
        max_chunk_tokens=config.max_chunk_tokens,
        mask_normalised=config.normalised == "mask",
    )
    return lambda rollout, scores, alignment: supervise_sampled(rollout, scores, alignment, settings)


def answer_for_student(rollout: Rollout, student: Renderer, writer: Renderer | None) -> Rollout:
    """A teacher's response as the student would have written it: its own ids, prompt, and markers of thinking
    and tool calls."""
    view = student.view(rollout, student=writer)
    return replace(
        rollout,
        context_ids=view.ids[: view.start],
        completion=view.completion,
        behaviour_logp=None,
        entropy=None,
        stop_logp=None,
    )
