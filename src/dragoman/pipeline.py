"""One pass through the house: requests become rollouts, views, scores, alignments and supervision."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from dragoman.alignment import align
from dragoman.config import MethodConfig
from dragoman.errors import RenderError
from dragoman.methods import Method, Supervise, Writer
from dragoman.observe import Record
from dragoman.render import Renderer
from dragoman.rollout import Request, RolloutEngine, StudentReference
from dragoman.supervise import supervise_answer
from dragoman.supervise.room import check_row_room
from dragoman.supervise.settle import Add, alone, settle
from dragoman.teach import Resting, Teacher
from dragoman.text.pair import PairTables
from dragoman.types import DropReason, Rollout, Supervision, TeacherScores, TeacherView

logger = logging.getLogger(__name__)

FULL_ROW_VALUES = 2**27
"""What is kept for full teacher rows at once: half a gigabyte of float32."""


@dataclass
class Stopwatch:
    """Seconds spent by stage, and by parts of stages; `dragoman profile` has one that looks at more."""

    seconds: dict[str, float] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        with self.measured(name, self.seconds):
            yield

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of the block, which is within a stage, to a part."""
        with self.measured(name, self.parts):
            yield

    @contextmanager
    def measured(self, name: str, seconds: dict[str, float]) -> Iterator[None]:
        """Add the time of the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True, kw_only=True)
class SampledBatch:
    """Responses of a step in the order of their requests, and the teacher's view of each; None where its
    template refuses one, and throughout where nothing is scored."""

    step: int
    rollouts: Sequence[Rollout]
    views: Sequence[TeacherView | None]


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """The stages before the loss. With a `writer` other than the student, its answers become the student's
    and are not scored. With a `reference`, rollouts are scored by the student before training as well."""

    student: Renderer
    engine: RolloutEngine
    teacher: Teacher
    supervise: Supervise | None
    writer: Renderer | None = None
    reference: StudentReference | None = None
    add: Add = alone
    """Over the processes that share a step."""
    row_width: int = 0
    """Candidates of a row that nothing but the vocabulary limits; 0 where they are limited."""

    def records(
        self, requests: Sequence[Request], *, seed: int, step: int, watch: Stopwatch | None = None
    ) -> list[Record]:
        """Everything known about the responses to some requests, in their order."""
        watch = watch or Stopwatch()
        return self.settled(self.scored(self.sampled(requests, seed=seed, step=step, watch=watch), watch))

    def sampled(self, requests: Sequence[Request], *, seed: int, step: int, watch: Stopwatch) -> SampledBatch:
        """The half of `records` that reads the student's weights: responses, with the teacher's views."""
        with watch.stage("rollout"):
            rollouts = self.engine.rollouts(requests, seed=seed, step=step)
        if self.supervise is None:
            answers = [answer_for_student(rollout, self.student, self.writer) for rollout in rollouts]
            return SampledBatch(step=step, rollouts=answers, views=[None] * len(answers))
        if self.reference is not None:
            with watch.stage("reference"):
                rollouts = self.reference.scored(rollouts)
        with watch.stage("teacher"), watch.part("render"):
            views = [self._view(rollout) for rollout in rollouts]
        return SampledBatch(step=step, rollouts=rollouts, views=views)

    def scored(self, batch: SampledBatch, watch: Stopwatch) -> list[Record]:
        """The half of `records` that reads no weights but the teacher's, draws nothing and asks no other
        process, so that it may run beside an update. Raises ConfigError for rows that would take too much
        memory, before any is made."""
        if self.supervise is None:
            answers = batch.rollouts
            return [Record(rollout=a, supervision=supervise_answer(a), step=batch.step) for a in answers]
        check_row_room(sum(len(rollout.completion) for rollout in batch.rollouts), self.row_width)
        records = []
        for group in full_row_groups(batch.views, self.teacher.caps.full_row):
            rollouts, views = batch.rollouts[group], batch.views[group]
            with watch.stage("teacher"):
                scores = deque(self.teacher.score([view for view in views if view is not None]))
            with watch.stage("align"):
                for rollout, view in zip(rollouts, views, strict=True):
                    if view is None:
                        records.append(Record(rollout=rollout, supervision=refused(rollout), step=batch.step))
                    else:
                        records.append(self._record(rollout, view, scores.popleft(), batch.step, watch))
        if isinstance(self.teacher, Resting):
            with watch.stage("teacher"):
                self.teacher.rest()
        return records

    def settled(self, records: Sequence[Record]) -> list[Record]:
        """The records with what the supervisions of a whole step have to share: the first process to be done
        waits here, in no stage, for the slowest."""
        if self.supervise is None:
            return list(records)
        settled = iter(settle([r.supervision for r in records if r.supervision is not None], self.add))
        return [r if r.supervision is None else replace(r, supervision=next(settled)) for r in records]

    def _record(
        self, rollout: Rollout, view: TeacherView, scores: TeacherScores, step: int, watch: Stopwatch
    ) -> Record:
        """A scored response with its supervision; the teacher's full rows end here."""
        assert self.supervise is not None
        alignment = align(rollout.completion, view.completion, view.correspondence)
        known = replace(scores, tokens=view.completion)
        with watch.part("supervise"):
            supervision = self.supervise(rollout, known, alignment)
        return Record(
            rollout=rollout,
            view=view,
            scores=replace(scores, full_logp=None),
            alignment=alignment,
            supervision=supervision,
            step=step,
        )

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


def full_row_groups(views: Sequence[TeacherView | None], full_row: int) -> list[slice]:
    """Stretches of views that are scored and supervised together.

    What teachers keep for the full rows of more than one stretch, `full_row` values a teacher token, never
    exists at once; a stretch holds at most `FULL_ROW_VALUES` of them, or one view. Without full rows there is
    one stretch.
    """
    starts, values = [0], 0
    for place, view in enumerate(views):
        size = 0 if view is None else len(view.completion) * full_row
        if values and values + size > FULL_ROW_VALUES:
            starts.append(place)
            values = 0
        values += size
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], len(views)], strict=True)]


def refused(rollout: Rollout) -> Supervision:
    """No signal at all, as the teacher's template refuses the conversation."""
    size = len(rollout.completion)
    return Supervision(
        weight=np.zeros(size, np.float32),
        reason=np.full(size, DropReason.REFUSED, np.uint8),
        chunk_of=np.arange(size),
        credit=np.zeros(size, np.float32),
    )


def supervisor(method: Method, config: MethodConfig, tables: PairTables) -> Supervise | None:
    """The supervision of a method for a pair; None where the teacher writes and nothing is scored."""
    return None if method.writer is Writer.TEACHER else method.build(tables, config)


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
