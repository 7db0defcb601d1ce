"""The viewer in a real browser: what it shows, keys, accessibility, 100,000 tokens, no network."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import Browser, Tab, find_chromium

import tiny
from dragoman.alignment import align
from dragoman.observe import Record
from dragoman.report.viewer import Selection, write_viewer
from dragoman.supervise import CREDITS, Guard, SampledSettings, supervise_sampled
from dragoman.text import Tokenization
from dragoman.types import (
    Alignment,
    ChunkKind,
    DropReason,
    Event,
    Message,
    Prompt,
    Rollout,
    StopReason,
    TeacherScores,
    TeacherView,
    TokenText,
    ToolCall,
)

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium on the PATH")

HOSTILE = (
    "The interpreter </script><img src=x onerror=document.title='broken'> <!-- "
    "\u2028 &amp; café 🦜 مرحبا\n\tif x:\r\n"
)
DATA = HOSTILE.encode() + b"caf\xc3 \xff"
PROMPT = Prompt(
    key="p:1",
    messages=(
        Message(role="system", content=HOSTILE),
        Message(role="user", content="What?"),
        Message(
            role="assistant",
            reasoning_content="Well.",
            tool_calls=(ToolCall(name="f", arguments="{}"),),
        ),
        Message(role="tool", content="42"),
    ),
    tools=({"name": "f"},),
)


@pytest.fixture(scope="module")
def sides(tmp_path_factory: Any) -> tuple[Tokenization, Tokenization]:
    base = tmp_path_factory.mktemp("sides")
    return tuple(
        Tokenization.from_pretrained(str(make(base / make.__name__)))
        for make in (tiny.byte_level, tiny.sentencepiece)
    )  # type: ignore[return-value]


def record_of(sides: tuple[Tokenization, Tokenization], data: bytes, sample: int = 0) -> Record:
    """A response in odd tokens at its start, then canonical ones, with made-up log-probs."""
    student, teacher = sides
    odd = [i for byte in data[:4] for i in student.encode(bytes([byte]))]
    completion = student.view([*odd, *student.encode(data[4:]).ids.tolist()])
    placed = teacher.place(data)
    random = np.random.default_rng(0)
    rollout = Rollout(
        prompt=PROMPT,
        sample=sample,
        context_ids=np.array([1]),
        completion=completion,
        behaviour_logp=-random.exponential(1, len(completion)).astype(np.float32),
        stop=StopReason.LENGTH,
    )
    logp = -random.exponential(1, len(placed.text)).astype(np.float32)
    view = TeacherView(
        rollout_key=rollout.key,
        teacher="a teacher",
        ids=placed.text.ids,
        start=0,
        completion=placed.text,
    )
    scores = TeacherScores(logp=logp, missing=np.zeros(len(logp), np.uint8))
    alignment = align(completion, placed.text)
    settings = SampledSettings(credit=CREDITS["chunk"], guard=Guard.MASK)
    return Record(
        rollout=rollout,
        view=view,
        scores=scores,
        alignment=alignment,
        supervision=supervise_sampled(rollout, scores, alignment, settings),
        step=1,
    )


def text_with_events(*parts: bytes | Event) -> TokenText:
    """Tokens of these bytes and events; all of them canonical."""
    spelled = [part if isinstance(part, bytes) else b"" for part in parts]
    return TokenText(
        ids=np.arange(len(parts)),
        data=b"".join(spelled),
        bounds=np.cumsum([0, *map(len, spelled)]),
        event=np.array([Event.NONE if isinstance(part, bytes) else part for part in parts], np.uint8),
        canonical=np.ones(len(parts), bool),
    )


def record_of_kinds() -> Record:
    """One chunk each of: 1:1, n:1, normalised, impure, student-only, teacher-only, 1:1 and wide, event."""
    student = text_with_events(
        *(Event.THINK_OPEN, b"un", b"do", b"\xef\xac\x81", b"?", Event.CONTROL, b" " * 300, Event.STOP)
    )
    teacher = text_with_events(*(b"<think>", b"undo", b"fi", b"!", Event.CONTROL, b" " * 300, Event.STOP))
    kinds = [ChunkKind.ONE_TO_ONE, ChunkKind.MANY_TO_ONE, ChunkKind.NORMALISED, ChunkKind.IMPURE]
    kinds += [ChunkKind.STUDENT_ONLY, ChunkKind.TEACHER_ONLY, ChunkKind.ONE_TO_ONE, ChunkKind.EVENT]
    rollout = Rollout(
        prompt=Prompt(key="kinds", text="Go on"),
        sample=0,
        context_ids=np.array([1]),
        completion=student,
        behaviour_logp=np.array([-1, -2, -0.5, -1, -1, -1, -1, -1], np.float32),
        stop=StopReason.STOP,
    )
    return Record(
        rollout=rollout,
        view=TeacherView(rollout_key=rollout.key, teacher="t", ids=teacher.ids, start=0, completion=teacher),
        scores=TeacherScores(
            logp=np.array([-1, -0.25, -1, -1, np.nan, -1, -1], np.float32),
            missing=np.array([0, 0, 0, 0, DropReason.NON_FINITE, 0, 0], np.uint8),
        ),
        alignment=Alignment(
            student_bounds=np.array([0, 1, 3, 4, 5, 6, 6, 7, 8]),
            teacher_bounds=np.array([0, 1, 2, 3, 4, 4, 5, 6, 7]),
            kind=np.array(kinds, np.uint8),
        ),
        step=3,
    )


@pytest.fixture(scope="module")
def page(sides: Any, tmp_path_factory: Any) -> Path:
    bare = record_of(sides, b"Not aligned.", sample=1).rollout
    empty = record_of(sides, b"", sample=2)
    records = (record_of(sides, DATA), Record(rollout=bare, step=2), empty, record_of_kinds())
    selection = Selection(title="a run <b>", records=records, num_left_out=3)
    return write_viewer(selection, tmp_path_factory.mktemp("page") / "view.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as found:
        yield found


@pytest.fixture
def tab(browser: Browser, page: Path) -> Iterator[Tab]:
    found = Tab(browser, page)
    yield found
    found.close()


def chosen(tab: Tab, control: str, value: object) -> None:
    tab.evaluate(
        f"(() => {{ const box = document.getElementById('{control}'); box.value = {json.dumps(value)};"
        " box.dispatchEvent(new Event('change')); })()"
    )
    tab.settle()


def text_of(tab: Tab, place: str) -> str:
    return str(tab.evaluate(f"document.getElementById('{place}').textContent"))


def focused(tab: Tab) -> str | None:
    found: str | None = tab.evaluate(
        "document.getElementById('tokens').getAttribute('aria-activedescendant')"
    )
    return found


def test_needs_no_network(page: Path, tab: Tab) -> None:
    text = page.read_text("utf-8")
    assert "default-src 'none'" in text.replace("&#39;", "'")
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text)
    assert tab.requests == [page.resolve().as_uri()] and tab.errors == []


def test_what_a_model_wrote_stays_text(tab: Tab) -> None:
    tab.evaluate("document.querySelectorAll('details').forEach((box) => { box.open = true; })")
    tab.settle()
    assert tab.evaluate("document.images.length") == 0
    assert tab.evaluate("document.title") == "a run <b> · rollouts · dragoman"
    assert "</script><img" in text_of(tab, "text") and "</script><img" in text_of(tab, "prompt")
    assert "f({})" in text_of(tab, "prompt").replace(" ", "")


def test_keys(tab: Tab, sides: Any) -> None:
    last = len(record_of(sides, DATA).rollout.completion) - 1
    tab.press("ArrowRight", "ArrowRight")
    assert focused(tab) == "i1"
    tab.press("End")
    assert focused(tab) == f"i{last}"
    tab.press("Home")
    assert focused(tab) == "i0"
    tab.press("?")
    assert tab.evaluate("document.getElementById('help-box').open")
    tab.press("]")
    assert tab.evaluate("document.getElementById('rollout').value") == "1"


def test_filter_and_details(tab: Tab, sides: Any) -> None:
    """The first four bytes were written in odd tokens, which the guard masks."""
    record = record_of(sides, DATA)
    assert record.supervision is not None
    num_dropped = int((record.supervision.reason > 0).sum())
    assert num_dropped >= 4
    tab.press("f")
    assert text_of(tab, "hits") == f"1 of {num_dropped} hits"
    details = text_of(tab, "details")
    assert "non canonical" in details and "advantage" in details and "n:1" in details
    tab.press("n")
    assert text_of(tab, "hits").startswith("2 of ")
    assert f"{num_dropped}" in text_of(tab, "reasons")


def test_search_of_a_character_in_several_tokens(tab: Tab) -> None:
    tab.press("/")
    tab.type("café")
    assert text_of(tab, "hits") == "1 of 1 hit"
    marked = tab.evaluate("[...document.querySelectorAll('.tok.hit')].map((n) => n.textContent).join('|')")
    assert "\\xc3" in marked and "\\xa9" in marked


def test_pointing_at_a_token(tab: Tab) -> None:
    tab.hover("#i2")
    assert "student" in text_of(tab, "details").lower()


def test_every_kind_of_chunk_is_reached_by_keys(tab: Tab) -> None:
    """Sums by hand: p is -2 - 0.5 over the two tokens of `undo`, t is -0.25, so t - p is 2.25."""
    chosen(tab, "rollout", 3)
    said = []
    for _ in range(8):
        tab.press("j")
        said.append(text_of(tab, "status"))
    kinds = ("1:1", "n:1", "normalised", "impure", "student-only", "teacher-only", "1:1", "event")
    for n, kind in enumerate(kinds):
        assert f"chunk {n}, {kind}" in said[n]
    assert said[5].startswith("no student token")
    tab.press("Home", "j")
    assert "t − p of the chunk: 2.250 nats" in text_of(tab, "details")
    rows = tab.evaluate(
        "[...document.querySelectorAll('#kinds tbody tr')].map((row) => row.cells[0].textContent + ' '"
        " + row.cells[1].textContent + ' ' + row.cells[2].textContent)"
    )
    assert rows == [
        *("1:1 2 2", "n:1 1 2", "event 1 1", "normalised 1 1"),
        *("student-only 1 1", "teacher-only 1 0", "impure 1 1"),
    ]


def test_pieces_stay_in_the_window(browser: Browser, page: Path) -> None:
    """A token of 300 blanks is cut to the line, not the line stretched to the token."""
    tab = Tab(browser, page, size=(420, 800))
    chosen(tab, "rollout", 3)
    widths = tab.evaluate("(() => { const box = $('tokens'); return [box.scrollWidth, box.clientWidth]; })()")
    assert widths[0] <= widths[1]
    tab.close()


def test_theme_overrides_the_system(tab: Tab) -> None:
    page = "getComputedStyle(document.body).backgroundColor"
    light = tab.evaluate(page)
    tab.click("#theme")
    assert text_of(tab, "theme") == "Theme: light" and tab.evaluate(page) == light
    tab.click("#theme")
    assert text_of(tab, "theme") == "Theme: dark" and tab.evaluate(page) != light


def test_records_with_less_in_them(tab: Tab) -> None:
    chosen(tab, "rollout", 1)
    assert "no teacher" in text_of(tab, "facts")
    chosen(tab, "rollout", 2)
    assert text_of(tab, "details") == "This response is empty."
    assert tab.errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 800), (420, 800)])
def test_accessible(browser: Browser, page: Path, axe: str, scheme: str, size: tuple[int, int]) -> None:
    tab = Tab(browser, page, scheme=scheme, size=size)
    for rollout in (0, 1, 2, 3):
        chosen(tab, "rollout", rollout)
        tab.evaluate("document.querySelectorAll('details').forEach((box) => { box.open = true; })")
        tab.press("End", *("f" if rollout == 3 else ""))
        assert tab.violations(axe) == [], (rollout, scheme, size)
    tab.close()


def test_a_hundred_thousand_tokens(browser: Browser, sides: Any, tmp_path: Path) -> None:
    text = " ".join(tiny.CORPUS) + "\n"
    data = text.encode() * (1 + 100_000 // len(sides[0].encode(text.encode())))
    record = record_of(sides, data)
    size = len(record.rollout.completion)
    assert size >= 100_000
    selection = Selection(title="long", records=(record,), num_left_out=0)
    tab = Tab(browser, write_viewer(selection, tmp_path / "view.html"))
    assert tab.open_seconds < 15, "a busy machine is slow, a page that lays out everything is slower"
    start = time.monotonic()
    tab.press("End")
    assert time.monotonic() - start < 5
    assert focused(tab) == f"i{size - 1}"
    assert tab.evaluate("document.querySelectorAll('*').length") < 6000, "only lines in sight are drawn"
    tab.close()
