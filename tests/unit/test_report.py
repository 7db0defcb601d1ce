"""The report page: whole, escaped and the same every time."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dragoman.alignment import align
from dragoman.errors import DataError
from dragoman.observe import Record, RunDirectory, write_records
from dragoman.report import write_report
from dragoman.report.curves import draw_curves
from dragoman.report.passages import MAX_TOKENS, credit_scale, passage
from dragoman.types import (
    Alignment,
    ChunkKind,
    DropReason,
    Event,
    Message,
    Prompt,
    Rollout,
    Supervision,
    TeacherScores,
    TeacherView,
    ToolCall,
)
from page import Page
from texts import Part, tokens


@pytest.fixture(autouse=True)
def _matplotlib_outside_home(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path_factory.getbasetemp() / "matplotlib"))


# ---- page --------------------------------------------------------------------------------------------


def record(step: int = 1, key: str = "doc:1") -> Record:
    """HTML, a split é, an emoji, other bytes in one chunk, odd tokens, a stop, a clamp and missing scores."""
    parts: list[Part] = ["<b>", "hi</", "b> ", b"caf\xc3", b"\xa9", " 🙂", " Å", "\n", Event.STOP]
    student = tokens(*parts, odd=(1, 2))
    teacher = tokens("<", "b", ">hi", "</b> ", "café", " ", "🙂", " A\u030a", "\n", Event.STOP)
    alignment = align(student, teacher)
    missing = np.zeros(len(teacher), np.uint8)
    missing[-1] = DropReason.TEACHER_CONTEXT
    logp = np.full(len(teacher), -0.75, np.float32)
    logp[-1] = np.nan
    reason = np.array([0, 0, 0, 0, 0, 0, DropReason.BYTES_DIFFER, 0, DropReason.TEACHER_CONTEXT], np.uint8)
    rollout = Rollout(
        prompt=Prompt(
            key=key, messages=(Message(role="user", content="<script>alert(1)</script>\ud800\x00"),)
        ),
        sample=0,
        context_ids=np.arange(3),
        completion=student,
        behaviour_logp=np.linspace(-2.5, -0.5, len(student), dtype=np.float32),
    )
    return Record(
        rollout=rollout,
        view=TeacherView(
            rollout_key=rollout.key, teacher="T&T", ids=teacher.ids, start=0, completion=teacher
        ),
        scores=TeacherScores(logp=logp, missing=missing),
        alignment=alignment,
        supervision=Supervision(
            weight=(reason == 0).astype(np.float32),
            reason=reason,
            chunk_of=alignment.chunk_of,
            credit=np.array([2, -1, 0.5, 0, 4, -4, 0, 1, 0], np.float32),
            num_clamped=1,
        ),
        step=step,
    )


SUMMARY = {
    "method": "segment",
    "student": "small",
    "teacher": "large",
    "steps": 2,
    "seconds": 100.0,
    "before": {"kl_per_byte": 0.2353, "kl_per_byte_ci": [0.22, 0.25], "coverage": 0.999},
    "after": {"kl_per_byte": 0.121, "kl_per_byte_ci": [0.11, 0.13], "coverage": 1.0},
    "change": {"relative": -0.4853, "relative_ci": [-0.54, -0.43]},
    "peak_memory_bytes": 3 * 2**30,
    "tokens": {"student": 1234},
    "flops": {"rollout": 1e12, "teacher": 1e12, "update": 2e12, "eval": 0},
    "dropped": {"bytes_differ": 1, "teacher_context": 3},
}


def make_run(path: Path, *, steps: int = 2, summary: dict[str, Any] | None = SUMMARY) -> Path:
    """A run folder as training leaves it."""
    config = {"student": {"model": "small"}, "teacher": {"model": "large"}, "train": {"steps": 2}}
    run = RunDirectory.create(path, "x: 1\n", json.dumps(config))
    for step in range(1, steps + 1):
        write_records(run.rollouts_path(step), [record(step, f"doc:{i}") for i in range(5)])
        times = {"seconds_rollout": 30.0, "seconds_update": 10.0}
        run.log(step, "train", {"kl_per_byte": 0.3 - step / 10, "clip_rate": float("nan"), **times})
        interval = {"kl_per_byte_low": 0.1, "kl_per_byte_high": 0.3}
        run.log(step, "eval", {"kl_per_byte": 0.25 - step / 20, **interval})
    if summary is not None:
        run.write_summary(summary)
    return path


@pytest.fixture
def page(tmp_path: Path) -> Page:
    path = write_report(make_run(tmp_path / "run"))
    assert path == tmp_path / "run" / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def test_headline_and_facts(page: Page) -> None:
    for expected in (
        "0.235",
        "[0.220, 0.250]",
        "0.121",
        "[0.110, 0.130]",
        "−48.5 %",
        "[−54.0 %, −43.0 %]",
        "1 min 40 s",
        "3 GiB",
        "4 TFLOP",
        "segment",
    ):
        assert expected in page.text


def test_costs_and_drops_by_hand(page: Page) -> None:
    text = re.sub(r"\s+", " ", page.text)
    # Two steps of 30 s and 10 s out of 100 s leave 20 s; half of the operations are updates.
    assert "Student samples1 min 0 s 60.0 %" in text
    assert "Student updates20 s 20.0 %" in text
    assert "Loading, evaluation and the rest20 s 20.0 %" in text
    assert "Updates2 TFLOP 50.0 %" in text
    assert text.index("teacher context") < text.index("bytes differBoth"), "most frequent reason first"
    assert "3 75.0 %" in text and "1 25.0 %" in text


def test_the_page_stands_alone(page: Page) -> None:
    links = [*page.attributes("src"), *page.attributes("href"), *page.attributes("xlink:href")]
    assert links and all(link.startswith("#") for link in links)
    assert [tag for tag, _ in page.tags if tag in ("link", "img", "iframe", "object")] == []
    assert "@import" not in page.text and "url(http" not in page.text
    ids = page.attributes("id")
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    assert {link[1:] for link in links} <= set(ids)


def test_what_a_model_wrote_is_escaped(page: Page) -> None:
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert "b" not in {tag for tag, _ in page.tags}
    assert "<script>alert(1)</script>\\ud800\\u0000" in page.text
    assert "T&T" in page.text


def test_tokens_carry_their_numbers(page: Page) -> None:
    titles = page.attributes("title")
    assert "student token 0, id 100, bytes 0–3 <b>, chunk 0 (n:m), p −2.5 nats, credit 2 nats" in titles, (
        titles[:3]
    )
    assert "teacher token 0, id 100, bytes 0–1 <, chunk 0 (n:m), t −0.75 nats" in titles
    assert any(title.endswith("no signal: bytes_differ") for title in titles)
    assert any(title.endswith("credit −1 nats, not canonical") for title in titles)
    assert any("no t: teacher_context" in title and "at byte 25 ⟨stop⟩" in title for title in titles)
    # 3 rollouts a step, 2 steps; 2 odd tokens and 1 stop a side in each.
    assert len(page.tokens("odd")) == 2 * 6 + 1, "one more in the legend"
    assert len(page.tokens("event")) == 2 * 6 + 1
    assert len(page.tokens("minus")) == 2 * 6


def test_columns_meet_where_bytes_do() -> None:
    drawn_passage = passage(record(), scale=2.0)
    first = drawn_passage.chunks[0]
    # student <b>|hi</|b>·    teacher <|b|>hi|</b>·    cuts at bytes 0 1 2 3 5 7 10, columns 1 to 7
    assert [(one.start, one.end) for one in first.student] == [(1, 4), (4, 6), (6, 7)]
    assert [(one.start, one.end) for one in first.teacher] == [(1, 2), (2, 3), (3, 5), (5, 7)]
    # Credits 2, -1 and 0.5 on a scale of 2.
    assert [one.strength for one in first.student] == [1.0, -0.5, 0.25]
    assert [chunk.kind for chunk in drawn_passage.chunks if not chunk.comparable] == ["impure"]
    assert [chunk.number for chunk in drawn_passage.chunks if chunk.breaks] == [4]


def test_first_and_last_step_are_shown(tmp_path: Path) -> None:
    page = Page(write_report(make_run(tmp_path / "run", steps=4)).read_text(encoding="utf-8"))
    options = re.findall(r"step (\d): doc:(\d)/0", page.text)
    assert options == [("1", "0"), ("1", "1"), ("1", "2"), ("4", "0"), ("4", "1"), ("4", "2")]


def test_same_files_same_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first


def test_a_stopped_run_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=1, summary=None)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "pha')
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    assert "This run has not finished." in text
    assert "last step with a measurement is 1" in text
    assert "1 of 2" in text


def test_a_stopped_run_compares_first_and_latest_evaluation(tmp_path: Path) -> None:
    text = Page(write_report(make_run(tmp_path / "run", summary=None)).read_text(encoding="utf-8")).text
    # 0.25 - 1/20 and 0.25 - 2/20: a quarter less.
    assert "0.200" in text and "0.150" in text and "−25.0 %" in text and "latest" in text


def test_a_run_that_only_began(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=0, summary=None)
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    for expected in ("No training step was recorded.", "No metrics", "No rollouts", "No held-out evaluation"):
        assert expected in text


def test_no_evaluation_in_the_summary(tmp_path: Path) -> None:
    summary = {**SUMMARY, "before": None, "after": None, "change": None}
    text = Page(write_report(make_run(tmp_path / "run", summary=summary)).read_text(encoding="utf-8")).text
    assert "No held-out evaluation was recorded" in text and "not finished" not in text


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a run folder"):
        write_report(tmp_path)


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_broken_file_is_named(tmp_path: Path, content: str) -> None:
    run = make_run(tmp_path / "run")
    (run / "summary.json").write_text(content)
    with pytest.raises(DataError, match=r"summary\.json"):
        write_report(run)


def test_a_rollout_without_a_teacher_is_one_row() -> None:
    bare = Record(rollout=replace(record().rollout, behaviour_logp=None), step=1)
    drawn_passage = passage(bare, credit_scale([bare]))
    assert [one.label for chunk in drawn_passage.chunks for one in chunk.student][:2] == ["<b>", "hi</"]
    assert all(chunk.teacher == () and chunk.comparable for chunk in drawn_passage.chunks)
    assert drawn_passage.teacher is None


def test_long_rollouts_are_cut_and_counted() -> None:
    size = MAX_TOKENS + 50
    text = tokens(*["a"] * size)
    whole = record()
    assert whole.view is not None
    long = Record(
        rollout=replace(whole.rollout, completion=text, behaviour_logp=None),
        view=replace(whole.view, completion=text),
        alignment=align(text, text),
        step=1,
    )
    drawn_passage = passage(long, None)
    assert len(drawn_passage.chunks) == MAX_TOKENS
    assert drawn_passage.num_hidden == 50


def test_an_offset_wider_than_its_chunk_is_left_out() -> None:
    text = tokens("a" * 100, "b", "cd")
    alignment = Alignment(
        student_bounds=np.arange(4),
        teacher_bounds=np.arange(4),
        kind=np.full(3, ChunkKind.ONE_TO_ONE, np.uint8),
    )
    whole = record()
    assert whole.view is not None
    one = Record(
        rollout=replace(whole.rollout, completion=text, behaviour_logp=None),
        view=replace(whole.view, completion=text),
        alignment=alignment,
        step=1,
    )
    assert [chunk.ruler for chunk in passage(one, None).chunks] == ["0", "", "101"]


# ---- curves ------------------------------------------------------------------------------------------


def test_only_recorded_metrics_are_drawn() -> None:
    train = [{"step": step, "coverage": 0.9, "loss": None, "entropy": 1.0 / step} for step in (1, 2, 3)]
    charts = draw_curves(train, [])
    assert [chart.title for chart in charts] == ["Coverage", "Student entropy"]
    assert draw_curves([], []) == []


def test_curves_have_units_and_no_date() -> None:
    held_out = [
        {"step": s, "kl_per_byte": 0.2, "kl_per_byte_low": 0.1, "kl_per_byte_high": 0.3} for s in (0, 5)
    ]
    (chart,) = draw_curves([], held_out)
    assert ">nats/byte<" in chart.svg and ">step<" in chart.svg
    assert "metadata" not in chart.svg and "<style" not in chart.svg
    assert "var(--held-out)" in chart.svg and "#0102" not in chart.svg
    assert (chart,) == tuple(draw_curves([], held_out))


def test_long_runs_are_thinned() -> None:
    train = [{"step": step, "loss": float(step % 7)} for step in range(20_000)]
    (chart,) = draw_curves(train, [])
    assert len(chart.svg) < 60_000
    assert chart.smoothed_over == 20_000 // 12


def test_a_conversation_with_tools_is_shown_whole() -> None:
    turns = (
        Message(role="user", content="Look."),
        Message(
            role="assistant",
            reasoning_content="I must.",
            tool_calls=(ToolCall(name="f", arguments='{"a": 1}'),),
        ),
        Message(role="tool", content="42"),
    )
    one = record()
    prompt = Prompt(key=one.rollout.prompt.key, messages=turns)
    shown = passage(replace(one, rollout=replace(one.rollout, prompt=prompt)), None).prompt
    assert shown == (
        ("user", "Look."),
        ("assistant", '(thinks: I must.)\n(calls f with {"a": 1})'),
        ("tool", "42"),
    )
