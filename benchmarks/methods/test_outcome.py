"""The figures of a run, and the tables, from a folder made up by hand."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import run
from outcome import HELDOUT, differing, outcome, same_start
from tables import draw, percent, tables

from dragoman.methods import BUILT_IN, get_method


def figures(kl: float, forward: float) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(HELDOUT, 0.5) | {
        "kl_per_byte": kl,
        "forward_kl_per_byte": forward,
    }
    return found | {f"{name}_ci": [value - 0.1, value + 0.1] for name, value in found.items()}


def write_run(folder: Path, after: float = 0.2) -> Path:
    folder.mkdir()
    steps = [
        {
            "phase": "train",
            "seconds_rollout": rollout,
            "seconds_update": update,
            "grad_norm": 2.0,
            "row_residual": residual,
        }
        for rollout, update, residual in (
            (90.0, 90.0, 0.1),
            (1.0, 4.0, None),
            (2.0, 3.0, 0.3),
            (3.0, 5.0, 0.2),
        )
    ]
    lines = [{"phase": "eval", "seconds": 1.0}, *steps, {"phase": "eval", "seconds": 1.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.resolved.json").write_text(json.dumps({"train": {"lr": 3e-5}}))
    (folder / "env.json").write_text(json.dumps({"commit": "abc"}))
    summary = {
        "tokens": {"supervised": 30, "student": 40},
        "dropped": {"no_row": 10},
        "before": figures(0.4, 0.3),
        "after": figures(after, 0.24),
        "change": {
            "relative": after / 0.4 - 1,
            "relative_ci": [-0.6, -0.4],
            "forward_relative": -0.2,
            "forward_relative_ci": [-0.25, 0.05],
        },
        "peak_memory_bytes": 3 * 2**29,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def result_of(methods: dict[str, Any]) -> dict[str, Any]:
    settings = {
        "teacher": "big",
        "student": "small",
        "steps": 4,
        "prompts_per_step": 8,
        "max_new_tokens": 32,
        "heldout_prompts": 32,
        "lr": 3e-5,
        "seed": 0,
        "threads": 1,
    }
    environment = {"machine": "m", "cpus": 2, "packages": {"dragoman": "1", "torch": "2"}}
    return {
        "settings": settings,
        "environment": environment,
        "methods": methods,
        "left_out": {"gkd": "needs what is not there"},
        "failed": {},
    }


def test_outcome(tmp_path: Path) -> None:
    found = outcome(write_run(tmp_path / "a"))
    assert found["steps"] == 4
    assert found["signal"] == 0.75
    assert found["dropped"] == {"no_row": 0.25}
    # The first step does not count: 1, 2, 3 and 4, 3, 5, together 5, 5, 8
    assert found["seconds"] == {"rollout": 2.0, "update": 4.0, "step": 5.0, "step_quartiles": [5.0, 6.5]}
    assert found["row_residual"] == pytest.approx(0.2)
    assert found["before"]["kl_per_byte_ci"] == pytest.approx([0.3, 0.5])


def test_tables_and_plot(tmp_path: Path) -> None:
    found = {"learns_from": "rows", "needs": "level 1", **outcome(write_run(tmp_path / "a"))}
    result = result_of({"bpm": found})
    text = tables(result)
    assert (
        "| *before training* |  | 0.400 (0.300 to 0.500) |  | 0.300 (0.200 to 0.400) |  | 50.00 |  |  |"
        in text
    )
    assert (
        "| `bpm` | rows | 0.200 (0.100 to 0.300) | -50 (-60 to -40) | 0.240 (0.140 to 0.340) "
        "| -20 (-25 to +5) | 50.00 | 75.00 | 20.00 |"
    ) in text
    assert "| `bpm` | 4 | 3e-05 | 5.00 (5.00 to 6.50) | 2.00 | 4.00 | 1.50 |" in text
    assert "* `gkd`: needs what is not there" in text
    draw(result, tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    draw(result, tmp_path / "again.svg")
    assert drawn == (tmp_path / "again.svg").read_text()
    assert "<svg" in drawn


def test_a_share_is_whole_only_if_it_is() -> None:
    assert [percent(share) for share in (0, 1e-6, 0.5, 1 - 1e-6, 1)] == ["0", "0.01", "50.00", "99.99", "100"]


def test_runs_that_began_elsewhere() -> None:
    one, other = ({"before": figures(kl, 0.3)} for kl in (0.4, 0.41))
    assert same_start({}) is None
    assert same_start({"a": one, "b": one}) is None
    problem = same_start({"a": one, "b": other})
    assert problem is not None
    assert "kl_per_byte is 0.41000 in the run of 'b', but 0.40000 in that of 'a'" in problem


def test_settings_that_differ() -> None:
    made = {"run": {"dir": "here", "seed": 0}, "train": {"lr": 1.0}}
    assert differing(made, {"run": {"dir": "there", "seed": 0}, "train": {"lr": 1.0}}) == []
    assert differing(made, {"run": {"dir": "here", "seed": 1}, "train": {"lr": 1.0, "eps": 2.0}}) == [
        "run.seed is 0, expected 1",
        "train.eps is None, expected 2.0",
    ]


# --- running


def arguments(tmp_path: Path, *more: str) -> argparse.Namespace:
    return run.parser().parse_args(["--runs", str(tmp_path), "--results", str(tmp_path), *more])


def test_equal_settings(tmp_path: Path) -> None:
    """All methods of the registry differ in nothing but the method and what teacher it needs."""
    args = arguments(tmp_path)
    wanted = json.loads(run.configuration(get_method("chunk"), args).to_json())
    for method in BUILT_IN:
        others = differing(json.loads(run.configuration(method, args).to_json()), wanted)
        assert [o for o in others if not o.startswith(("method.", "teacher.topk", "teacher.reference"))] == []


def test_a_run_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: list[str], *, stdout: Any, **others: Any) -> subprocess.CompletedProcess[str]:
        stdout.write("Loading\nerror: step 3: loss nan\n")
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(run.RunError, match=r"^error: step 3: loss nan$"):
        run.finished(get_method("chunk"), arguments(tmp_path))


def test_a_finished_run_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("nothing is to be run"))
    args = arguments(tmp_path)
    folder = write_run(tmp_path / "chunk")
    made = run.configuration(get_method("chunk"), args).to_json()
    (folder / "config.resolved.json").write_text(made)
    (folder / "final").mkdir()
    assert run.finished(get_method("chunk"), args)["signal"] == 0.75
    assert not (folder / "final").exists()
    with pytest.raises(SystemExit, match=r"holds a run with other settings: train\.steps is 40, expected 41"):
        run.finished(get_method("chunk"), arguments(tmp_path, "--steps", "41"))
