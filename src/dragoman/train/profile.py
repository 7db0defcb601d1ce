"""Where the time and the memory of a step go: real steps of a session, stage by stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from dragoman.audit.cost import seconds_when_done
from dragoman.methods import Writer
from dragoman.models.flops import head_size, pass_flops, scoring_flops, student_lengths
from dragoman.models.loading import causal_lm, model_size
from dragoman.observe import Record
from dragoman.pipeline import Stopwatch
from dragoman.train.machine import Peaks, forget_peak, layer_widths, measure_peaks, peak_memory
from dragoman.train.overlap import step_requests
from dragoman.train.setup import Session

STAGES = (
    "render",
    "rollout",
    "reference",
    "teacher",
    "align",
    "supervise",
    "forward",
    "loss",
    "backward",
    "optimiser",
    "other",
)
BOUND = 0.5
"""Share of a peak from which a stage is bounded by it."""


@dataclass(frozen=True, kw_only=True)
class StageProfile:
    """Medians over steps.

    Shares are of the machine's measured peaks, products in the precision of the update; None where nothing is
    known of the stage's operations or bytes. Known are those of a model's passes, without padding (a prompt
    counts for each of its responses, though it is read once), of the weights a decoding step reads, and of
    what the optimiser reads and writes.
    """

    seconds: float
    peak_bytes: int
    flops: int | None
    bytes: int | None
    tokens_per_second: float
    matmul_share: float | None
    copy_share: float | None
    bound_by: str


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Some steps of a run, the first one not counted."""

    steps: int
    seconds: float
    student_tokens: float
    peaks: Peaks
    stages: dict[str, StageProfile]


@dataclass
class _Watch(Stopwatch):
    """A stopwatch that waits for the device and keeps the most memory held in each stage and part."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    peaks: dict[str, int] = field(default_factory=dict)
    calls: int = 0
    """Forward passes of the writer within `rollout`."""
    _open: list[str] = field(default_factory=list)

    @contextmanager
    def measured(self, name: str, seconds: dict[str, float]) -> Iterator[None]:
        self._look()
        self._open.append(name)
        start = seconds_when_done(self.device)
        try:
            yield
        finally:
            seconds[name] = seconds.get(name, 0.0) + seconds_when_done(self.device) - start
            self._look()
            self._open.remove(name)

    def _look(self) -> None:
        """Give the peak since the last look to all that was going on."""
        held = peak_memory(self.device)
        for name in self._open:
            self.peaks[name] = max(self.peaks.get(name, 0), held)
        forget_peak(self.device)

    def by_stage(self) -> dict[str, float]:
        """Seconds of `STAGES`: parts are taken off the stages they are within; `other` is what is left of the
        update, such as making batches and the norm of gradients."""
        parts, whole = self.parts, self.seconds
        found = {
            "render": parts.get("render", 0.0),
            "rollout": whole.get("rollout", 0.0),
            "reference": whole.get("reference", 0.0),
            "teacher": whole.get("teacher", 0.0) - parts.get("render", 0.0),
            "align": whole.get("align", 0.0) - parts.get("supervise", 0.0),
            "supervise": parts.get("supervise", 0.0),
            "forward": parts.get("forward", 0.0),
            "loss": parts.get("loss", 0.0) - parts.get("forward", 0.0),
            "backward": parts.get("backward", 0.0),
            "optimiser": parts.get("optimiser", 0.0),
        }
        update = sum(parts.get(name, 0.0) for name in ("loss", "backward", "optimiser"))
        found["other"] = whole.get("update", 0.0) - update
        return {name: seconds for name, seconds in found.items() if seconds > 0.0}


def profile(session: Session, *, steps: int = 3) -> Profile:
    """Make `steps` steps of a session behind one that warms up, stage after stage whatever
    `train.max_staleness` says; its weights change, nothing is written."""
    device = session.accelerator.device
    watches, batches = [], []
    for step in range(steps + 1):
        watch = _Watch(device=device)
        with _hooks(session, watch):
            records = session.pipeline.records(
                step_requests(session, step + 1), seed=session.config.run.seed, step=step + 1, watch=watch
            )
            with watch.stage("update"):
                session.updater.update(records, step + 1, watch)
        if step:
            watches.append(watch)
            batches.append(records)
    width, wide = layer_widths(session.model)
    peaks = measure_peaks(device, _update_dtype(session), width=width, wide=wide)
    tokens = median(sum(len(r.rollout.completion) for r in records) for records in batches)
    names = [name for name in STAGES if median(watch.by_stage().get(name, 0.0) for watch in watches) > 0]
    return Profile(
        steps=steps,
        seconds=median(sum(watch.by_stage().values()) for watch in watches),
        student_tokens=tokens,
        peaks=peaks,
        stages={name: _stage(session, name, watches, batches, peaks, tokens) for name in names},
    )


@contextmanager
def _hooks(session: Session, watch: _Watch) -> Iterator[None]:
    """Count the passes of the writer, and time the student's backbone within the update."""
    writer = session.teacher.model if session.method.writer is Writer.TEACHER else session.model
    backbone = causal_lm(session.model).base_model
    running = ExitStack()

    def count(module: nn.Module, arguments: Any) -> None:
        watch.calls += "rollout" in watch._open

    def begin(module: nn.Module, arguments: Any) -> None:
        if "loss" in watch._open:
            running.enter_context(watch.part("forward"))

    def end(module: nn.Module, arguments: Any, output: Any) -> None:
        running.close()

    handles = [
        causal_lm(writer).base_model.register_forward_pre_hook(count),
        backbone.register_forward_pre_hook(begin),
        backbone.register_forward_hook(end),
    ]
    try:
        yield
    finally:
        running.close()
        for handle in handles:
            handle.remove()


def _stage(
    session: Session,
    name: str,
    watches: Sequence[_Watch],
    batches: Sequence[Sequence[Record]],
    peaks: Peaks,
    tokens: float,
) -> StageProfile:
    seconds = median(watch.by_stage().get(name, 0.0) for watch in watches)
    flops = [stage_flops(session, name, records) for records in batches]
    known = [one for one in flops if one is not None]
    read = [_bytes(session, name, watch) for watch in watches]
    moved = [one for one in read if one is not None]
    matmul_share = median(known) / seconds / peaks.matmul_flops if known else None
    copy_share = median(moved) / seconds / peaks.copy_bytes if moved else None
    return StageProfile(
        seconds=seconds,
        peak_bytes=max(watch.peaks.get(name, 0) for watch in watches),
        flops=int(median(known)) if known else None,
        bytes=int(median(moved)) if moved else None,
        tokens_per_second=tokens / seconds,
        matmul_share=matmul_share,
        copy_share=copy_share,
        bound_by=_bound(name, matmul_share, copy_share),
    )


def _bound(name: str, matmul_share: float | None, copy_share: float | None) -> str:
    """What keeps a stage from being faster, as far as shares of peaks can tell."""
    compute, memory = matmul_share or 0.0, copy_share or 0.0
    if max(compute, memory) >= BOUND:
        return "arithmetic" if compute >= memory else "memory"
    if matmul_share is None and copy_share is None:
        return "Python and numpy" if name in ("render", "align", "supervise", "other") else "not known"
    return "neither peak: small operations, padding, other kernels"


def stage_flops(session: Session, name: str, records: Sequence[Record]) -> int | None:
    """Operations of a stage without padding; None where it has no model in it."""
    student, teacher = model_size(session.model), model_size(session.teacher.model)
    writer = teacher if session.method.writer is Writer.TEACHER else student
    lengths = student_lengths(records)
    if name == "rollout":
        return pass_flops(writer, lengths) if session.config.rollout.engine != "replay" else None
    if name == "reference":
        return pass_flops(student, lengths)
    if name == "teacher":
        return scoring_flops(session.teacher.model, records)
    epochs = session.config.train.epochs
    head = 2 * head_size(session.model)
    body = epochs * (pass_flops(student, lengths) - head * int(np.sum(lengths)))
    trained = sum(int((r.supervision.weight > 0).sum()) for r in records if r.supervision is not None)
    is_head_trained = causal_lm(session.model).get_output_embeddings().weight.requires_grad
    # Frozen weights get no gradient, and activations that are not kept are made again
    share = _trained_share(session.model) + session.config.student.gradient_checkpointing
    products = {"forward": body, "backward": int(body * (1 + share))}
    products["loss"] = epochs * head * trained * (3 if is_head_trained else 2)
    return products.get(name)


def _bytes(session: Session, name: str, watch: _Watch) -> int | None:
    """Memory a stage has to move: while sampling all weights for each pass; in the optimiser weights,
    gradients and both moments, of which all but the gradients are written too. None for other stages."""
    if name == "optimiser":
        config = session.config.train
        trained = [weight for weight in session.model.parameters() if weight.requires_grad]
        moved = sum(7 * weight.numel() * weight.element_size() for weight in trained)
        return int(moved * config.epochs * config.minibatches)
    if name != "rollout" or not watch.calls:
        return None
    writer = session.teacher.model if session.method.writer is Writer.TEACHER else session.model
    element = next(writer.parameters()).element_size()
    read: int = watch.calls * model_size(writer).num_parameters * element
    return read


def _update_dtype(session: Session) -> torch.dtype:
    """The precision of products in the update; a teacher may have another."""
    own: torch.dtype = next(session.model.parameters()).dtype
    by_name = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return by_name.get(session.accelerator.mixed_precision, own)


def _trained_share(model: nn.Module) -> float:
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, is_trained in sizes if is_trained) / sum(size for size, _ in sizes)
