"""Turns with thinking and tool calls: taken apart, rewritten for the teacher, aligned.

The student spells everything out (`HERMES`), the teacher has tokens for thinking and another form of calls
(`MARKED`), or the other way round.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from dragoman.alignment import align
from dragoman.errors import ConfigError, RenderError
from dragoman.render import Renderer
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
    ToolCall,
)
from sides import rollout_of, rollout_with, student, teacher

PROMPT = Prompt(
    key="p",
    messages=(Message(role="user", content="What is the answer?"),),
    tools=({"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}},),
)
CALL = b'<tool_call>\n{"name": "look_up", "arguments": {"word": "42"}}\n</tool_call>'


@pytest.fixture(scope="module")
def hermes(tmp_path_factory: Any) -> Path:
    return tiny.byte_level(tmp_path_factory.mktemp("hermes"), chat_template=tiny.HERMES)


@pytest.fixture(scope="module")
def marked(tmp_path_factory: Any) -> Path:
    return tiny.sentencepiece(
        tmp_path_factory.mktemp("marked"),
        chat_template=tiny.MARKED,
        extra=("<unused_open>", "<unused_close>"),
    )


def seen(rollout: Rollout, writer: Renderer, reader: Renderer) -> tuple[TeacherView, Alignment]:
    view = reader.view(rollout, student=writer)
    return view, align(rollout.completion, view.completion, view.correspondence)


def texts(rollout: Rollout, view: TeacherView, alignment: Alignment) -> list[tuple[str, bytes, bytes]]:
    """Chunks as (kind or reason, student bytes, teacher bytes)."""
    rows = []
    for c in range(alignment.num_chunks):
        above, below = (
            b"".join(text.token_bytes(i) for i in range(*bounds[c : c + 2].tolist()))
            for text, bounds in (
                (rollout.completion, alignment.student_bounds),
                (view.completion, alignment.teacher_bounds),
            )
        )
        reason = DropReason(int(alignment.reasons[c]))
        rows.append((reason.label if reason else ChunkKind(int(alignment.kind[c])).label, above, below))
    return rows


class TestMarkers:
    def test_spelled_out(self, hermes: Path) -> None:
        dialect = student(hermes).dialect
        assert (dialect.think_open, dialect.think_close) == ("<think>\n", "\n</think>\n\n")
        assert dialect.thinks and dialect.lists_tools and dialect.answer_open == ""
        assert dialect.tools is not None
        assert dialect.tools.open == '<tool_call>\n{"name": "' and dialect.tools.close == "}\n</tool_call>"
        assert (dialect.tools.middle, dialect.tools.separator) == ('", "arguments": ', "\n")

    def test_as_tokens(self, marked: Path) -> None:
        side = teacher(marked)
        events = {side.tokenization.token_name(i): e for i, e in side.tokenization.markers.items()}
        assert events == {"<unused_open>": Event.THINK_OPEN, "<unused_close>": Event.THINK_CLOSE}
        assert side.dialect.tools is not None
        assert (side.dialect.tools.open, side.dialect.tools.middle) == ("CALL ", " WITH ")
        assert side.dialect.tools.close == ";" and not side.dialect.lists_tools

    def test_template_without_tools_or_thinking(self, tmp_path: Path) -> None:
        dialect = student(tiny.byte_level(tmp_path)).dialect
        assert dialect.tools is None and not dialect.thinks
        assert dialect.think_open == "<think>\n"


class TestParse:
    def test_thinking_answer_and_call(self, hermes: Path) -> None:
        side = student(hermes)
        data = b"<think>\nWell.\n</think>\n\nLet me see.\n" + CALL
        assert side.parse(side.completion(data, StopReason.STOP)) == Message(
            role="assistant",
            content="Let me see.",
            reasoning_content="Well.",
            tool_calls=(ToolCall(name="look_up", arguments='{"word": "42"}'),),
        )

    @pytest.mark.parametrize(
        "data",
        [
            b'<tool_call>\n{"name": "look_up", "arguments": {"word": }}\n</tool_call>',
            b'<tool_call>\n{"name": "look_up", "arguments": {"word": "42"}',
            b"<tool_call>look_up</tool_call>",
            b'<tool_call>\n{"name": "look_up", "arguments": "42"}\n</tool_call>',
            CALL + b"\n<tool_call>",
        ],
    )
    def test_malformed_calls_are_what_is_said(self, hermes: Path, data: bytes) -> None:
        side = student(hermes)
        found = side.parse(side.completion(data, StopReason.STOP))
        assert found.tool_calls == () and found.content.encode() == data

    def test_thinking_that_was_cut(self, hermes: Path) -> None:
        side = student(hermes)
        found = side.parse(side.completion(b"<think>\nWell", StopReason.LENGTH))
        assert (found.reasoning_content, found.content) == ("Well", "")

    def test_a_marker_later_in_the_text_is_text(self, hermes: Path) -> None:
        side = student(hermes)
        data = b"One writes <think> and </think>."
        assert side.parse(side.completion(data, StopReason.STOP)).content.encode() == data

    def test_opened_by_the_context(self, hermes: Path) -> None:
        side = student(hermes)
        completion = side.completion(b"Well.\n</think>\n\nYes.", StopReason.STOP)
        found = side.parse(completion, opened=True)
        assert (found.reasoning_content, found.content) == ("Well.", "Yes.")


class TestThinking:
    DATA = b"<think>\nWell.\n</think>\n\nYes."

    def test_teacher_format(self, hermes: Path, marked: Path) -> None:
        rollout = rollout_of(writer := student(hermes), self.DATA, PROMPT)
        view, alignment = seen(rollout, writer, teacher(marked))
        assert view.completion.data == b"Well.Yes."
        kinds = [row[0] for row in texts(rollout, view, alignment)]
        assert kinds[0] == kinds[-1] == "event" and alignment.coverage == 1.0
        opening = view.completion.event.tolist()
        assert opening.count(Event.THINK_OPEN) == opening.count(Event.THINK_CLOSE) == 1

    def test_tokens_of_the_student_meet_spelled_out_ones(self, hermes: Path, marked: Path) -> None:
        writer = student(marked)
        message = Message(role="assistant", content="Yes.", reasoning_content="Well.")
        completion = writer.response(message, PROMPT)
        rollout = rollout_with(writer, completion, PROMPT)
        view, alignment = seen(rollout, writer, teacher(hermes))
        assert view.completion.data == b"<think>\nWell.\n</think>\n\nYes."
        rows = texts(rollout, view, alignment)
        assert rows[0] == ("event", b"", b"<think>\n") and alignment.coverage == 1.0

    def test_keep(self, hermes: Path, marked: Path) -> None:
        rollout = rollout_of(writer := student(hermes), self.DATA, PROMPT)
        view, alignment = seen(rollout, writer, teacher(marked, thinking="keep"))
        assert view.completion.data == self.DATA and alignment.coverage == 1.0

    def test_drop(self, hermes: Path, marked: Path) -> None:
        rollout = rollout_of(writer := student(hermes), self.DATA, PROMPT)
        view, alignment = seen(rollout, writer, teacher(marked, thinking="drop"))
        assert view.completion.data == b"Yes."
        first = texts(rollout, view, alignment)[0]
        assert first[0] == "thinking" and first[1].startswith(b"<think>") and first[2] == b""

    def test_equal_tokenizers(self, hermes: Path) -> None:
        """Sampled ids are kept where both sides write such a turn alike, and only there."""
        side = student(hermes)
        odd = [
            i for byte in b"<think>\nWell.\n</think>\n\nYes." for i in side.tokenization.encode(bytes([byte]))
        ]
        completion = side.tokenization.view([*odd, side.stop_id])
        rollout = rollout_with(side, completion, PROMPT)
        kept = teacher(hermes).view(rollout, student=side, keep_ids=True)
        assert np.array_equal(kept.completion.ids, completion.ids) and kept.correspondence is None
        dropped = teacher(hermes, thinking="drop").view(rollout, student=side, keep_ids=True)
        assert dropped.completion.data == b"Yes."

    def test_format_the_teacher_does_not_have(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="writes no thinking"):
            teacher(tiny.byte_level(tmp_path), thinking="teacher-format")

    def test_cut_within_thinking(self, hermes: Path, marked: Path) -> None:
        rollout = rollout_of(writer := student(hermes), b"<think>\nWell", PROMPT, StopReason.LENGTH)
        view, alignment = seen(rollout, writer, teacher(marked))
        assert view.completion.data == b"Well" and alignment.coverage == 1.0
        assert view.completion.num_stops == 0


class TestToolCalls:
    def test_other_syntax(self, hermes: Path, marked: Path) -> None:
        rollout = rollout_of(writer := student(hermes), b"See.\n" + CALL, PROMPT)
        view, alignment = seen(rollout, writer, teacher(marked))
        assert view.completion.data == b'See.CALL look_up WITH {"word": "42"};'
        rows = texts(rollout, view, alignment)
        agreeing = b"".join(above for kind, above, below in rows if above == below)
        assert agreeing.startswith(b"See.")
        assert b"look_up" in agreeing and b'{"word": "42"}' in agreeing
        for kind, above, below in rows:
            assert above == below or kind in ("tool_syntax", "teacher-only", "event"), (kind, above, below)
        assert b"<tool_call>" not in view.completion.data

    def test_same_syntax_keeps_every_byte(self, hermes: Path, tmp_path: Path) -> None:
        other = tiny.sentencepiece(tmp_path, chat_template="{{ bos_token }}" + tiny.HERMES)
        data = CALL.replace(b'": ', b'":')
        rollout = rollout_of(writer := student(hermes), data, PROMPT)
        reader = teacher(other, stop_tokens=["</s>"])
        view, alignment = seen(rollout, writer, reader)
        assert view.completion.data == data and alignment.coverage == 1.0

    def test_without_tools_nothing_is_a_call(self, hermes: Path, marked: Path) -> None:
        writer, data = student(hermes), b"See.\n" + CALL
        rollout = replace(rollout_of(writer, data, PROMPT), prompt=replace(PROMPT, tools=()))
        view, alignment = seen(rollout, writer, teacher(marked))
        assert view.completion.data == data and alignment.coverage == 1.0

    def test_what_only_begins_like_a_call_is_text(self, hermes: Path, marked: Path) -> None:
        """`CALL ` is no markup: only a whole call is one."""
        writer, data = student(marked), b"They CALL it luck."
        view, alignment = seen(rollout_of(writer, data, PROMPT), writer, teacher(hermes))
        assert view.completion.data == data and alignment.coverage == 1.0
        assert writer.parse(writer.completion(data, StopReason.STOP)).content.encode() == data

    def test_malformed(self, hermes: Path, marked: Path) -> None:
        """Neither the call nor what follows it can be judged."""
        rollout = rollout_of(writer := student(hermes), b"See.\n<tool_call>look", PROMPT)
        view, alignment = seen(rollout, writer, teacher(marked))
        assert view.completion.data == b"See."
        assert texts(rollout, view, alignment)[-1][0] == "tool_syntax"
        dropped = np.diff(alignment.student_bounds)[alignment.reasons == DropReason.TOOL_SYNTAX].sum()
        assert dropped >= len(rollout.completion) - len(b"See.") - 1

    def test_template_without_tools(self, hermes: Path, tmp_path: Path) -> None:
        folder = tiny.sentencepiece(tmp_path)
        prompt = Prompt(
            key="p",
            messages=(
                Message(role="user", content="Look."),
                Message(role="assistant", tool_calls=(ToolCall(name="f", arguments="{}"),)),
                Message(role="tool", content="42"),
            ),
        )
        with pytest.raises(RenderError, match="has no form for tool calls"):
            teacher(folder).context_ids(prompt)
        as_text = teacher(folder, tools="text")
        data = as_text.tokenization.view(as_text.context_ids(prompt)).data
        assert b'<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>' in data
        assert b"<tool_response>\n42\n</tool_response>" in data
        rollout = rollout_of(writer := student(hermes), CALL, PROMPT)
        view, alignment = seen(rollout, writer, as_text)
        assert view.completion.data == CALL and alignment.coverage == 1.0
