"""The viewer in a real browser: what it shows, keys, accessibility, 100,000 tokens, no network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import axe_source, find_chromium, run_in_page

import tiny
from dragoman.alignment import align
from dragoman.errors import AssetError
from dragoman.observe import Record
from dragoman.report.viewer import Selection, write_viewer
from dragoman.supervise import CREDITS, Guard, SampledSettings, supervise_sampled
from dragoman.text import Tokenization
from dragoman.types import (
    Message,
    Prompt,
    Rollout,
    StopReason,
    TeacherScores,
    TeacherView,
    ToolCall,
)

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium on the PATH")

HOSTILE = (
    "The interpreter </script><img src=x onerror=document.title='broken'> <!-- "
    "\u2028 &amp; café 🦜 مرحبا\n\tif x:\r\n"
)
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


@pytest.fixture(scope="module")
def page(sides: Any, tmp_path_factory: Any) -> Path:
    bare = record_of(sides, b"Not aligned.", sample=1).rollout
    empty = record_of(sides, b"", sample=2)
    records = (record_of(sides, HOSTILE.encode() + b"caf\xc3 \xff"), Record(rollout=bare, step=2), empty)
    selection = Selection(title="a run <b>", records=records, num_left_out=3)
    return write_viewer(selection, tmp_path_factory.mktemp("page") / "view.html")


@pytest.fixture(scope="module")
def axe(tmp_path_factory: Any) -> str:
    try:
        return axe_source(tmp_path_factory.mktemp("axe"))
    except AssetError as error:
        pytest.skip(f"axe cannot be fetched: {error}")


def test_needs_no_network(page: Path) -> None:
    text = page.read_text("utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text)


def test_what_a_model_wrote_stays_text(page: Path, tmp_path: Path) -> None:
    found = run_in_page(
        page,
        """for (const box of document.querySelectorAll('details')) box.open = true;
        await new Promise((done) => setTimeout(done, 200));
        return [document.images.length, document.title, $('text').textContent, $('prompt').textContent];""",
        tmp_path,
    )
    images, title, text, prompt = found
    assert images == 0 and title == "a run <b> · rollouts · dragoman"
    assert "</script><img" in text and "</script><img" in prompt and "f({})" in prompt


def test_keys_and_filters(page: Path, sides: Any, tmp_path: Path) -> None:
    found = run_in_page(
        page,
        """const box = $('tokens'), seen = [];
        const press = (key, at = box) => at.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
        const now = () => box.getAttribute('aria-activedescendant');
        for (const key of ['ArrowRight', 'ArrowRight', 'j', 'k', 'End', 'Home']) {
          press(key);
          seen.push(now());
        }
        press('f');
        const filter = $('filter').selectedOptions[0].textContent, hits = $('hits').textContent;
        seen.push(now()); press('n', document.body); seen.push(now());
        const details = $('details').textContent;
        $('filter').value = 0; $('search').value = 'CAFé'; $('search').dispatchEvent(new Event('input'));
        const marked = $('hits').textContent;
        press('?', document.body);
        const options = [...$('rollout').options].map((o) => o.textContent);
        $('rollout').value = 2; $('rollout').dispatchEvent(new Event('change'));
        const empty = $('details').textContent;
        return {seen, filter, hits, details, marked, help: $('help-box').open, options, empty};""",
        tmp_path,
    )
    last = len(record_of(sides, HOSTILE.encode() + b"caf\xc3 \xff").rollout.completion) - 1
    assert found["seen"][:2] == ["s0", "s1"] and found["seen"][4:6] == [f"s{last}", "s0"]
    assert found["filter"].startswith("dropped: ") and found["hits"] == found["filter"][9:] + " tokens"
    assert "non canonical" in found["details"] and "advantage" in found["details"]
    record = record_of(sides, HOSTILE.encode() + b"caf\xc3 \xff").rollout.completion
    at = HOSTILE.encode().index("café".encode())
    within = (record.bounds[:-1] < at + 5) & (record.bounds[1:] > at)
    assert found["marked"] == f"{within.sum()} tokens" and found["help"]
    assert found["options"] == ["step 1 · p:1/0", "step 2 · p:1/1", "step 1 · p:1/2"]
    assert found["empty"] == "This response is empty."


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("rollout", [0, 1, 2])
def test_accessible(page: Path, axe: str, theme: str, rollout: int, tmp_path: Path) -> None:
    found = run_in_page(
        page,
        f"""document.documentElement.dataset.theme = '{theme}';
        $('rollout').value = {rollout}; $('rollout').dispatchEvent(new Event('change'));
        for (const box of document.querySelectorAll('details')) box.open = true;
        $('tokens').dispatchEvent(new KeyboardEvent('keydown', {{key: 'End', bubbles: true}}));
        await new Promise((done) => setTimeout(done, 200));
        {axe.replace("</script", "<" + chr(92) + "/script")}
        const result = await axe.run(document, {{resultTypes: ['violations']}});
        const told = (n) => n.html + n.failureSummary;
        return result.violations.map((v) => [v.id, v.help, v.nodes.slice(0, 3).map(told)]);""",
        tmp_path,
    )
    assert found == []


def test_a_hundred_thousand_tokens(sides: Any, tmp_path: Path) -> None:
    text = " ".join(tiny.CORPUS) + "\n"
    data = text.encode() * (1 + 100_000 // len(sides[0].encode(text.encode())))
    record = record_of(sides, data)
    size = len(record.rollout.completion)
    assert size >= 100_000
    page = write_viewer(Selection(title="long", records=(record,), num_left_out=0), tmp_path / "view.html")
    found = run_in_page(
        page,
        """const opened = performance.now(), box = $('tokens');
        const start = performance.now();
        box.dispatchEvent(new KeyboardEvent('keydown', {key: 'End', bubbles: true}));
        const jump = performance.now() - start;
        await new Promise((done) => setTimeout(done, 100));
        const seen = box.getAttribute('aria-activedescendant'), label = $(seen).textContent;
        return {opened, jump, seen, label, nodes: document.querySelectorAll('*').length};""",
        tmp_path,
    )
    assert found["seen"] == f"s{size - 1}"
    assert found["nodes"] < 6000, "only lines in sight are drawn"
    assert found["jump"] < 500
