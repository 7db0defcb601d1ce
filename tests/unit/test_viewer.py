"""The viewer's data and page, without a browser (see tests/browser for the rest)."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dragoman.cli.view import view
from dragoman.errors import UsageError
from dragoman.observe import Record, write_records
from dragoman.report.viewer import embedded_json, parse_place, select_records, viewer_page
from dragoman.types import Event, Prompt, Rollout, StopReason, TokenText


def record(sample: int, step: int = 1) -> Record:
    """`é` in two tokens, the second not canonical, and a stop."""
    completion = TokenText(
        ids=np.array([5, 6, 2]),
        data="é".encode(),
        bounds=np.array([0, 1, 2, 2]),
        event=np.array([0, 0, Event.STOP], np.uint8),
        canonical=np.array([True, False, True]),
    )
    rollout = Rollout(
        prompt=Prompt(key="p", text="</script>"),
        sample=sample,
        context_ids=np.array([1]),
        completion=completion,
        behaviour_logp=np.array([-1.25, -np.inf, -0.5], np.float32),
        stop=StopReason.STOP,
    )
    return Record(rollout=rollout, step=step)


def run_of(folder: Path) -> Path:
    (folder / "rollouts").mkdir(parents=True)
    for step in (1, 2):
        write_records(folder / "rollouts" / f"step-{step:06d}.jsonl", [record(0, step), record(1, step)])
    return folder


def test_selection(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    every = select_records(parse_place(str(run)))
    assert [(r.step, r.rollout.key) for r in every.records] == [
        (1, "p/0"),
        (1, "p/1"),
        (2, "p/0"),
        (2, "p/1"),
    ]
    some = select_records(parse_place(str(run)), limit=3)
    assert len(some.records) == 3 and some.num_left_out == 1
    line = select_records(parse_place(f"{run}/rollouts/step-000002.jsonl:2"))
    assert [(r.step, r.rollout.key) for r in line.records] == [(2, "p/1")]
    assert len(select_records(parse_place(str(run)), step=2).records) == 2
    one = select_records(parse_place(f"{run}/rollouts/step-000002.jsonl"), key="p/1")
    assert [(r.step, r.rollout.key) for r in one.records] == [(2, "p/1")]


def test_nothing_to_show(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a run with recorded rollouts"):
        select_records(parse_place(str(tmp_path)))
    with pytest.raises(UsageError, match="holds no rollout called 'q'; the first recorded are step 1 · p/0"):
        select_records(parse_place(str(run_of(tmp_path / "run"))), key="q")


def test_data_in_the_page(tmp_path: Path) -> None:
    page = viewer_page(select_records(parse_place(str(run_of(tmp_path / "run"))), limit=1))
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    assert data["left_out"] == 3 and len(data["rollouts"]) == 1
    columns = data["rollouts"][0]
    student = columns["student"]
    names = [student["names"][number] for number in base64.b64decode(student["label"]["u1"])]
    assert names == ["\\xc3", "\\xa9", "⟨stop⟩"]
    logp = np.frombuffer(base64.b64decode(student["logp"]["f4"]), "<f4")
    assert logp.tolist() == [-1.25, -np.inf, -0.5]
    assert base64.b64decode(student["odd"]["u1"]) == bytes([0, 1, 0])
    assert base64.b64decode(columns["data"]) == "é".encode() and columns["text"] == "é"
    assert columns["chunks"] is None
    assert columns["prompt"] == [{"role": "text", "content": "</script>"}]
    assert page.count("</script>") == 2


def test_json_cannot_end_its_element() -> None:
    value = {"a": "</script><!--\u2028&"}
    text = embedded_json(value)
    assert not set("<>&\u2028") & set(text) and json.loads(text) == value


def test_command(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    result = CliRunner().invoke(view, [str(run), "--limit", "3"])
    assert result.exit_code == 0 and result.stdout.strip() == str(run / "view.html")
    assert (run / "view.html").read_text("utf-8").startswith("<!doctype html>")
    assert "1 more are left out" in result.stderr
