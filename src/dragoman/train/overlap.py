"""The batches of a run, the next one sampled before an update and scored while it runs, if wanted.

What reads the student's weights (sampling, references, log-probs of recorded turns) and what speaks to other
processes stays in the main thread, between two updates. A thread beside it has the teacher's scores,
alignment and supervision, which read nothing that an update writes and draw nothing. So what is in a batch
depends on no timing; that of step i + 1 was sampled by weights that are one step behind, known elsewhere as
one-step off-policy (Noukhovitch et al. 2024, arXiv 2410.18252).
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

from dragoman.config import Config
from dragoman.data import occurrences, prompt_indices
from dragoman.observe import Metrics, Ratio, Record
from dragoman.pipeline import SampledBatch, Stopwatch
from dragoman.rollout import Request
from dragoman.teach import InProcessTeacher
from dragoman.train.setup import Session

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a step is an update on. `staleness`: steps made since it was sampled."""

    records: list[Record]
    staleness: int
    watch: Stopwatch

    @property
    def metrics(self) -> Metrics:
        """`staleness`, mean over responses."""
        size = len(self.records)
        return Metrics({"staleness": Ratio(self.staleness * size, size)})


@dataclass(frozen=True, kw_only=True)
class _Begun:
    """A sampled batch; `scored` is what the thread makes of it."""

    step: int
    staleness: int
    scored: Future[list[Record]]
    watch: Stopwatch = field(default_factory=Stopwatch)


class Batches:
    """The batch of each step of a session in turn; a context that ends with its thread.

    With `train.max_staleness: 1` the next batch is sampled as soon as one is asked for, unless a checkpoint
    lies between the two: a resumed run has no other weights than those of the checkpoint, and samples what
    the uninterrupted run did.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._next: _Begun | None = None
        self._thread: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self._session.config.train.max_staleness:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dragoman-teacher")
            if is_on_student_device(self._session):
                logger.warning(
                    "train.max_staleness gains nothing here: teacher and student share the device %r and "
                    "wait for each other; set it to 0, or teacher.device to another",
                    str(self._session.model.device),
                )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Scores that nobody waits for are given up; those on their way are waited for, since a thread cannot
        be stopped within a call."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def take(self, step: int) -> Batch:
        """The batch of a step; steps come in order. Raises what its stages have raised, in either thread."""
        if self._thread is None:
            watch = Stopwatch()
            records = self._session.pipeline.records(
                step_requests(self._session, step), seed=self._session.config.run.seed, step=step, watch=watch
            )
            return Batch(records=records, staleness=0, watch=watch)
        begun = self._next or self._begin(step, self._thread)
        assert begun.step == step
        self._next = None
        config = self._session.config
        if step < config.train.steps and not saves_after(config, step):
            self._next = self._begin(step + 1, self._thread, staleness=1)
        with begun.watch.stage("wait"):
            records = begun.scored.result()
        return Batch(
            records=self._session.pipeline.settled(records), staleness=begun.staleness, watch=begun.watch
        )

    def rest(self) -> None:
        """Wait until the thread has nothing to do, so that the teacher can be asked by another."""
        if self._next is not None:
            wait([self._next.scored])

    def _begin(self, step: int, thread: ThreadPoolExecutor, staleness: int = 0) -> _Begun:
        """Sample a batch and have it scored."""
        session, watch = self._session, Stopwatch()
        sampled = session.pipeline.sampled(
            step_requests(session, step), seed=session.config.run.seed, step=step, watch=watch
        )
        if session.config.rollout.engine != "replay":
            sampled = _of_version(sampled, step - staleness)
        scored = thread.submit(session.pipeline.scored, sampled, watch)
        return _Begun(step=step, staleness=staleness, scored=scored, watch=watch)


def _of_version(batch: SampledBatch, version: int) -> SampledBatch:
    """The batch with the version of the weights that sampled it: 1 are those before the first update."""
    return replace(batch, rollouts=[replace(r, policy_version=version) for r in batch.rollouts])


def is_on_student_device(session: Session) -> bool:
    """Whether the teacher works where the student does."""
    teacher = session.pipeline.teacher
    return isinstance(teacher, InProcessTeacher) and teacher.model.device == session.model.device


def saves_after(config: Config, step: int) -> bool:
    """Whether there is a checkpoint between this step and the next."""
    every = config.train.save_every
    return every > 0 and (step % every == 0 or step == config.train.steps)


def step_requests(session: Session, step: int) -> list[Request]:
    """The responses this rank samples in a step."""
    config = session.config
    indices = prompt_indices(
        len(session.prompts), step, config.train.prompts_per_step, config.run.seed, config.data.shuffle
    )
    samples = config.rollout.samples_per_prompt
    requests = [
        Request(prompt=session.prompts[index], sample=earlier * samples + k)
        for index, earlier in zip(indices.tolist(), occurrences(indices).tolist(), strict=True)
        for k in range(samples)
    ]
    return requests[session.accelerator.process_index :: session.accelerator.num_processes]
