"""Two processes make the same run as one: same losses, same figures, one run folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dragoman.api import Distillation

pytestmark = pytest.mark.slow

Run = Callable[..., Distillation]
ReadMetrics = Callable[[Path], list[dict[str, Any]]]

COMMAND = Path(sys.executable).parent / "dragoman"
TOLD = {"ACCELERATE_USE_CPU": "true"}
"""What `accelerate launch --cpu` sets; `torchrun` alone does not."""


@pytest.fixture
def config(tree: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "two.yaml"
    path.write_text(json.dumps(tree), encoding="utf-8")
    return path


def on_two(config: Path, environment: Mapping[str, str], *overrides: str) -> tuple[int, str]:
    """Train on two processes that talk by gloo; returns the exit code and what stood on stderr."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.Popen(
        [*launcher, str(COMMAND), "train", str(config), *overrides],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=20)
        pytest.fail("the two processes waited for each other")
    return process.returncode, errors


@pytest.mark.parametrize(
    ("method", "environment", "staleness"),
    [("span", {}, 0), ("sft", TOLD, 0), ("span", {}, 1)],
    ids=["torchrun", "accelerate", "a batch ahead"],
)
def test_two_processes_equal_one(
    run: Run,
    metrics: ReadMetrics,
    config: Path,
    tmp_path: Path,
    method: str,
    environment: Mapping[str, str],
    staleness: int,
) -> None:
    two = tmp_path / "two"
    # of 4 rollouts a step each process has 2, and one minibatch of each of them
    changes = {"method.name": method, "train.save_every": 1, "train.minibatches": 1}
    if staleness:  # no batch is begun before a checkpoint that lies in front of it
        changes |= {"train.max_staleness": staleness, "train.steps": 4, "train.save_every": 3}
    if method == "span":  # long enough for a share and a penalty, which are those of the whole step
        changes["rollout.max_new_tokens"] = 32
    overrides = [f"{key}={value}" for key, value in changes.items()]
    code, errors = on_two(config, environment, f"run.dir={two}", "run.threads=null", *overrides)
    assert code == 0, errors[-3000:]
    one = run("one", changes)
    expected, found = metrics(one.path), metrics(two)
    places = [[(line["phase"], line["step"]) for line in lines] for lines in (found, expected)]
    assert places[0] == places[1]
    for line, other in zip(found, expected, strict=True):
        assert line.keys() == other.keys()
        for name, value in other.items():
            if isinstance(value, float):
                assert line[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
            else:
                assert line[name] == value, name
    weights, others = (load_file(path / "final" / "model.safetensors") for path in (two, one.path))
    for name, value in others.items():
        torch.testing.assert_close(weights[name], value, atol=1e-4, rtol=0)
    kept = ["step-000003", "step-000004"] if staleness else ["step-000001", "step-000002"]
    assert sorted(path.name for path in (two / "checkpoints").iterdir()) == kept
    summary = json.loads((two / "summary.json").read_text())
    for name in ("tokens", "dropped", "flops"):
        assert summary[name] == one.summary[name]


def test_every_process_needs_a_rollout_for_each_optimiser_step(config: Path) -> None:
    code, errors = on_two(config, TOLD, "train.prompts_per_step=3", "train.minibatches=2")
    assert code != 0
    assert "error: " in errors
    assert "train.minibatches" in errors
