"""Metrics that merge exactly, compute counts, and the run folder."""

from __future__ import annotations

import getpass
import json
import math
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.errors import DataError, UsageError
from dragoman.observe import Flops, Metrics, Ratio, RunDirectory, read_metrics, transformer_flops
from dragoman.observe.environment import describe_environment
from dragoman.observe.files import atomic_writer, write_text

RESOLVED = '{"train": {"lr": 1e-05, "steps": 2}, "run": {"seed": 0}}\n'

# Whole numbers, so that sums are exact in any order.
RATIOS = st.builds(Ratio, st.integers(-1000, 1000).map(float), st.integers(0, 1000).map(float))
METRICS = st.dictionaries(st.sampled_from(["kl", "loss", "stop_rate"]), RATIOS).map(Metrics)


# --- metrics


def test_ratio() -> None:
    # (6 + 0) / (2 + 1) = 2, where the mean of means would be (3 + 0) / 2 = 1.5
    assert (Ratio(6.0, 2) + Ratio(0.0, 1)).value == 2.0
    assert Ratio(5.0).value == 5.0
    assert math.isnan(Ratio(0.0, 0.0).value)


def test_merge_keeps_what_one_side_lacks() -> None:
    merged = Metrics({"loss": Ratio(6.0, 2)}).merge(Metrics({"loss": Ratio(0.0, 1), "kl": Ratio(1.0, 4)}))
    assert list(merged.values().items()) == [("kl", 0.25), ("loss", 2.0)]


@given(st.lists(METRICS, min_size=1, max_size=6))
def test_merge_does_not_depend_on_order_or_grouping(parts: list[Metrics]) -> None:
    whole = parts[0].merge(*parts[1:])
    one_by_one = parts[-1]
    for part in reversed(parts[:-1]):
        one_by_one = one_by_one.merge(part)
    assert whole == one_by_one
    for name in whole.names:
        having = [part.ratios[name] for part in parts if name in part.ratios]
        assert whole.ratios[name].numerator == sum(ratio.numerator for ratio in having)
        assert whole.ratios[name].denominator == sum(ratio.denominator for ratio in having)


@given(METRICS, METRICS)
def test_summed_vectors_are_the_merge(one: Metrics, other: Metrics) -> None:
    names = sorted({*one.names, *other.names})
    summed = one.to_vector(names) + other.to_vector(names)
    assert Metrics.from_vector(names, summed) == one.merge(other)


def test_vector_layout() -> None:
    metrics = Metrics({"b": Ratio(1.0, 2), "a": Ratio(3.0, 4)})
    assert metrics.to_vector().tolist() == [3.0, 1.0, 4.0, 2.0]
    assert metrics.to_vector(["a", "b", "c"]).tolist() == [3.0, 1.0, 0.0, 4.0, 2.0, 0.0]
    assert metrics.to_vector().dtype == np.float64


def test_vector_that_would_lose_a_metric() -> None:
    with pytest.raises(ValueError, match=r"metrics \['b'\] are not among the 1 names"):
        Metrics({"b": Ratio(1.0)}).to_vector(["a"])
    with pytest.raises(ValueError, match="got a vector of 3, expected 2 for 1 names"):
        Metrics.from_vector(["a"], np.zeros(3))


# --- compute


def test_transformer_flops_by_hand() -> None:
    # Two sequences of 3 and 5 tokens: 8 tokens, 9 + 25 = 34.
    # Dense 2 * 100 * 8 = 1600; attention 2 * 2 layers * 10 wide * 34 = 1360.
    count = partial(
        transformer_flops,
        num_parameters=100,
        num_layers=2,
        hidden_size=10,
        num_tokens=8,
        sum_squared_lengths=34,
    )
    assert count() == 2960
    assert count(backward=True) == 3 * 2960


def test_attention_term_is_the_causal_sum() -> None:
    # Token t attends to t positions, 4 * hidden operations each: 4 * h * L (L + 1) / 2, about 2 h L^2.
    length, hidden = 1000, 7
    exact = sum(4 * hidden * position for position in range(1, length + 1))
    counted = transformer_flops(
        num_parameters=0, num_layers=1, hidden_size=hidden, num_tokens=length, sum_squared_lengths=length**2
    )
    assert counted == pytest.approx(exact, rel=2e-3)


def test_flops_add_by_part() -> None:
    spent = Flops(rollout=1, update=10) + Flops(rollout=2, teacher=5, eval=3)
    assert spent == Flops(rollout=3, teacher=5, update=10, eval=3)
    assert spent.total == 21


# --- files


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "notes.txt"
    write_text(path, "old\n")
    with pytest.raises(RuntimeError, match="half way"), atomic_writer(path) as file:
        file.write("new")
        raise RuntimeError("half way")
    assert path.read_bytes() == b"old\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["notes.txt"]


# --- run folder


def test_fresh_run_writes_what_it_was_given(tmp_path: Path) -> None:
    run = RunDirectory.create(
        tmp_path / "a" / "b", "# mine\nrun: {}\n", RESOLVED, overrides=["train.lr=1e-5", "run.project=x\ny"]
    )
    assert (run.path / "config.yaml").read_text() == (
        "# overrides:\n#   train.lr=1e-5\n#   run.project=x\n#   y\n# mine\nrun: {}\n"
    )
    assert (run.path / "config.resolved.json").read_text() == RESOLVED
    assert run.changed_keys == ()
    assert json.loads((run.path / "env.json").read_text())["packages"]["numpy"] == np.__version__


def test_config_is_kept_verbatim_without_overrides(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "run: {}\n", RESOLVED)
    assert (run.path / "config.yaml").read_text() == "run: {}\n"


def test_fresh_run_refuses_a_folder_in_use(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(UsageError, match=r"is not empty.*--resume, or name another folder with run\.dir"):
        RunDirectory.create(tmp_path, "", RESOLVED)
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(UsageError, match="is a file"):
        RunDirectory.create(tmp_path / "notes.txt", "", RESOLVED)


def test_resume_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing to resume in .*none.*without --resume"):
        RunDirectory.create(tmp_path / "none", "", RESOLVED, resume=True)
    assert not (tmp_path / "none").exists()


def test_resume_with_other_settings_says_so_and_keeps_the_old_ones(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, "", RESOLVED)
    same = RunDirectory.create(tmp_path, "", RESOLVED, resume=True)
    assert same.changed_keys == ()
    assert not list(tmp_path.glob("config.resolved.*.json"))
    other = RESOLVED.replace("1e-05", "2e-05").replace('"steps"', '"epochs"')
    assert RunDirectory.create(tmp_path, "", other, resume=True).changed_keys == (
        "train.epochs",
        "train.lr",
        "train.steps",
    )
    assert (tmp_path / "config.resolved.1.json").read_text() == RESOLVED
    assert (tmp_path / "config.resolved.json").read_text() == other


def test_log_appends_one_flat_line(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "", RESOLVED)
    run.log(1, "train", {"loss": 0.1, "kl": math.nan, "grad_norm": math.inf})
    run.log(1, "eval", {"bits_per_byte": 2.0})
    assert run.metrics_path.read_text() == (
        '{"step": 1, "phase": "train", "loss": 0.1, "kl": null, "grad_norm": null}\n'
        '{"step": 1, "phase": "eval", "bits_per_byte": 2.0}\n'
    )
    with pytest.raises(ValueError, match="may not be called 'step' or 'phase'"):
        run.log(1, "train", {"step": 2.0})


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    def go(run: RunDirectory, steps: range) -> None:
        for step in steps:
            run.log(step, "train", {"loss": 1 / step})
            write_text(run.rollouts_path(step), f"{step}\n")

    whole = RunDirectory.create(tmp_path / "whole", "", RESOLVED)
    go(whole, range(1, 6))
    broken = RunDirectory.create(tmp_path / "broken", "", RESOLVED)
    go(broken, range(1, 5))
    with broken.metrics_path.open("a") as file:
        file.write('{"step": 5, "pha')
    resumed = RunDirectory.create(tmp_path / "broken", "", RESOLVED, resume=True)
    resumed.truncate_after(2)
    assert [line["step"] for line in read_metrics(resumed.metrics_path)] == [1, 2]
    assert [path.name for path in sorted((resumed.path / "rollouts").iterdir())] == [
        "step-000001.jsonl",
        "step-000002.jsonl",
    ]
    go(resumed, range(3, 6))
    assert resumed.metrics_path.read_bytes() == whole.metrics_path.read_bytes()
    assert {path.name for path in (resumed.path / "rollouts").iterdir()} == {
        path.name for path in (whole.path / "rollouts").iterdir()
    }


def test_truncating_a_run_that_logged_nothing(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "", RESOLVED)
    run.truncate_after(0)
    assert not run.metrics_path.exists()


@pytest.mark.parametrize("line", ["{broken", "[1]", '{"loss": 1}'])
def test_corrupt_metrics_name_file_and_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1, "phase": "train"}}\n{line}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl:2: got "):
        list(read_metrics(path))


def test_summary_and_other_files(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "", RESOLVED)
    run.write_summary({"before": {"kl": math.nan}, "after": [1.0, math.inf], "steps": 2})
    run.write_text("report.html", "<p>é</p>")
    assert json.loads((tmp_path / "summary.json").read_text()) == {
        "before": {"kl": None},
        "after": [1.0, None],
        "steps": 2,
    }
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "<p>é</p>"
    assert not [entry for entry in tmp_path.iterdir() if entry.name.endswith(".tmp")]


def test_environment_names_no_person_and_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.chdir(tmp_path)
    environment = describe_environment()
    assert environment["openmp"]["OMP_NUM_THREADS"] == "3"
    assert environment["cpus"] == os.cpu_count()
    assert environment["memory_bytes"] > 2**20
    assert environment["commit"] is None
    values = [str(value) for value in environment.values()]
    home, user = str(Path.home()), getpass.getuser()
    assert not [value for value in values if home in value or user in value.split("/")]
