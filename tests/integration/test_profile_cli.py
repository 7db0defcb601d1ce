"""`dragoman profile`: what it says of a step is what a step is made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from dragoman.train.profile import STAGES, _bound, _Watch

Call = Callable[..., Any]


@pytest.mark.parametrize("method", ["span", "sft"])
def test_stages_as_json(call: Call, config: Path, student: Path, tmp_path: Path, method: str) -> None:
    before = set(tmp_path.rglob("*"))
    found = call("profile", config, "--json", "--steps", "2", f"method.name={method}")
    assert found.code == 0
    assert set(tmp_path.rglob("*")) == before
    value = json.loads(found.out)
    stages = value["stages"]
    wanted = {"rollout", "forward", "loss", "backward", "optimiser", "other"}
    if method == "span":
        wanted |= {"render", "teacher", "align", "supervise"}
    assert stages.keys() == wanted
    assert list(stages) == [name for name in STAGES if name in wanted]
    assert value["steps"] == 2
    assert value["student_tokens"] > 0
    assert sum(stage["seconds"] for stage in stages.values()) == pytest.approx(value["seconds"], rel=0.5)
    assert all(stage["seconds"] > 0 and stage["bound_by"] for stage in stages.values())
    with_models = wanted & {"rollout", "teacher", "forward", "loss", "backward"}
    assert {name for name, stage in stages.items() if stage["matmul_share"] is not None} == with_models
    assert stages["backward"]["flops"] == 2 * stages["forward"]["flops"]
    moving = {name: stage["bytes"] for name, stage in stages.items() if stage["copy_share"] is not None}
    assert moving.keys() == {"rollout", "optimiser"}
    # Weights, two moments read and written, gradients read: seven times four bytes a weight
    weights = load_file(student / "model.safetensors")
    assert moving["optimiser"] == 28 * sum(weight.size for weight in weights.values())
    assert value["peaks"]["matmul_flops"] > 0 and value["peaks"]["copy_bytes"] > 0


def test_the_table_and_the_plot(call: Call, config: Path, tmp_path: Path) -> None:
    found = call("profile", config, "--steps", "1", "--plot", tmp_path / "profile.svg")
    assert found.code == 0
    lines = found.out.splitlines()
    assert "s a step (median of 1)" in lines[0]
    assert lines[1].split()[:2] == ["stage", "seconds"]
    assert [line.split()[0] for line in lines[2:-1]] == [name for name in STAGES if name != "reference"]
    assert lines[-1].startswith("peaks measured just now: matrix product")
    assert "2 steps of span" in found.err
    assert (tmp_path / "profile.svg").read_text().startswith("<?xml")


def test_an_update_is_what_a_run_makes(call: Call, config: Path, tmp_path: Path) -> None:
    """Profiling changes no figure of a run that follows."""
    first = call("train", config, "--json", f"run.dir={tmp_path / 'one'}")
    call("profile", config, "--steps", "1")
    second = call("train", config, "--json", f"run.dir={tmp_path / 'two'}")
    assert json.loads(first.out)["after"] == json.loads(second.out)["after"]


def test_nested_stages_share_a_peak() -> None:
    watch = _Watch()
    with watch.stage("update"):
        with watch.part("loss"):
            held = bytearray(64 * 2**20)
        del held
    assert watch.peaks["update"] >= watch.peaks["loss"] > 64 * 2**20
    assert watch.by_stage().keys() == {"loss"} | ({"other"} if "other" in watch.by_stage() else set())
    assert watch.parts["loss"] <= watch.seconds["update"]


def test_what_bounds_a_stage() -> None:
    assert _bound("loss", 0.7, None) == "arithmetic"
    assert _bound("rollout", 0.55, 0.9) == "memory"
    assert _bound("rollout", 0.2, 0.3).startswith("neither peak")
    assert _bound("align", None, None) == "Python and numpy"
    assert _bound("optimiser", None, None) == "not known"
