"""What a run has cost and reached so far: tokens, FLOPs, seconds, memory and the two evaluations."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from accelerate.utils import gather_object

from dragoman.evaluate import Evaluation, ratio_change_interval
from dragoman.methods import Writer
from dragoman.models.flops import pass_flops, student_lengths, teacher_lengths
from dragoman.models.loading import ModelSize, model_size
from dragoman.observe import Flops, Ratio, Record, finite
from dragoman.pipeline import Stopwatch
from dragoman.train.machine import peak_memory
from dragoman.train.setup import Session


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What of an evaluation a summary needs: its figures, and the distances prompt by prompt."""

    figures: Mapping[str, Any]
    kl: tuple[Ratio, ...]
    forward_kl: tuple[Ratio, ...] | None = None
    """None where the teacher wrote nothing."""

    @classmethod
    def of(cls, evaluation: Evaluation) -> HeldOut:
        """The extract of an evaluation."""
        forward = None if evaluation.texts is None else tuple(evaluation.ratios("forward_kl_per_byte"))
        return cls(
            figures=evaluation.summary(), kl=tuple(evaluation.ratios("kl_per_byte")), forward_kl=forward
        )

    def saved(self) -> dict[str, Any]:
        """As JSON."""
        return {"figures": self.figures, "kl": _pairs(self.kl), "forward_kl": _pairs(self.forward_kl)}

    @classmethod
    def read(cls, saved: Mapping[str, Any]) -> HeldOut:
        """What `saved` gave."""
        forward = saved.get("forward_kl")
        return cls(
            figures=saved["figures"],
            kl=tuple(Ratio(*pair) for pair in saved["kl"]),
            forward_kl=None if forward is None else tuple(Ratio(*pair) for pair in forward),
        )


@dataclass
class Account:
    """Running totals; saved with every checkpoint so that a resumed run reports the whole."""

    student: ModelSize
    teacher: ModelSize
    teacher_reference: ModelSize | None
    started: float
    seconds_before: float = 0.0
    flops: Flops = field(default_factory=Flops)
    tokens: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    before: HeldOut | None = None
    after: HeldOut | None = None

    @classmethod
    def start(cls, session: Session) -> Account:
        """Nothing spent yet."""
        reference = session.teacher.reference
        return cls(
            student=model_size(session.model),
            teacher=model_size(session.teacher.model),
            teacher_reference=None if reference is None else model_size(reference.model),
            started=time.perf_counter(),
        )

    @classmethod
    def resume(cls, session: Session, saved: Mapping[str, Any]) -> Account:
        """Go on from the totals of a checkpoint."""
        account = cls.start(session)
        account.seconds_before = saved["seconds"]
        account.flops = Flops(**saved["flops"])
        account.tokens = Counter(saved["tokens"])
        account.dropped = Counter(saved["dropped"])
        account.stages = Counter(saved["seconds_by_stage"])
        if saved["before"] is not None:
            account.before = HeldOut.read(saved["before"])
        return account

    def add_step(self, session: Session, records: Sequence[Record], watch: Stopwatch) -> None:
        """Add a training step: sampling, scoring and `epochs` updates of the records of all ranks.

        Each turn of a conversation is a sequence of its own. To score recorded turns costs the student what
        it costs to sample them. `teacher` is all scoring: references of either side count there.
        """
        writer = self.teacher if session.method.writer is Writer.TEACHER else self.student
        sampled = (
            0 if session.config.rollout.engine == "replay" else pass_flops(writer, student_lengths(records))
        )
        compared = (
            0 if session.pipeline.reference is None else pass_flops(self.student, student_lengths(records))
        )
        flops = Flops(
            rollout=sampled,
            teacher=self._scoring(records) + compared,
            update=session.config.train.epochs
            * pass_flops(self.student, student_lengths(records), backward=True),
        )
        tokens: Counter[str] = Counter(
            student=sum(len(r.rollout.completion) for r in records),
            teacher=sum(len(r.view.completion) for r in records if r.view is not None),
            bytes=sum(len(r.rollout.completion.data) for r in records),
            rollouts=len(records),
        )
        dropped: Counter[str] = Counter()
        for record in records:
            if record.supervision is not None:
                tokens["supervised"] += int((record.supervision.weight > 0).sum())
                dropped.update(record.supervision.dropped)
        for flops_of_rank, tokens_of_rank, dropped_of_rank in gather_object([(flops, tokens, dropped)]):
            self.flops += flops_of_rank
            self.tokens.update(tokens_of_rank)
            self.dropped.update(dropped_of_rank)
        self.stages.update(watch.seconds)

    def add_evaluation(self, found: Evaluation, *, wrote: bool) -> None:
        """Add the sampling and scoring of an evaluation. `wrote`: the teacher's texts, if any, count too; a
        resumed run writes the same texts again, which it would not have done uninterrupted."""
        records = found.records
        self.flops += Flops(eval=pass_flops(self.student, student_lengths(records)))
        self.flops += Flops(eval=pass_flops(self.teacher, teacher_lengths(records)))  # no reference here
        texts = found.texts or ()
        read = [len(text.reading.ids) for text in texts if text.reading is not None]
        self.flops += Flops(eval=pass_flops(self.student, np.array(read, np.int64)))
        if wrote:
            written = [len(text.written.context_ids) + len(text.written.completion) for text in texts]
            self.flops += Flops(eval=pass_flops(self.teacher, np.array(written, np.int64)))

    def _scoring(self, records: Sequence[Record]) -> int:
        """One pass of the teacher, and of its reference if it has one."""
        lengths = teacher_lengths(records)
        reference = 0 if self.teacher_reference is None else pass_flops(self.teacher_reference, lengths)
        return pass_flops(self.teacher, lengths) + reference

    def spent(self) -> dict[str, Any]:
        """Time, tokens and arithmetic so far."""
        return {
            "seconds": self.seconds_before + time.perf_counter() - self.started,
            "seconds_by_stage": dict(self.stages),
            "tokens": dict(self.tokens),
            "flops": asdict(self.flops),
            "dropped": dict(self.dropped),
        }

    def totals(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {**self.spent(), "before": None if self.before is None else self.before.saved()}

    def summary(self, session: Session) -> dict[str, Any]:
        """The content of `summary.json`; None for what nothing was counted for."""
        config = session.config
        values: dict[str, Any] = {
            "method": config.method.name,
            "student": config.student.model,
            "teacher": config.teacher.model,
            "steps": config.train.steps,
            "threads": asdict(session.threads),
            **self.spent(),
            "before": None if self.before is None else self.before.figures,
            "after": None if self.after is None else self.after.figures,
            "change": self._change(),
            "peak_memory_bytes": peak_memory(session.accelerator.device),
        }
        return {name: finite(value) for name, value in values.items()}

    def _change(self) -> dict[str, Any] | None:
        """Relative changes of the held-out distances, with intervals paired by prompt."""
        if self.before is None or self.after is None:
            return None
        before, after = self.before, self.after
        found = {
            "relative": after.figures["kl_per_byte"] / before.figures["kl_per_byte"] - 1.0,
            "relative_ci": list(ratio_change_interval(before.kl, after.kl)),
        }
        if before.forward_kl is not None and after.forward_kl is not None:
            name = "forward_kl_per_byte"
            found["forward_relative"] = after.figures[name] / before.figures[name] - 1.0
            found["forward_relative_ci"] = list(ratio_change_interval(before.forward_kl, after.forward_kl))
        return found


def _pairs(ratios: Sequence[Ratio] | None) -> list[tuple[float, float]] | None:
    return None if ratios is None else [(ratio.numerator, ratio.denominator) for ratio in ratios]
