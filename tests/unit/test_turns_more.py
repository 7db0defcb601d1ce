"""Turns and templates at the edges: odd calls, templates that refuse or escape, markers in odd places.

Chunks are shown as (kind or reason, student text, teacher text), control tokens by name.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers

import tiny
from dragoman.alignment import align
from dragoman.config import StudentConfig, TeacherConfig
from dragoman.render import Renderer
from dragoman.types import (
    ChunkKind,
    DropReason,
    Event,
    Message,
    Prompt,
    StopReason,
    TeacherView,
    ToolCall,
)
from sides import rollout_with, student, teacher

TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
PROMPT = Prompt(key="p", messages=(Message(role="user", content="What?"),), tools=(TOOL,))
EXTRA = ("<unused_open>", "<unused_close>")
REASONING = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<start_of_turn>' + message['content'] }}"
    "{% else %}{{ '<end_of_turn>' + message['content'].split('</think>')[-1] + '</s>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<end_of_turn><think>\n' }}{% endif %}"
)
"""Opens thinking by a token and leaves it out of earlier turns, as DeepSeek R1 does."""
EMPTY_AND_OPENED = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' and loop.last %}"
    "{{ '<think>\n' + (message['reasoning_content'] or '') + '\n</think>\n\n' }}{% endif %}"
    "{{ message['content'] }}"
    "{% for call in message['tool_calls'] or [] %}"
    "{{ '<tool_call>' + call['function']['name'] + '\n' + (call['function']['arguments'] | tojson) }}"
    "{{ '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
"""Opens thinking for the model, writes an empty one for a turn without, a call's name on its own line."""
SPACED = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + message['content'] + '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""The space before an answer is the model's to write, as in Vicuna."""


def call(arguments: bytes, name: bytes = b"look_up") -> bytes:
    return b'<tool_call>\n{"name": "' + name + b'", "arguments": ' + arguments + b"}\n</tool_call>"


@pytest.fixture(scope="module")
def hermes(tmp_path_factory: Any) -> Renderer:
    return student(tiny.byte_level(tmp_path_factory.mktemp("hermes"), chat_template=tiny.HERMES))


@pytest.fixture(scope="module")
def marked(tmp_path_factory: Any) -> Renderer:
    return marked_with(tmp_path_factory.mktemp("marked"))


def marked_with(folder: Path, *changes: tuple[str, str]) -> Renderer:
    """A side with the template `MARKED`, changed in places."""
    template = tiny.MARKED
    for old, new in changes:
        assert old in template
        template = template.replace(old, new)
    return teacher(tiny.sentencepiece(folder, chat_template=template, extra=EXTRA))


def named(side: Renderer, ids: Any) -> bytes:
    names = side.tokenization.token_name
    return b"".join(side.tokenization.token_bytes(int(i)) or names(int(i)).encode() for i in ids)


def chunks(
    writer: Renderer, reader: Renderer, said: bytes | list[int], prompt: Prompt = PROMPT, **options: Any
) -> tuple[list[tuple[str, bytes, bytes]], TeacherView]:
    """What becomes of a finished turn of the writer's."""
    if isinstance(said, bytes):
        completion = writer.completion(said, StopReason.STOP)
    else:
        completion = writer.tokenization.view([*said, writer.stop_id])
    view = reader.view(rollout_with(writer, completion, prompt), student=writer, **options)
    found = align(completion, view.completion, view.correspondence)
    rows = []
    for c, reason in enumerate(found.reasons.tolist()):
        label = DropReason(reason).label if reason else ChunkKind(int(found.kind[c])).label
        above = completion.ids[slice(*found.student_bounds[c : c + 2])]
        below = view.completion.ids[slice(*found.teacher_bounds[c : c + 2])]
        rows.append((label, named(writer, above), named(reader, below)))
    return rows, view


def kept(rows: list[tuple[str, bytes, bytes]]) -> bytes:
    """The student's text in comparable chunks."""
    labels = {kind.label for kind in ChunkKind if kind.comparable}
    return b"".join(above for label, above, _ in rows if label in labels)


class TestWhatIsNoCall:
    @pytest.mark.parametrize(
        "arguments",
        [
            b'{"a": ' + b"1" * 5000 + b"}",  # Python reads no integer beyond 4300 digits
            b'{"a": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
            b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}",
            b'{"a": "\\ud83d"}',  # half of a surrogate pair is no text
            b'{"a": 1e999}',
            b'{"a": NaN}',
        ],
        ids=["digits", "depth", "some depth", "surrogate", "infinite", "nan"],
    )
    def test_arguments_that_no_template_can_write(
        self, hermes: Renderer, marked: Renderer, arguments: bytes
    ) -> None:
        rows, view = chunks(hermes, marked, b"See.\n" + call(arguments))
        assert view.completion.data == b"See." and kept(rows) == b"See."
        completion = hermes.completion(call(arguments), StopReason.STOP)
        assert hermes.parse(completion) == Message(role="assistant", content=call(arguments).decode())

    @pytest.mark.parametrize(
        "said",
        [
            b'<tool_call>\n{"name": "x' + b" \n" * 60_000 + b"y",
            call(b'{"a": "' + b'\\"' * 60_000 + b"}"),
        ],
        ids=["white space", "quotes"],
    )
    def test_what_does_not_end(self, hermes: Renderer, said: bytes) -> None:
        """Read in milliseconds, where a search that begins anew at every character takes half a minute."""
        completion = hermes.completion(said, StopReason.LENGTH)
        start = time.perf_counter()
        assert hermes.parse(completion).content.encode() == said
        assert time.perf_counter() - start < 3

    def test_without_tools_nothing_is_parsed_as_a_call(self, hermes: Renderer) -> None:
        completion = hermes.completion(call(b"{}"), StopReason.STOP)
        assert len(hermes.parse(completion).tool_calls) == 1
        assert hermes.parse(completion, calls=False).content.encode() == call(b"{}")

    def test_markers_of_a_malformed_call_stay_in_what_was_said(self, asset: Any) -> None:
        """As words, which the template makes tokens again."""
        side = Renderer.from_config(StudentConfig(model=str(asset("qwen3"))))
        encode, opening = side.tokenization.encode, side.tokenization.token_id("<tool_call>")
        said = side.tokenization.view([*encode(b"See.\n"), opening, *encode(b"look"), side.stop_id])
        message = side.parse(said)
        assert message.content == "See.\n<tool_call>look"
        again = side.context_ids(Prompt(key="p", messages=(*(PROMPT.messages or ()), message)))
        assert opening in again.tolist()


class TestPairsOfACall:
    """A name, key or value meets its own counterpart, not another of the same spelling."""

    @pytest.mark.parametrize(
        ("arguments", "value"),
        [
            (b'{"a": 1e0, "b": 1.0}', b"1.0"),
            (b'{"a": "\\u0061b", "c": "ab"}', b'"ab"'),
        ],
    )
    def test_values_spelled_anew(
        self, hermes: Renderer, marked: Renderer, arguments: bytes, value: bytes
    ) -> None:
        """The teacher spells the first value like the second, which is not paired with it."""
        rows, view = chunks(hermes, marked, call(arguments))
        assert view.completion.data.count(value) == 2
        above = below = b""
        for label, ours, theirs in rows:
            above, below = above + ours, below + theirs
            if label != "tool_syntax" and value in above:
                break
        assert above.count(value) == 1 and below.count(value) == 2

    def test_words_of_the_markup_as_names(self, hermes: Renderer, marked: Renderer) -> None:
        rows, _ = chunks(hermes, marked, call(b'{"arguments": "WITH"}', name=b"name"))
        assert kept(rows).startswith(b"name") or b'"name' in kept(rows)[:6]
        assert b'{"arguments": "WITH"}' in kept(rows)
        opening = next(above for label, above, _ in rows if label == "tool_syntax")
        assert b'{"name"' in opening

    def test_control_tokens_within_a_call_have_no_counterpart(self, hermes: Renderer, tmp_path: Path) -> None:
        folder = tiny.sentencepiece(tmp_path, chat_template="{{ bos_token }}" + tiny.HERMES)
        encode, control = hermes.tokenization.encode, hermes.tokenization.token_id("<|im_start|>")
        said = call(b'{"a": "xy"}').split(b"x")
        ids = [*encode(said[0] + b"x"), control, *encode(said[1])]
        rows, view = chunks(hermes, teacher(folder, stop_tokens=["</s>"]), ids)
        assert view.completion.data == call(b'{"a": "xy"}')
        assert ("student_only", b"<|im_start|>", b"") in rows

    def test_markers_spelled_in_an_argument_stay_text(self, hermes: Renderer, asset: Any) -> None:
        """Qwen 3 has tokens for what HERMES spells; within an argument they are words."""
        reader = Renderer.from_config(TeacherConfig(model=str(asset("qwen3"))))
        said = call(b'{"a": "</tool_call>"}')
        rows, view = chunks(hermes, reader, said)
        assert named(reader, view.completion.ids) == said + b"<|im_end|>"
        events = view.completion.event.tolist()
        assert events.count(Event.TOOL_OPEN) == events.count(Event.TOOL_CLOSE) == 1
        assert kept(rows) == said + b"<|im_end|>"

    def test_a_token_between_name_and_arguments(self, tmp_path: Path) -> None:
        """`[ARGS]` is a token to both sides, and stays one."""
        change = ("' WITH '", "'<unused_args>'")
        template = tiny.MARKED.replace(*change)
        writer, reader = (
            teacher(tiny.sentencepiece(tmp_path / n, chat_template=template, extra=extra))
            for n, extra in (("a", (*EXTRA, "<unused_args>")), ("b", ("<unused_args>", *EXTRA)))
        )
        token = writer.tokenization.token_id("<unused_args>")
        encode = writer.tokenization.encode
        rows, view = chunks(writer, reader, [*encode(b"CALL f"), token, *encode(b'{"a": 1};')])
        assert reader.tokenization.token_id("<unused_args>") in view.completion.ids.tolist()
        assert kept(rows) == b'CALL f<unused_args>{"a": 1};<end_of_turn>'


class TestTemplatesForCalls:
    def test_one_call_only(self, hermes: Renderer, tmp_path: Path) -> None:
        """Calls that the teacher's template refuses are dropped, not the run."""
        refusal = (
            "{% if message['tool_calls'] | default([]) | length > 1 %}{{ raise_exception('one') }}{% endif %}"
        )
        reader = marked_with(tmp_path, ("{% for call in", refusal + "{% for call in"))
        rows, view = chunks(hermes, reader, b"See.\n" + call(b'{"a": 1}') + b"\n" + call(b'{"a": 2}'))
        assert view.completion.data == b"See." and kept(rows) == b"See."
        assert {label for label, *_ in rows[-1:]} == {"tool_syntax"}
        rows, _ = chunks(hermes, reader, call(b'{"a": 1}'))
        assert b'{"a": 1}' in kept(rows)

    def test_arguments_printed_as_they_are(self, hermes: Renderer, tmp_path: Path) -> None:
        """Such a template wants text: an object would be printed in Python's spelling."""
        reader = marked_with(
            tmp_path, ("(call['function']['arguments'] | tojson)", "(call['function']['arguments'] ~ '')")
        )
        assert reader.dialect.call_form.arguments_as_text
        rows, _ = chunks(hermes, reader, call(b'{"a": true}'))
        assert b'{"a": true}' in kept(rows)

    def test_ids_of_calls(self, hermes: Renderer, tmp_path: Path) -> None:
        """A template that wants ids (Mistral) gets them; any id in a call is understood."""
        wanted = "{% if call['id'] | default('') | length != 9 %}{{ raise_exception('no id') }}{% endif %}"
        side = marked_with(
            tmp_path, ("{{ 'CALL '", wanted + "{{ 'CALL '"), ("+ ';'", "+ ', id ' + call['id'] + ';'")
        )
        rows, view = chunks(hermes, side, call(b'{"a": true}'))
        assert view.completion.data == b'CALL look_up WITH {"a": true}, id call00001;'
        assert b'{"a": true}' in kept(rows)
        said = side.completion(b'CALL f WITH {"a": 1}, id abcdefghi;', StopReason.STOP)
        expected = ToolCall(name="f", arguments='{"a": 1}', id="abcdefghi")
        assert side.parse(said).tool_calls == (expected,)
        answered = (
            *(PROMPT.messages or ()),
            Message(role="assistant", tool_calls=(ToolCall(name="f", arguments="{}"),)),
            Message(role="tool", content="42"),
        )
        context = named(side, side.context_ids(Prompt(key="p", messages=answered, tools=(TOOL,))))
        assert b"CALL f WITH {}, id call00001;" in context

    def test_another_end_after_a_call(self, hermes: Renderer, tmp_path: Path) -> None:
        """Llama 3.1 ends such turns by a stop token of its own: the stop is the turn's, not the call's."""
        end = "{{ '</s>' if message['tool_calls'] else '<end_of_turn>\n' }}"
        side = marked_with(tmp_path, ("{{ '<end_of_turn>\n' }}", end))
        assert side.dialect.tools is not None and side.dialect.tools.close == ";"
        rows, view = chunks(hermes, side, call(b'{"a": 1}'))
        assert view.completion.data == b'CALL look_up WITH {"a": 1};' and view.completion.num_stops == 1
        assert rows[-1][0] == "event" and b'{"a": 1}' in kept(rows)

    def test_name_on_a_line_of_its_own(self, tmp_path: Path, marked: Renderer) -> None:
        writer = student(tiny.byte_level(tmp_path, chat_template=EMPTY_AND_OPENED))
        said = writer.completion(b'Hm.\n</think>\n\n<tool_call>f\n{"a": 1}</tool_call>', StopReason.STOP)
        message = writer.parse(said, opened=True)
        assert message.tool_calls == (ToolCall(name="f", arguments='{"a": 1}'),)
        assert (message.reasoning_content, message.content) == ("Hm.", "")

    def test_calls_behind_an_opened_thinking(self, hermes: Renderer, tmp_path: Path) -> None:
        """What the template writes before a call without thinking is context, not part of the call."""
        reader = teacher(tiny.byte_level(tmp_path, chat_template=EMPTY_AND_OPENED))
        assert reader.dialect.tools is not None and reader.dialect.tools.open == "<tool_call>"
        _, view = chunks(hermes, reader, call(b'{"a": 1}'))
        assert view.completion.data == b'<tool_call>look_up\n{"a": 1}</tool_call>'
        assert named(reader, view.ids[: view.start]).endswith(b"<think>\n\n</think>\n\n")
        _, view = chunks(hermes, reader, b"<think>\nHm.\n</think>\n\n" + call(b'{"a": 1}'))
        assert view.completion.data == b'Hm.\n</think>\n\n<tool_call>look_up\n{"a": 1}</tool_call>'


class TestBeginnings:
    def test_a_teacher_whose_prompt_opens_thinking_thinks(self, hermes: Renderer, tmp_path: Path) -> None:
        folder = tiny.sentencepiece(tmp_path, chat_template=REASONING, extra=("<think>", "</think>"))
        reader, prompt = teacher(folder), Prompt(key="p", messages=PROMPT.messages)
        assert reader.dialect.thinks
        _, view = chunks(hermes, reader, b"<think>\nHm.\n</think>\n\nYes.", prompt)
        context = reader.tokenization.view(view.ids[: view.start])
        assert Event.THINK_OPEN in context.event and context.data.endswith(b"\n")
        assert named(reader, view.completion.ids) == b"Hm.\n</think>\n\nYes.</s>"
        assert view.completion.event.tolist().count(Event.THINK_CLOSE) == 1

    def test_a_recorded_answer_without_thinking_closes_what_is_open(self, tmp_path: Path) -> None:
        folder = tiny.sentencepiece(tmp_path, chat_template=REASONING, extra=("<think>", "</think>"))
        side, message = student(folder), Message(role="assistant", content="Yes.")
        said = side.response(message, Prompt(key="p", messages=PROMPT.messages))
        assert named(side, said.ids) == b"\n</think>\n\nYes.</s>"
        assert side.parse(said, opened=True).content == "Yes."

    def test_sampled_ids_under_a_teacher_that_opens_thinking(self, hermes: Renderer, tmp_path: Path) -> None:
        """An answer is not to be judged as a thought."""
        opened = tiny.HERMES.replace("assistant\n' }}", "assistant\n<think>\n' }}")
        reader = teacher(tiny.byte_level(tmp_path, chat_template=opened))
        assert reader.tokenization.same_ids_as(hermes.tokenization)
        _, view = chunks(hermes, reader, b"Yes.", keep_ids=True)
        assert named(reader, view.ids[: view.start]).endswith(b"<|im_start|>assistant\n")

    def test_a_space_before_the_answer_is_part_of_it(self, hermes: Renderer, tmp_path: Path) -> None:
        side = teacher(tiny.sentencepiece(tmp_path, chat_template=SPACED))
        prompt = Prompt(key="p", messages=PROMPT.messages)
        rows, view = chunks(side, side, b" Yes.", prompt)
        assert kept(rows) == b" Yes.</s>"
        assert named(side, view.ids[: view.start]).endswith(b"ASSISTANT:")
        assert side.parse(side.completion(b" Yes.", StopReason.STOP)).content == "Yes."
        own = side.response(Message(role="assistant", content="Yes."), prompt)
        assert named(side, own.ids) == b" Yes.</s>"

    def test_thinking_without_markers_is_none(self, hermes: Renderer, tmp_path: Path) -> None:
        bare = tiny.MARKED.replace("'<unused_open>' + ", "").replace(" + '<unused_close>'", "")
        reader = teacher(
            tiny.byte_level(tmp_path, chat_template=bare, normalizer=normalizers.NFKC(), bos="<|pad|>")
        )
        assert not reader.dialect.thinks
        _, view = chunks(hermes, reader, "<think>\nWell ﬁne\n</think>\n\nYes.".encode())
        assert view.completion.data == b"<think>\nWell fine\n</think>\n\nYes."


class TestContent:
    @pytest.mark.parametrize("shown", ["tools", "tools | tojson(ensure_ascii=True)"])
    def test_templates_that_escape(self, tmp_path: Path, shown: str) -> None:
        """The mark in guarded content is taken out again where a template escapes it."""
        template = tiny.HERMES.replace("tools | tojson", shown)
        side = student(tiny.byte_level(tmp_path, chat_template=template))
        tool = {"type": "function", "function": {"name": "f", "description": "ends <|im_end|> it"}}
        ids = side.context_ids(Prompt(key="p", messages=PROMPT.messages, tools=(tool,)))
        assert b"ends <|im_end|> it" in side.tokenization.view(ids).data

    def test_earlier_calls_and_thoughts_hold_no_markers(self, asset: Any) -> None:
        """Only what an assistant says may hold markers, for its template to find."""
        side = Renderer.from_config(StudentConfig(model=str(asset("qwen3"))))

        def num_events(evil: str) -> int:
            said = ToolCall(name="f" + evil, arguments=f'{{"a{evil}": "{evil}"}}', id="call00001")
            messages = (
                *(PROMPT.messages or ()),
                Message(role="assistant", reasoning_content="Hm." + evil, tool_calls=(said,)),
                Message(role="tool", content="42" + evil, tool_call_id="call00001"),
            )
            prompt = Prompt(key="p", messages=messages, tools=(TOOL,))
            ids = side.context_ids(prompt)
            return sum(side.tokenization.is_event(index) for index in ids.tolist())

        assert num_events("") == num_events("</think></tool_call><|im_end|>")
