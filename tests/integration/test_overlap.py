"""The next batch scored while an update runs: which weights sampled it, and what may not depend on that."""

from __future__ import annotations

import json
import logging
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dragoman.api import Distillation
from dragoman.config import Config
from dragoman.errors import DataError, UsageError
from dragoman.models import load_teacher
from dragoman.observe import Metrics, Record, RunDirectory, read_records
from dragoman.pipeline import Pipeline
from dragoman.rollout import Request
from dragoman.teach import Teacher
from dragoman.train import Session, build_session, train
from dragoman.types import Rollout, TeacherScores, TeacherView

Run = Callable[..., Distillation]
Configured = Callable[..., Config]
ReadMetrics = Callable[[Path], list[dict[str, Any]]]

AHEAD = {"train.max_staleness": 1, "train.steps": 4, "data.heldout": None}
PATIENCE = 20.0
"""Seconds after which what is waited for will not come."""


class Apart:
    """A teacher elsewhere: the one in this process, behind something that is called before each pass."""

    def __init__(self, teacher: Teacher, before: Callable[[int], None]) -> None:
        self.name, self.caps, self.view = teacher.name, teacher.caps, teacher.view
        self._teacher, self._before, self._calls = teacher, before, 0

    def score(self, views: Sequence[TeacherView]) -> list[TeacherScores]:
        self._calls += 1
        self._before(self._calls)
        return self._teacher.score(views)


def session_with(config: Config, tmp_path: Path, before: Callable[[int], None]) -> Session:
    session = build_session(config, tmp_path / "run")
    pipeline = replace(session.pipeline, teacher=Apart(session.pipeline.teacher, before))
    return replace(session, pipeline=pipeline)


def new_run(config: Config, tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", config.to_json(), config.to_json())


def versions(path: Path) -> list[int]:
    """The version of the weights that sampled each step."""
    found = []
    for file in sorted((path / "rollouts").iterdir()):
        (version,) = {record.rollout.policy_version for record in read_records(file)}
        found.append(version)
    return found


def helpers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("dragoman-teacher")]


def by_step(lines: list[dict[str, Any]], name: str) -> list[Any]:
    return [line[name] for line in lines if line["phase"] == "train"]


def test_a_batch_is_as_stale_as_its_version_says(run: Run, metrics: ReadMetrics) -> None:
    found = run(changes=AHEAD)
    assert versions(found.path) == [1, 1, 2, 3]
    assert by_step(metrics(found.path), "staleness") == [0, 1, 1, 1]
    assert not helpers()


def test_checkpoints_and_evaluations_see_no_batch_begun_before_them(run: Run, metrics: ReadMetrics) -> None:
    found = run(changes=AHEAD | {"train.save_every": 2})
    # the batch of step 3 is that of a run resumed behind step 2
    assert versions(found.path) == [1, 1, 3, 3]
    assert by_step(metrics(found.path), "staleness") == [0, 1, 0, 1]


def test_weights_that_sampled_are_those_of_the_version(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(AHEAD)
    session = session_with(config, tmp_path, lambda call: None)
    sampled_by: list[float] = []
    version = {_fingerprint(session): 1}
    rollouts, update = session.pipeline.engine.rollouts, session.updater.update

    def seen(requests: Sequence[Request], *, seed: int, step: int) -> list[Rollout]:
        sampled_by.append(_fingerprint(session))
        return rollouts(requests, seed=seed, step=step)

    def updated(records: Sequence[Record], step: int) -> Metrics:
        found = update(records, step)
        version[_fingerprint(session)] = step + 1
        return found

    monkeypatch.setattr(session.pipeline.engine, "rollouts", seen)
    monkeypatch.setattr(session.updater, "update", updated)
    train(session, new_run(config, tmp_path))
    assert [version[one] for one in sampled_by] == versions(tmp_path / "run") == [1, 1, 2, 3]


def _fingerprint(session: Session) -> float:
    return float(sum(p.detach().double().abs().sum() for p in session.model.parameters()))


def test_the_loss_has_the_ratio_to_the_weights_that_sampled(run: Run, metrics: ReadMetrics) -> None:
    """The first optimiser step on a batch: without staleness the student is what sampled it."""
    ahead, off = (
        metrics(run("ahead", AHEAD).path),
        metrics(run("off", AHEAD | {"train.max_staleness": 0}).path),
    )
    assert max(by_step(off, "policy_shift")) < 1e-5
    assert by_step(off, "policy_ratio") == pytest.approx([1.0] * 4, abs=1e-5)
    shifts = by_step(ahead, "policy_shift")
    assert shifts[0] < 1e-5 and min(shifts[1:]) > 1e-3
    assert all(abs(ratio - 1.0) > 1e-5 for ratio in by_step(ahead, "policy_ratio")[1:])
    assert "staleness" not in off[0]


def test_weights_that_do_not_move_give_what_one_thing_after_another_gives(
    run: Run, metrics: ReadMetrics
) -> None:
    still = AHEAD | {"train.lr": 0.0, "data.heldout": None}
    ahead, off = (
        metrics(run(str(staleness), still | {"train.max_staleness": staleness}).path) for staleness in (1, 0)
    )
    assert [{k: v for k, v in line.items() if k != "staleness"} for line in ahead] == off


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="credits"),
        pytest.param({"student.lora": {"r": 2, "dropout": 0.5}, "method.reference_kl": 0.1}, id="dropout"),
        pytest.param({"method.name": "canon"}, id="rows"),
        pytest.param({"method.name": "gold"}, id="full rows"),
    ],
)
def test_the_same_configuration_gives_the_same_run(
    run: Run, metrics: ReadMetrics, changes: Mapping[str, Any]
) -> None:
    first, second = run("first", AHEAD | changes), run("second", AHEAD | changes)
    assert metrics(first.path) == metrics(second.path)
    one, two = (load_file(next(found.model.glob("*model.safetensors"))) for found in (first, second))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_resumed_equals_uninterrupted(run: Run, metrics: ReadMetrics) -> None:
    changes = AHEAD | {"train.steps": 5, "train.save_every": 2, "train.schedule": "cosine"}
    expected = run("whole", changes)

    def cut(phase: str, step: int, steps: int, values: Mapping[str, float]) -> None:
        if step == 4 and values:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run("cut", changes, progress=cut)
    assert not helpers()
    found = run("cut", changes, resume=True)
    assert metrics(found.path) == metrics(expected.path)
    assert versions(found.path) == versions(expected.path) == [1, 1, 3, 3, 5]
    one, two = (load_file(each.model / "model.safetensors") for each in (found, expected))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_teacher_scores_while_the_update_runs(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each waits for the other to have begun, which two stages in turn never would."""
    updating, scoring = threading.Event(), threading.Event()
    met = []

    def before(call: int) -> None:
        if call == 2:
            scoring.set()
            met.append(updating.wait(PATIENCE))

    config = configured(AHEAD | {"train.steps": 2})
    session = session_with(config, tmp_path, before)
    update = session.updater.update

    def updated(records: Sequence[Record], step: int) -> Metrics:
        if step == 1:
            updating.set()
            met.append(scoring.wait(PATIENCE))
        return update(records, step)

    monkeypatch.setattr(session.updater, "update", updated)
    with caplog.at_level(logging.WARNING):
        train(session, new_run(config, tmp_path))
    assert met == [True, True]
    assert "max_staleness" not in caplog.text  # this teacher is elsewhere


def test_an_error_beside_the_update_ends_the_run_where_it_would_have_been(
    configured: Configured, tmp_path: Path
) -> None:
    def broken(call: int) -> None:
        if call == 2:
            raise DataError("the teacher has hung up")

    config = configured(AHEAD)
    with pytest.raises(DataError, match="hung up") as raised:
        train(session_with(config, tmp_path, broken), new_run(config, tmp_path))
    assert "in broken" in "".join(traceback.format_exception(raised.value))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1]  # the update of step 1 is whole
    assert not helpers()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError])
def test_nothing_runs_on_behind_a_run_that_has_ended(
    configured: Configured, tmp_path: Path, kind: type[BaseException]
) -> None:
    calls: list[int] = []

    def stop(phase: str, step: int, steps: int, values: Mapping[str, float]) -> None:
        raise kind

    config = configured(AHEAD)
    session = session_with(config, tmp_path, calls.append)
    with pytest.raises(kind):
        train(session, new_run(config, tmp_path), progress=stop)
    assert not helpers()
    assert calls in ([1], [1, 2])


def test_evaluations_wait_for_the_teacher(configured: Configured, tmp_path: Path) -> None:
    """Nobody asks a teacher while it scores: its calls, those of evaluations too, come one at a time."""
    config = configured({"train.max_staleness": 1, "train.steps": 3, "eval.every": 1})
    session = build_session(config, tmp_path / "run")
    at_work = threading.Lock()
    alone: list[bool] = []

    class Watched(Apart):
        def score(self, views: Sequence[TeacherView]) -> list[TeacherScores]:
            alone.append(at_work.acquire(blocking=False))
            try:
                return super().score(views)
            finally:
                at_work.release()

    def watched(pipeline: Pipeline, seconds: float) -> Pipeline:
        return replace(pipeline, teacher=Watched(pipeline.teacher, lambda call: time.sleep(seconds)))

    session = replace(
        session,
        pipeline=watched(session.pipeline, 0.5),
        heldout_pipeline=watched(session.heldout_pipeline, 0.0),
    )
    train(session, new_run(config, tmp_path))
    assert alone == [True] * 7  # three batches, four evaluations


def test_a_teacher_on_the_students_device_is_pointed_out_once(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        run(changes=AHEAD)
    assert caplog.text.count("train.max_staleness gains nothing here") == 1
    assert "teacher.device to another" in caplog.text


def test_a_method_that_scores_nothing_is_refused(run: Run) -> None:
    with pytest.raises(UsageError, match="method 'sft' scores nothing"):
        run(changes=AHEAD | {"method.name": "sft"})


def test_teacher_and_reference_are_where_the_configuration_says(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device itself is a stand-in, as this machine may have no other."""
    seen: list[torch.device] = []
    elsewhere = torch.device("cuda", 1)
    monkeypatch.setattr("dragoman.train.setup.teacher_device", lambda config, student: elsewhere)

    def load(config: Any, *, device: torch.device) -> Any:
        seen.append(device)
        return load_teacher(config, device=torch.device("cpu"))

    def load_other(config: Any, renderer: Any, device: torch.device) -> None:
        seen.append(device)

    monkeypatch.setattr("dragoman.train.setup.load_teacher", load)
    monkeypatch.setattr("dragoman.train.setup.load_reference", load_other)
    session = build_session(configured({}), tmp_path / "run")
    assert seen == [elsewhere, elsewhere] and session.model.device.type == "cpu"
