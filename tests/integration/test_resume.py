"""A run that is interrupted and resumed does what it would have done uninterrupted, to the last bit."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dragoman.api import Distillation
from dragoman.errors import CheckpointError, UsageError

Run = Callable[..., Distillation]
Metrics = Callable[[Path], list[dict[str, Any]]]

FOUR = {"train.steps": 4, "train.save_every": 2, "train.schedule": "cosine", "eval.every": 2}


class PowerCutError(Exception):
    """What ends a run from outside."""


def cut_at(step: int, phase: str = "train") -> Callable[..., None]:
    """A progress display that ends the run once `step` is done."""

    def progress(seen: str, number: int, steps: int, values: Mapping[str, float]) -> None:
        if (seen, number) == (phase, step) and values:
            raise PowerCutError

    return progress


def result(found: Distillation) -> dict[str, Any]:
    """The summary without time and memory."""
    summary = json.loads((found.path / "summary.json").read_text())
    return {
        key: value
        for key, value in summary.items()
        if key not in ("seconds", "seconds_by_stage", "peak_memory_bytes")
    }


def assert_same_run(found: Distillation, expected: Distillation, metrics: Metrics) -> None:
    assert metrics(found.path) == metrics(expected.path)
    assert result(found) == result(expected)
    got, wanted = (load_file(next(run.model.glob("*model.safetensors"))) for run in (found, expected))
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)
    for name in sorted(path.name for path in (expected.path / "rollouts").iterdir()):
        mine, other = ((run.path / "rollouts" / name).read_bytes() for run in (found, expected))
        assert mine == other


@pytest.mark.parametrize(
    ("changes", "cut"),
    [
        pytest.param(FOUR, 3, id="a step after a checkpoint is lost"),
        pytest.param(FOUR | {"train.save_every": 1}, 3, id="cut before the checkpoint of the step"),
        pytest.param(FOUR | {"train.save_every": 3, "method.name": "sft"}, 4, id="the teacher writes"),
        pytest.param(
            FOUR | {"train.minibatches": 2, "student.lora": {"r": 2, "dropout": 0.5}},
            3,
            id="dropout",
        ),
    ],
)
def test_resumed_equals_uninterrupted(run: Run, metrics: Metrics, changes: dict[str, Any], cut: int) -> None:
    expected = run("whole", changes)
    with pytest.raises(PowerCutError):
        run("cut", changes, progress=cut_at(cut))
    assert not (expected.path.parent / "cut" / "final").exists()
    found = run("cut", changes, resume=True)
    assert_same_run(found, expected, metrics)


def test_without_a_checkpoint_the_run_starts_again(run: Run, metrics: Metrics) -> None:
    changes = {"train.steps": 2}
    expected = run("whole", changes)
    with pytest.raises(PowerCutError):
        run("cut", changes, progress=cut_at(1))
    assert_same_run(run("cut", changes, resume=True), expected, metrics)


def test_a_finished_run_can_be_finished_again(run: Run, metrics: Metrics) -> None:
    expected = run("whole", FOUR)
    before = metrics(expected.path), result(expected)
    found = run("whole", FOUR, resume=True)
    assert (metrics(found.path), result(found)) == before


def test_a_longer_run_goes_on_from_a_finished_one(run: Run, metrics: Metrics) -> None:
    changes = FOUR | {"train.schedule": "constant", "data.heldout": None, "eval.every": 0}
    expected = run("whole", changes)
    run("short", changes | {"train.steps": 2})
    assert_same_run(run("short", changes, resume=True), expected, metrics)
    assert (expected.path.parent / "short" / "config.resolved.1.json").is_file()


def test_a_broken_checkpoint_is_named_and_the_one_before_serves(run: Run, metrics: Metrics) -> None:
    changes = FOUR | {"train.save_every": 1}
    expected = run("whole", changes)
    with pytest.raises(PowerCutError):
        run("cut", changes, progress=cut_at(4))
    broken = expected.path.parent / "cut" / "checkpoints" / "step-000003"
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"step-000003 cannot be read: .*remove it to use the one"):
        run("cut", changes, resume=True)
    for file in broken.iterdir():
        file.unlink()
    broken.rmdir()
    assert_same_run(run("cut", changes, resume=True), expected, metrics)


def test_there_must_be_something_to_resume(run: Run) -> None:
    with pytest.raises(UsageError, match=r"nothing to resume in .*: it has no config"):
        run("none", resume=True)
