"""The loop: sample, score, align, supervise, update; evaluate, save.

Every draw comes from (run seed, step, ...), so a run that is interrupted and resumed from a checkpoint
does what it would have done uninterrupted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from accelerate.utils import gather_object

from dragoman.config import Config
from dragoman.errors import TrainingError
from dragoman.evaluate import Evaluation, evaluate, measure
from dragoman.observe import Metrics, RunDirectory, write_records
from dragoman.train.account import Account, HeldOut
from dragoman.train.checkpoint import Checkpoints
from dragoman.train.export import save_final
from dragoman.train.optimise import sum_over_processes
from dragoman.train.overlap import Batches, saves_after
from dragoman.train.setup import Session


class Progress(Protocol):
    """Told what happens, for a progress bar; phases are `evaluate` and `train`."""

    def __call__(self, phase: str, step: int, steps: int, values: Mapping[str, float]) -> None: ...


def silent(phase: str, step: int, steps: int, values: Mapping[str, float]) -> None:
    """No progress display."""


def train(
    session: Session, run: RunDirectory, *, resume: bool = False, progress: Progress = silent
) -> dict[str, Any]:
    """Run the training of a session into a run folder and return the summary written there.

    Raises TrainingError where no token of a step has a signal, where coverage is below
    `train.min_coverage`, and before any update that is not finite.
    """
    config = session.config
    main = session.accelerator.is_main_process
    checkpoints = Checkpoints(run.path / "checkpoints", keep=config.train.keep_checkpoints)
    first, account = 0, Account.start(session)
    if resume:
        if (latest := checkpoints.latest()) is not None:
            first, totals = checkpoints.load(latest, session.model, session.optimizer, session.accelerator)
            account = Account.resume(session, totals)
        if main:
            keep_eval = first == 0 or _evaluates_after(config, first)
            run.truncate_after(first if latest is not None else -1, keep_eval=keep_eval)
    session.accelerator.init_trackers(config.run.project, config=_flat(config.model_dump(mode="json")))
    if first == 0 and session.heldout:
        account.before = HeldOut.of(_evaluate(session, run, account, 0, progress))
    with Batches(session) as batches:
        for step in range(first + 1, config.train.steps + 1):
            values = _step(session, run, account, batches, step)
            if main:
                run.log(step, "train", values)
            session.accelerator.log({f"train/{k}": v for k, v in values.items()}, step=step)
            progress("train", step, config.train.steps, values)
            if _evaluates_after(config, step):
                batches.rest()
                _evaluate(session, run, account, step, progress)
            if saves_after(config, step):
                _save(session, checkpoints, account, step)
    if session.heldout:
        account.after = HeldOut.of(_evaluate(session, run, account, config.train.steps, progress))
    summary = account.summary(session)
    if main:
        save_final(run.path, session.model, session.student, config, summary)
        run.write_summary(summary)
    session.accelerator.end_training()
    return summary


def _evaluates_after(config: Config, step: int) -> bool:
    """Whether there is an evaluation between this step and the next."""
    every = config.eval.every
    return every > 0 and step % every == 0 and step < config.train.steps


def _step(
    session: Session, run: RunDirectory, account: Account, batches: Batches, step: int
) -> dict[str, float]:
    config = session.config
    torch.manual_seed(
        (config.run.seed << 20) + step * session.accelerator.num_processes + session.accelerator.process_index
    )
    batch = batches.take(step)
    records, watch = batch.records, batch.watch
    found = Metrics().merge(*map(measure, records))
    if config.train.max_staleness:
        found = found.merge(batch.metrics)
    measured = _over_ranks(session, found)
    _check_signal(session, measured, step)
    with watch.stage("update"):
        updated = session.updater.update(records, step)
    account.add_step(session, records, watch)
    if session.accelerator.is_main_process and config.run.log_rollouts:
        write_records(run.rollouts_path(step), records[: config.run.log_rollouts])
    values = measured.values() | _over_ranks(session, updated).values()
    return values | {f"seconds_{name}": seconds for name, seconds in watch.seconds.items()}


def _check_signal(session: Session, measured: Metrics, step: int) -> None:
    values = measured.values()
    dropped = {k.removeprefix("dropped/"): v for k, v in values.items() if k.startswith("dropped/") and v > 0}
    reasons = ", ".join(f"{name} {share:.1%}" for name, share in dropped.items()) or "empty responses"
    if not values["supervised_rate"] > 0:
        raise TrainingError(
            f"step {step}: not one student token has a signal ({reasons}), so there is nothing to learn "
            "from. Look at the alignment of a response with `dragoman align --student ... --teacher ... TEXT`"
        )
    if (coverage := values.get("coverage", 1.0)) < session.config.train.min_coverage:
        raise TrainingError(
            f"step {step}: coverage {coverage:.1%} is below train.min_coverage "
            f"{session.config.train.min_coverage:.1%} ({reasons})"
        )


def _evaluate(
    session: Session, run: RunDirectory, account: Account, step: int, progress: Progress
) -> Evaluation:
    config = session.config
    progress("evaluate", step, config.train.steps, {})
    start = time.perf_counter()
    found = evaluate(
        session.heldout_pipeline,
        session.heldout,
        samples=config.eval.samples,
        seed=config.eval.seed,
        forward=session.forward,
    )
    account.add_evaluation(found, wrote=step == 0)
    values = found.flat() | {"seconds": time.perf_counter() - start}
    if session.accelerator.is_main_process:
        run.log(step, "eval", values)
    session.accelerator.log({f"eval/{k}": v for k, v in values.items()}, step=step)
    progress("evaluate", step, config.train.steps, values)
    return found


def _save(session: Session, checkpoints: Checkpoints, account: Account, step: int) -> None:
    if session.accelerator.is_main_process:
        checkpoints.save(step, session.model, session.optimizer, session.accelerator, account.totals())
    session.accelerator.wait_for_everyone()


def _over_ranks(session: Session, metrics: Metrics) -> Metrics:
    """The same ratios with numerators and denominators summed over ranks."""
    accelerator = session.accelerator
    if accelerator.num_processes == 1:
        return metrics
    names = sorted(set(gather_object(metrics.names)))
    return Metrics.from_vector(names, sum_over_processes(accelerator, metrics.to_vector(names)))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys and plain values, which every tracker takes."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            values |= _flat(value, f"{prefix}{key}.")
        else:
            values[prefix + key] = value if isinstance(value, str | int | float) else str(value)
    return values
