"""Runs that choose their numbers of threads: where each is used, and that a resumed run keeps them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from dragoman.api import Distillation
from dragoman.rollout import Request, Sampler
from dragoman.train import threads
from dragoman.train.optimise import Updater
from dragoman.train.threads import Timed, using

Run = Callable[..., Distillation]
ReadMetrics = Callable[[Path], list[dict[str, Any]]]

CHOOSES = {"run.threads": None, "data.heldout": None}


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A machine on which one thread pays while sampling and two otherwise, of three; the rows asked for."""
    asked: list[int] = []

    def timed(*, width: int, wide: int, rows: int, dtype: torch.dtype) -> Timed:
        asked.append(rows)
        return Timed(sampling={1: 1.0, 2: 1.0}, other={1: 1.0, 2: 0.5}, sampling_flops=1, other_flops=1)

    monkeypatch.setattr(threads, "time_threads", timed)
    monkeypatch.setattr(threads, "most_threads", lambda: 2)
    with using(3):
        yield asked


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[int]]:
    """The numbers of threads while sampling and while updating."""
    found: dict[str, set[int]] = {"sampling": set(), "other": set()}
    rollouts, update = Sampler.rollouts, Updater.update

    def sampled(self: Sampler, requests: Sequence[Request], *, seed: int, step: int) -> Any:
        found["sampling"].add(torch.get_num_threads())
        return rollouts(self, requests, seed=seed, step=step)

    def updated(self: Updater, *arguments: Any) -> Any:
        found["other"].add(torch.get_num_threads())
        return update(self, *arguments)

    monkeypatch.setattr(Sampler, "rollouts", sampled)
    monkeypatch.setattr(Updater, "update", updated)
    return found


def written(path: Path) -> Any:
    return json.loads((path / "env.json").read_text())["threads"]


def test_each_kind_of_work_has_its_own_number(
    run: Run, tree: dict[str, Any], three: list[int], seen: dict[str, set[int]]
) -> None:
    held = {"data.heldout": tree["data"]["heldout"], "eval.forward": True}
    found = run(changes=CHOOSES | held | {"rollout.batch_size": 5})
    assert three == [5]
    assert seen == {"sampling": {1}, "other": {2}}
    assert written(found.path) == found.summary["threads"] == {"sampling": 1, "other": 2}
    assert torch.get_num_threads() == 3


def test_a_resumed_run_keeps_its_numbers(
    run: Run, three: list[int], seen: dict[str, set[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = CHOOSES | {"train.save_every": 1}
    run("one", changes | {"train.steps": 1})
    monkeypatch.setattr(threads, "time_threads", lambda **shapes: pytest.fail("measured again"))
    found = run("one", changes | {"train.steps": 2}, resume=True)
    assert seen == {"sampling": {1}, "other": {2}}
    assert written(found.path) == {"sampling": 1, "other": 2}


def test_a_number_is_a_number_everywhere(run: Run, three: list[int], seen: dict[str, set[int]]) -> None:
    found = run(changes=CHOOSES | {"run.threads": 2})
    assert three == []
    assert seen == {"sampling": {2}, "other": {2}}
    assert written(found.path) == {"sampling": None, "other": None}


def test_a_thread_beside_the_update_means_one_number(
    run: Run, three: list[int], seen: dict[str, set[int]]
) -> None:
    found = run(changes=CHOOSES | {"train.max_staleness": 1})
    assert seen == {"sampling": {2}, "other": {2}}
    assert written(found.path) == {"sampling": 2, "other": 2}


def test_threads_change_nothing_but_the_rounding(run: Run, three: list[int], metrics: ReadMetrics) -> None:
    chosen = metrics(run("chosen", CHOOSES).path)
    one = metrics(run("one", CHOOSES | {"run.threads": 1}).path)
    for line, other in zip(chosen, one, strict=True):
        assert line.keys() == other.keys()
        for name, value in other.items():
            close = pytest.approx(value, rel=1e-3, abs=1e-5) if isinstance(value, float) else value
            assert line[name] == close, name


def test_what_was_chosen_is_said(call: Callable[..., Any], config: Path, three: list[int]) -> None:
    out = call("train", config, "run.threads=null", "train.steps=1", "data.heldout=null").out
    assert "threads  1 while sampling, 2 otherwise, as measured" in out.splitlines()
    assert "threads" not in call("train", config, "train.steps=1", "run.dir=" + str(config.parent / "b")).out
