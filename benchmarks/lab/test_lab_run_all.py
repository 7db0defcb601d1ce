"""What is run, and that what is there is not run again."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dragoman.methods import BUILT_IN

# By path, as other folders of benchmarks have a module of that name too.
_spec = importlib.util.spec_from_file_location("lab_run", Path(__file__).with_name("run.py"))
assert _spec is not None and _spec.loader is not None
lab_run = importlib.util.module_from_spec(_spec)
sys.modules["lab_run"] = lab_run
_spec.loader.exec_module(lab_run)


def test_every_method_runs_in_every_world_once() -> None:
    found = lab_run.jobs()
    assert len({job.name for job in found}) == len(found)
    asked: dict[tuple[str, tuple[int, int]], list[str]] = {}
    for job in found:
        if job.group in ("credits", "dense", "both"):
            asked.setdefault((job.kind, job.merges), []).extend(job.methods.split(","))
    every = {method.name for method in BUILT_IN} - {"compass"}
    for (kind, _), names in asked.items():
        assert len(set(names)) == len(names)
        assert set(names) == every if kind == "same" else set(names) == every - {"gkd"}
    # and the claims are put to worlds that share neither seed nor merges with these
    fresh = {(job.kind, job.merges) for job in found if job.seed == lab_run.HELD_OUT_SEED}
    assert {kind for kind, _ in fresh} == {kind for kind, _ in asked} - {"same"}
    assert not fresh & asked.keys()


def test_a_run_is_made_once_and_is_in_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = lab_run.Job(
        kind="markov", merges=(20, 8), seed=0, group="credits", methods="chunk", updates=2, seeds=1
    )
    assert lab_run.run(job, tmp_path)
    made = (tmp_path / "markov-20-8-s0-credits.json").read_bytes()
    assert lab_run.run(job, tmp_path)
    assert capsys.readouterr().err.count("markov-20-8-s0-credits") == 1
    assert (tmp_path / "markov-20-8-s0-credits.json").read_bytes() == made
    lab_run.write(tmp_path, tmp_path / "results")
    text = (tmp_path / "results" / "lab.md").read_text(encoding="utf-8")
    assert "## Text KL, credits" in text and "| markov 20/8 |" in text and "Total variation" not in text
    (world,) = json.loads((tmp_path / "results" / "lab.json").read_text(encoding="utf-8"))["worlds"]
    assert "tuning" in world["methods"]["chunk"] and "curve" not in world["methods"]["chunk"]
    assert world["methods"]["chunk"]["text_kl"] == pytest.approx(
        json.loads(made)["methods"]["chunk"]["text_kl"]
    )


def test_a_run_of_other_methods_is_not_taken(tmp_path: Path) -> None:
    job = lab_run.Job(
        kind="markov", merges=(20, 8), seed=0, group="credits", methods="chunk", updates=1, seeds=1
    )
    assert lab_run.run(job, tmp_path)
    for other in (replace(job, methods="chunk,span"), replace(job, updates=2)):
        with pytest.raises(SystemExit, match="holds a run of chunk"):
            lab_run.run(other, tmp_path)


def test_a_run_that_fails_is_said(tmp_path: Path) -> None:
    job = lab_run.Job(kind="markov", merges=(20, 8), seed=0, group="credits", methods="novel")
    assert not lab_run.run(job, tmp_path)
    assert "novel" in (tmp_path / f"{job.name}.log").read_text(encoding="utf-8")
