"""Templates that begin a turn for the model: with thinking left open, or with an empty one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tiny
from dragoman.alignment import align
from dragoman.types import DropReason, Event, Message, Prompt
from sides import context_bytes, rollout_of, student, teacher

PROMPT = Prompt(key="p", messages=(Message(role="user", content="What is the answer?"),))
OPENED = tiny.HERMES.replace("assistant\n' }}", "assistant\n<think>\n' }}")
"""Leaves thinking open for the model, as DeepSeek R1 does."""
EMPTY = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' and loop.last %}"
    "{{ '<think>\n' + (message['reasoning_content'] or '') + '\n</think>\n\n' }}{% endif %}"
    "{{ message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
"""Writes an empty thinking before an answer without, as Qwen 3 does."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: Any) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("sides")
    return {
        "opened": tiny.byte_level(base / "opened", chat_template=OPENED),
        "empty": tiny.byte_level(base / "empty", chat_template=EMPTY),
        "hermes": tiny.byte_level(base / "hermes", chat_template=tiny.HERMES),
        "marked": tiny.sentencepiece(
            base / "marked", chat_template=tiny.MARKED, extra=("<unused_open>", "<unused_close>")
        ),
    }


def test_the_student_starts_within_thinking(folders: dict[str, Path]) -> None:
    writer = student(folders["opened"])
    assert writer.dialect.tail == "<think>\n" and writer.dialect.tail_opens_thinking
    message = Message(role="assistant", content="Yes.", reasoning_content="Well.")
    completion = writer.response(message, PROMPT)
    assert completion.data == b"Well.\n</think>\n\nYes."
    assert writer.parse(completion, opened=True) == message
    rollout = rollout_of(writer, completion.data, PROMPT)
    for thinking, opening, rest in (
        ("teacher-format", b"assistant\n", b"Well.Yes."),
        ("keep", b"assistant\n<think>\n", completion.data),
        ("drop", b"assistant\n", b"Yes."),
    ):
        reader = teacher(folders["marked"], thinking=thinking)
        view = reader.view(rollout, student=writer)
        context = reader.tokenization.view(view.ids[: view.start])
        assert context.data.endswith(opening) and view.completion.data == rest
        # What opened thinking for the student opens it for the teacher, in its own context.
        assert (context.event[-1] == Event.THINK_OPEN) == (thinking == "teacher-format")
        alignment = align(rollout.completion, view.completion, view.correspondence)
        assert (alignment.coverage == 1.0) == (thinking != "drop")


def test_the_teacher_starts_within_thinking(folders: dict[str, Path]) -> None:
    writer, reader = student(folders["hermes"]), teacher(folders["opened"])
    rollout = rollout_of(writer, b"<think>\nWell.\n</think>\n\nYes.", PROMPT)
    view = reader.view(rollout, student=writer)
    assert context_bytes(reader, view.ids[: view.start]).endswith(b"assistant\n<think>\n")
    assert view.completion.data == b"Well.\n</think>\n\nYes."
    alignment = align(rollout.completion, view.completion, view.correspondence)
    opening = len(writer.tokenization.encode(b"<think>\n"))
    assert (alignment.reasons[alignment.chunk_of[:opening]] == DropReason.STUDENT_ONLY).all()
    assert (alignment.reasons[alignment.chunk_of[opening:]] == DropReason.NONE).all()


def test_an_answer_without_thinking_for_a_teacher_that_would_think(folders: dict[str, Path]) -> None:
    writer, reader = student(folders["hermes"]), teacher(folders["opened"])
    view = reader.view(rollout_of(writer, b"Yes.", PROMPT), student=writer)
    assert context_bytes(reader, view.ids[: view.start]).endswith(b"assistant\n")
    assert view.completion.data == b"Yes." and view.correspondence is None


@pytest.mark.parametrize("thinks", [True, False])
def test_the_empty_thinking_is_context(folders: dict[str, Path], thinks: bool) -> None:
    writer = student(folders["hermes"])
    reader = teacher(folders["empty"], chat_template_kwargs={"enable_thinking": thinks})
    view = reader.view(rollout_of(writer, b"Yes.", PROMPT), student=writer)
    context = context_bytes(reader, view.ids[: view.start])
    assert context.endswith(b"assistant\n<think>\n\n</think>\n\n") and view.completion.data == b"Yes."
    assert context.count(b"</think>") == 1
    view = reader.view(rollout_of(writer, b"<think>\nWell.\n</think>\n\nYes.", PROMPT), student=writer)
    context = context_bytes(reader, view.ids[: view.start])
    assert context.endswith(b"assistant\n") and b"</think>" not in context
    assert view.completion.data == b"<think>\nWell.\n</think>\n\nYes."


def test_the_students_own_empty_thinking_is_not_shown(folders: dict[str, Path]) -> None:
    writer, reader = student(folders["empty"]), teacher(folders["marked"])
    rollout = rollout_of(writer, b"<think>\n\n</think>\n\nYes.", PROMPT)
    view = reader.view(rollout, student=writer)
    alignment = align(rollout.completion, view.completion, view.correspondence)
    assert view.completion.data == b"Yes."
    opening = len(writer.tokenization.encode(b"<think>\n\n</think>\n\n"))
    assert (alignment.reasons[alignment.chunk_of[:opening]] == DropReason.STUDENT_ONLY).all()
    assert writer.parse(rollout.completion) == Message(role="assistant", content="Yes.")
