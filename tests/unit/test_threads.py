"""The number of threads that pays: how it is chosen, and that nothing is left changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from dragoman.observe.environment import available_cpus
from dragoman.train.threads import (
    MOST_LAYERS,
    ROUNDS,
    ROWS,
    SECONDS,
    Threads,
    alternated,
    counts,
    fewest,
    most_threads,
    recorded_threads,
    time_threads,
    using,
)


@pytest.fixture
def two_threads() -> Iterator[None]:
    with using(2):
        yield


class Machine:
    """A clock that goes on by `seconds(threads, call)` with each piece of work."""

    def __init__(self, seconds: Callable[[int, int], float]) -> None:
        self.now, self.calls, self._seconds = 0.0, 0, seconds

    def work(self) -> None:
        self.calls += 1
        self.now += self._seconds(torch.get_num_threads(), self.calls)

    def clock(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({1: 1.0}, 1),
        ({1: 1.0, 2: 0.91}, 1),  # not a tenth
        ({1: 1.0, 2: 0.9}, 2),
        ({1: 1.0, 2: 10.0}, 1),  # a busy machine
        ({1: 1.0, 2: 0.95, 4: 0.5, 8: 0.48}, 4),
        ({1: 1.0, 2: 0.95, 4: 0.86}, 4),  # against one thread, as two do not pay
        ({8: 0.5, 1: 1.0, 2: 1.2}, 8),
    ],
)
def test_more_threads_have_to_save_a_tenth(seconds: dict[int, float], expected: int) -> None:
    assert fewest(seconds) == expected


def test_numbers_of_threads_that_are_tried() -> None:
    assert [counts(most) for most in (1, 2, 3, 6, 8)] == [
        [1],
        [1, 2],
        [1, 2, 3],
        [1, 2, 4, 6],
        [1, 2, 4, 8],
    ]


def test_times_are_medians_by_number() -> None:
    machine = Machine(lambda threads, call: 0.01 / threads)
    found = alternated(machine.work, [1, 2, 3], machine.clock)
    assert found == pytest.approx({1: 0.01, 2: 0.005, 3: 0.01 / 3})
    assert machine.calls == 1 + ROUNDS * 3 * 2


def test_one_disturbed_round_does_not_count() -> None:
    # calls of a round are begin, timed, begin, timed: each number has its disturbance
    machine = Machine(lambda threads, call: 0.01 / threads + (SECONDS / 3 if call in (3, 9) else 0.0))
    assert alternated(machine.work, [1, 2], machine.clock) == pytest.approx({1: 0.01, 2: 0.005})


def test_slow_work_is_timed_once() -> None:
    machine = Machine(lambda threads, call: 2 * SECONDS)
    assert alternated(machine.work, [1, 2], machine.clock) == pytest.approx({1: 2 * SECONDS, 2: 2 * SECONDS})
    assert machine.calls == 1 + 2 * 2


def test_the_number_of_before_comes_back(two_threads: None) -> None:
    with using(1):
        assert torch.get_num_threads() == 1
        with using(None):
            assert torch.get_num_threads() == 1
        with using(3):
            torch.ones(400, 400) @ torch.ones(400, 400)
            assert torch.get_num_threads() == 3
        assert torch.get_num_threads() == 1
    with pytest.raises(KeyError), using(1):
        raise KeyError
    assert torch.get_num_threads() == 2


def test_threads_are_limited_by_processors_torch_and_neighbours(
    two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr("dragoman.train.threads.available_cpus", lambda: 8)
    assert most_threads() == 2  # what torch has
    with using(16):
        assert most_threads() == 8
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
        assert most_threads() == 2
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
        assert most_threads() == 1


def test_quotas_of_control_groups_count(tmp_path: Path) -> None:
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    groups, membership = tmp_path / "groups", tmp_path / "membership"
    (groups / "outer" / "inner").mkdir(parents=True)
    assert available_cpus(groups, membership) == bound  # no such system
    membership.write_text("1:cpu:/other\n0::/outer/inner\n")
    (groups / "outer" / "inner" / "cpu.max").write_text("max 100000\n")
    assert available_cpus(groups, membership) == bound
    (groups / "outer" / "cpu.max").write_text("90000 100000\n")
    assert available_cpus(groups, membership) == 1  # a started one
    (groups / "outer" / "cpu.max").write_text("10000000 100000\n")
    assert available_cpus(groups, membership) == bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_measurement_leaves_no_trace(two_threads: None, dtype: torch.dtype) -> None:
    state = torch.get_rng_state()
    timed = time_threads(width=64, wide=96, rows=3, dtype=dtype)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == 2
    assert set(timed.sampling) == set(timed.other) == set(counts(most_threads()))
    assert all(seconds > 0 for times in (timed.sampling, timed.other) for seconds in times.values())
    assert timed.best.sampling in timed.sampling and timed.best.other in timed.other
    # two products of 64 x 64, two of 64 x 96
    assert timed.other_flops == 2 * ROWS * (2 * 64 * 64 + 2 * 64 * 96)
    assert timed.sampling_flops == 2 * 3 * (2 * 64 * 64 + 2 * 64 * 96) * MOST_LAYERS


def test_what_a_run_has_recorded(tmp_path: Path) -> None:
    assert recorded_threads(tmp_path) is None
    file = tmp_path / "env.json"
    file.write_text("{}")
    assert recorded_threads(tmp_path) is None
    file.write_text(json.dumps({"threads": {"sampling": None, "other": None}}))
    assert recorded_threads(tmp_path) is None  # run.threads was set
    file.write_text(json.dumps({"threads": {"sampling": 1, "other": 4}}))
    assert recorded_threads(tmp_path) == Threads(sampling=1, other=4)
