"""One pass through the house: requests become rollouts, views, scores, alignments and supervision."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from dragoman.alignment import align
from dragoman.config import MethodConfig
from dragoman.methods import Method, Writer
from dragoman.observe import Record
from dragoman.render import Renderer
from dragoman.rollout import Request, RolloutEngine
from dragoman.supervise import Guard, SampledSettings, supervise_answer, supervise_sampled
from dragoman.teach import Teacher
from dragoman.types import Alignment, Rollout, Supervision, TeacherScores


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
            views = [self.teacher.view(rollout) for rollout in rollouts]
            scores = self.teacher.score(views)
        records = []
        with watch.stage("align"):
            for rollout, view, score in zip(rollouts, views, scores, strict=True):
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
