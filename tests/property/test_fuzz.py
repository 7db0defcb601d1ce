"""Anything a student may write, through any pair of sides: nothing crashes, no chunk claims what is not so.

`DRAGOMAN_FUZZ_EXAMPLES` sets the number of examples of each test; `make fuzz` runs many.
"""

from __future__ import annotations

import json
import os
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

import tiny
from dragoman.alignment import align
from dragoman.config import StudentConfig, TeacherConfig
from dragoman.errors import RenderError
from dragoman.render import Renderer
from dragoman.render.findings import template_findings
from dragoman.types import (
    Alignment,
    ChunkKind,
    DropReason,
    Event,
    Message,
    Prompt,
    Rollout,
    StopReason,
    TeacherView,
    TokenText,
    ToolCall,
)
from sides import rollout_with

EXAMPLES = int(os.environ.get("DRAGOMAN_FUZZ_EXAMPLES", "150"))
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
PROMPT = Prompt(
    key="p",
    messages=(Message(role="user", content="What is the answer?"),),
    tools=({"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}},),
)
MARKERS = (
    b"<think>",
    b"</think>",
    b"<think>\n",
    b"\n</think>\n\n",
    b'<tool_call>\n{"name": "look_up", "arguments": {"word": "answer", "n": [1, 2.5, null]}}\n</tool_call>',
    b'<tool_call>{"name":"f","arguments":{}}</tool_call>',
    b'<tool_call>\n{"name": "f", "arguments": {"a": }}\n</tool_call>',
    b"CALL f WITH {};",
    b'CALL look_up WITH {"\xc3\xa9": "<|im_end|>"};',
    b"<tool_call>",
    b"<|im_end|>",
    b"<end_of_turn>",
    b"<unused_open>",
)
PIECES = st.one_of(
    st.sampled_from(MARKERS),
    st.text(max_size=12).map(str.encode),
    st.binary(max_size=6),
    st.sampled_from(tiny.CORPUS).map(str.encode),
)
SIDES = ("hermes", "marked", "chatml", "plain", "nfkc", "lower")


@pytest.fixture(scope="module")
def sides(tmp_path_factory: Any) -> dict[str, Renderer]:
    """Every side can be a student or a teacher."""
    base: Path = tmp_path_factory.mktemp("sides")
    extra = ("<unused_open>", "<unused_close>")
    tiny.byte_level(base / "hermes", chat_template=tiny.HERMES)
    tiny.sentencepiece(base / "marked", chat_template=tiny.MARKED, extra=extra)
    tiny.byte_level(base / "chatml")
    tiny.sentencepiece(base / "plain", chat_template=None, dummy_prefix=True)
    tiny.byte_level(base / "nfkc", chat_template=tiny.HERMES, normalizer=normalizers.NFKC())
    lower = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    tiny.byte_level(base / "lower", normalizer=lower)
    return {
        name: Renderer.from_config(
            TeacherConfig(
                model=str(base / name), tools="template" if name in ("hermes", "marked", "nfkc") else "text"
            )
        )
        for name in SIDES
    }


def sampled(side: Renderer, ids: list[int]) -> TokenText:
    """Ids as sampled: up to the first stop."""
    stops = [place for place, index in enumerate(ids) if index in side.tokenization.stop_ids]
    return side.tokenization.view(ids[: stops[0] + 1] if stops else ids)


def spelled(side: Renderer, text: TokenText, start: int, stop: int) -> bytes:
    """The bytes of some tokens, events by name."""
    names = side.tokenization.token_name
    return b"".join(text.token_bytes(i) or names(int(text.ids[i])).encode() for i in range(start, stop))


def judge(rollout: Rollout, view: TeacherView, alignment: Alignment, pair: tuple[Renderer, Renderer]) -> None:
    """Fail for a chunk whose claim is false; written without sight of the aligner."""
    student, teacher = pair
    above, below = rollout.completion, view.completion
    assert alignment.student_bounds[0] == alignment.teacher_bounds[0] == 0
    assert (alignment.student_bounds[-1], alignment.teacher_bounds[-1]) == (len(above), len(below))
    for c, kind in enumerate(alignment.kind.tolist()):
        s0, s1 = alignment.student_bounds[c : c + 2].tolist()
        t0, t1 = alignment.teacher_bounds[c : c + 2].tolist()
        assert s0 < s1 or t0 < t1
        claims = kind <= ChunkKind.NORMALISED
        assert claims == (alignment.reasons[c] == DropReason.NONE)
        if not claims:
            continue
        ours, theirs = spelled(student, above, s0, s1), spelled(teacher, below, t0, t1)
        if kind == ChunkKind.NORMALISED:
            assert fold(teacher, ours) == fold(teacher, theirs), (ours, theirs)
        elif kind == ChunkKind.EVENT:
            roles = (role(student, above, s0, s1), role(teacher, below, t0, t1))
            assert roles[0] == roles[1], (ours, theirs)
        elif not above.event[s0:s1].any() and not below.event[t0:t1].any() and not markers_in(ours, theirs):
            assert ours == theirs


def fold(teacher: Renderer, data: bytes) -> str:
    """Text as the teacher's normaliser leaves it, and without white space."""
    text = data.decode("utf-8", errors="replace")
    normalizer = teacher.tokenizer.backend_tokenizer.normalizer
    text = normalizer.normalize_str(text) if normalizer is not None else text
    return "".join(text.split())


def role(side: Renderer, text: TokenText, start: int, stop: int) -> str:
    """What a marker marks."""
    event = Event(int(text.event[start:stop].max()))
    if event not in (Event.NONE, Event.CONTROL):
        return event.name
    data = spelled(side, text, start, stop).strip().decode(errors="replace")
    names = {"<think>": Event.THINK_OPEN, "</think>": Event.THINK_CLOSE}
    names |= {"<tool_call>": Event.TOOL_OPEN, "</tool_call>": Event.TOOL_CLOSE}
    names |= {"<unused_open>": Event.THINK_OPEN, "<unused_close>": Event.THINK_CLOSE}
    return names[data].name if data in names else data


def markers_in(*texts: bytes) -> bool:
    """Whether a marker of thinking takes part, so that the two sides may spell it differently."""
    return any(mark in text for text in texts for mark in (b"think>", b"<unused_"))


def check(pair: tuple[Renderer, Renderer], completion: TokenText) -> None:
    student, teacher = pair
    rollout = rollout_with(student, completion, PROMPT)
    view = teacher.view(rollout, student=student)
    alignment = align(completion, view.completion, view.correspondence)
    judge(rollout, view, alignment, pair)
    assert view.completion.num_stops <= 1
    assert np.array_equal(view.ids[view.start :], view.completion.ids)


@pytest.mark.parametrize("names", list(product(SIDES, SIDES)), ids="-".join)
class TestAnyPair:
    @fuzz
    @given(pieces=st.lists(PIECES, max_size=8), stop=st.booleans())
    def test_bytes(self, sides: dict[str, Renderer], names: tuple[str, str], pieces: Any, stop: bool) -> None:
        student, teacher = sides[names[0]], sides[names[1]]
        completion = student.completion(b"".join(pieces), StopReason.STOP if stop else StopReason.LENGTH)
        check((student, teacher), completion)

    @fuzz
    @given(data=st.data())
    def test_ids(self, sides: dict[str, Renderer], names: tuple[str, str], data: Any) -> None:
        student, teacher = sides[names[0]], sides[names[1]]
        index = st.integers(0, student.tokenization.num_ids - 1)
        ids = data.draw(st.lists(index, max_size=24))
        check((student, teacher), sampled(student, ids))


CONTENT = st.one_of(st.text(max_size=20), st.sampled_from([m.decode() for m in MARKERS]))
CALLS = st.builds(
    ToolCall,
    name=st.sampled_from(["f", "look_up"]),
    arguments=st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4), max_size=2).map(
        lambda value: json.dumps(value, ensure_ascii=False)
    ),
)
MESSAGES = st.lists(
    st.one_of(
        st.builds(Message, role=st.sampled_from(["system", "user", "tool"]), content=CONTENT),
        st.builds(
            Message,
            role=st.just("assistant"),
            content=CONTENT,
            reasoning_content=st.none() | CONTENT,
            tool_calls=st.lists(CALLS, max_size=2).map(tuple),
        ),
    ),
    min_size=1,
    max_size=5,
)


@pytest.mark.parametrize("name", SIDES)
class TestAnyConversation:
    @fuzz
    @given(messages=MESSAGES)
    def test_content_opens_and_closes_no_turn(
        self, sides: dict[str, Renderer], name: str, messages: list[Message]
    ) -> None:
        """The stops in a context are those of its turns, whatever is said in them."""
        side = sides[name]
        try:
            ids = side.context_ids(Prompt(key="p", messages=tuple(messages)))
        except RenderError:
            return
        harmless = [
            Message(
                role=m.role,
                content="x",
                tool_calls=tuple(ToolCall(name="f", arguments="{}") for _ in m.tool_calls),
            )
            for m in messages
        ]
        expected = side.context_ids(Prompt(key="p", messages=tuple(harmless)))
        stops = sorted(side.tokenization.stop_ids)
        assert np.isin(ids, stops).sum() == np.isin(expected, stops).sum()

    def test_findings(self, sides: dict[str, Renderer], name: str) -> None:
        assert all(finding.rendered for finding in template_findings(sides[name]))


def test_student_config_makes_the_same_side(tmp_path: Path) -> None:
    folder = tiny.byte_level(tmp_path, chat_template=tiny.HERMES)
    assert Renderer.from_config(StudentConfig(model=str(folder))).dialect.thinks
