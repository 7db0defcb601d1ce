"""Conversations in prompt files and in Python: every field kept, or the line refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]
import pytest

from dragoman.api import as_prompts
from dragoman.data import load_prompts
from dragoman.errors import DataError
from dragoman.types import Message, Prompt, ToolCall

USER: dict[str, Any] = {"role": "user", "content": "a"}
SLOT: dict[str, Any] = {"role": "assistant", "sampled": True}
CALL: dict[str, Any] = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1.50}'}}
SCHEMA: dict[str, Any] = {"name": "f", "parameters": {"type": "object"}}
TOOL: dict[str, Any] = {"type": "function", "function": SCHEMA}


def loaded(folder: Path, *rows: object) -> list[Prompt]:
    path = folder / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_prompts(str(path))


def problem(folder: Path, row: object) -> str:
    with pytest.raises(DataError) as caught:
        loaded(folder, {"prompt": "fine"}, row)
    _, line = str(caught.value).splitlines()
    return line.partition("p.jsonl:2: ")[2]


def turn(folder: Path, **fields: object) -> Message:
    """An assistant's turn in the middle of a conversation, as it is read."""
    (prompt,) = loaded(folder, {"messages": [USER, {"role": "assistant", **fields}, USER]})
    assert prompt.messages is not None
    return prompt.messages[1]


# --- what is read


def test_a_whole_conversation(tmp_path: Path) -> None:
    row = {
        "id": "k",
        "tools": [TOOL],
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "a", "name": "Ann"},
            {"role": "assistant", "content": None, "reasoning_content": "Hm.\n", "tool_calls": [CALL]},
            {"role": "tool", "content": "", "tool_call_id": "c1", "name": "f"},
            {"role": "assistant", "content": " b", "tool_calls": None},
            {"role": "user", "content": [{"type": "text", "text": "c"}, {"type": "text", "text": "d"}]},
            SLOT,
        ],
    }
    (prompt,) = loaded(tmp_path, row)
    assert prompt == Prompt(
        key="k",
        tools=(TOOL,),
        messages=(
            Message(role="system", content="Be brief."),
            Message(role="user", content="a", name="Ann"),
            Message(
                role="assistant",
                reasoning_content="Hm.\n",
                tool_calls=(ToolCall(name="f", arguments='{"x": 1.50}', id="c1"),),
            ),
            Message(role="tool", tool_call_id="c1", name="f"),
            Message(role="assistant", content=" b"),
            Message(role="user", content="cd"),
            Message(role="assistant", sampled=True),
        ),
        origin=f"{tmp_path / 'p.jsonl'}:1",
    )
    assert prompt.messages is not None and prompt.messages[-1].is_slot


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_names_of_thinking(tmp_path: Path, name: str) -> None:
    assert turn(tmp_path, content="b", **{name: "Hm."}).reasoning_content == "Hm."


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (CALL, ToolCall(name="f", arguments='{"x": 1.50}', id="c1")),
        # Text is kept as it was written, an object is written out
        ({"function": {"name": "f", "arguments": ' {"é":1}'}}, ToolCall(name="f", arguments=' {"é":1}')),
        ({"name": "f", "arguments": {"é": [1, None]}}, ToolCall(name="f", arguments='{"é": [1, null]}')),
        ({"name": "f", "arguments": {}, "id": "7"}, ToolCall(name="f", arguments="{}", id="7")),
    ],
)
def test_forms_of_calls(tmp_path: Path, call: object, expected: ToolCall) -> None:
    assert turn(tmp_path, tool_calls=[call]).tool_calls == (expected,)


def test_forms_of_tools(tmp_path: Path) -> None:
    row = {"messages": [USER], "tools": [TOOL, SCHEMA, {**TOOL, "strict": True}]}
    (prompt,) = loaded(tmp_path, row)
    assert prompt.tools == (TOOL, TOOL, {**TOOL, "strict": True})
    assert loaded(tmp_path, {"messages": [USER], "tools": None})[0].tools == ()
    assert loaded(tmp_path, {"prompt": "a", "tools": [SCHEMA]})[0].tools == (TOOL,)


def test_sampled_turns(tmp_path: Path) -> None:
    said = {**SLOT, "content": "b"}
    slots, words = loaded(tmp_path, {"messages": [USER, SLOT, USER]}, {"messages": [USER, said]})
    assert slots.messages is not None and words.messages is not None
    assert [m.is_slot for m in slots.messages] == [False, True, False]
    assert words.messages[-1] == Message(role="assistant", content="b", sampled=True)
    assert turn(tmp_path, content="b", sampled=False) == Message(role="assistant", content="b")


def test_parquet_fills_what_other_rows_have_with_nulls(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    rows = [[USER, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "1"}], [USER]]
    pyarrow.parquet.write_table(pyarrow.table({"messages": rows}), path)
    first, second = load_prompts(str(path))
    assert first.messages is not None
    assert first.messages[1].tool_calls == (ToolCall(name="f", arguments='{"x": 1.50}', id="c1"),)
    assert second.messages == (Message(role="user", content="a"),)


# --- what is refused

LONE = "\ud800"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            {**USER, "weight": 1},
            "`messages[0]` has 'weight', which would be lost; expected only role, content",
        ),
        ({**USER, "sampled": True}, "`messages[0]` has 'sampled', which would be lost"),
        ({**USER, "reasoning": "x"}, "`messages[0]` has 'reasoning', which would be lost"),
        ({**USER, "tool_call_id": "c"}, "`messages[0]` has 'tool_call_id', which would be lost"),
        ({"role": "tool"}, '`messages[0]` is {"role": "tool"}, expected an object with role and content'),
        ({"role": "tool", "content": None}, "the content of `messages[0]` is null, expected text"),
        ({**USER, "content": []}, "the content of `messages[0]` is empty, expected text"),
        ({**USER, "content": 3}, "the content of `messages[0]` is 3, expected text"),
        ({**USER, "content": [{"type": "image_url"}]}, 'part 0 of the content of `messages[0]` is {"type":'),
        (
            {**USER, "content": [{"type": "text", "text": "a", "cache": 1}]},
            "part 0 of the content of `messages[0]` is",
        ),
        ({**USER, "name": ""}, "`name` of `messages[0]` is empty, expected text"),
        ({**USER, "content": LONE}, "the content of `messages[0]` holds the lone surrogate U+D800"),
        (SLOT, "`messages[0]` is sampled, but nothing stands before it"),
    ],
)
def test_bad_message(tmp_path: Path, message: object, expected: str) -> None:
    assert problem(tmp_path, {"messages": [message, USER]}).startswith(expected)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, '`messages[1]` is {"role": "assistant"}, expected an object with role and content'),
        ({"content": None}, "the content of `messages[1]` is null, expected text"),
        ({"content": "", "tool_calls": []}, "the content of `messages[1]` is empty, expected text"),
        ({"content": "b", "sampled": 1}, "`sampled` of `messages[1]` is 1, expected true or false"),
        (
            {"content": "b", "reasoning": "x", "thinking": "y"},
            "`messages[1]` has reasoning and thinking, which mean the same; expected one of them",
        ),
        ({"content": "b", "thinking": ["x"]}, '`thinking` of `messages[1]` is ["x"], expected text'),
        ({"tool_calls": {"name": "f"}}, '`tool_calls` of `messages[1]` is {"name": "f"}, expected a list'),
        ({"tool_calls": ["f"]}, '`tool_calls[0]` of `messages[1]` is "f", expected {"function": {"name"'),
    ],
)
def test_bad_turn(tmp_path: Path, fields: dict[str, Any], expected: str) -> None:
    row = {"messages": [USER, {"role": "assistant", **fields}, USER]}
    assert problem(tmp_path, row).startswith(expected)


CALL_0 = "`tool_calls[0]` of `messages[1]`"


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ({"name": "f"}, f"{CALL_0} is"),
        ({"function": {"arguments": {}}}, f"{CALL_0} is"),
        ({"function": {"name": "f", "arguments": {}}, "name": "g"}, f"{CALL_0} is"),
        ({**CALL, "type": "custom"}, f"{CALL_0} is"),
        ({"name": "", "arguments": {}}, f"the name of {CALL_0} is empty"),
        ({"name": "f", "arguments": {}, "id": 7}, f"`id` of {CALL_0} is 7, expected text"),
        ({"name": "f", "arguments": "{"}, f'`arguments` of {CALL_0} is "{{", expected an object, or JSON'),
        ({"name": "f", "arguments": "[1]"}, f'`arguments` of {CALL_0} is "[1]", expected an object'),
        ({"name": "f", "arguments": [1]}, f"`arguments` of {CALL_0} is [1], expected an object"),
        ({"name": "f", "arguments": {"x": LONE}}, f"`arguments` of {CALL_0} holds the lone surrogate"),
    ],
)
def test_bad_call(tmp_path: Path, call: object, expected: str) -> None:
    row = {"messages": [USER, {"role": "assistant", "tool_calls": [call]}, USER]}
    assert problem(tmp_path, row).startswith(expected)


def test_unknown_parts_of_a_call_are_named(tmp_path: Path) -> None:
    row = {"messages": [USER, {"role": "assistant", "tool_calls": [{**CALL, "index": 0}]}, USER]}
    assert problem(tmp_path, row).endswith("; 'index' would be lost")


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        ({"f": SCHEMA}, "`tools` is"),
        ("[]", '`tools` is "[]", expected a list of function definitions'),
        (["f"], '`tools[0]` is "f", expected a function definition'),
        ([TOOL, {"parameters": {}}], "`tools[1]` is"),
        ([{"type": "function", "function": "f"}], "`tools[0]` is"),
        ([{"name": ""}], "the name of `tools[0]` is empty"),
        ([{"name": "f", "description": LONE}], "`tools[0]` holds the lone surrogate"),
        ([{"name": "f", "x": float("nan")}], "`tools[0]` cannot be written as JSON"),
    ],
)
def test_bad_tools(tmp_path: Path, tools: object, expected: str) -> None:
    assert problem(tmp_path, {"messages": [USER], "tools": tools}).startswith(expected)


def test_recorded_and_open_turns_do_not_mix(tmp_path: Path) -> None:
    row = {"messages": [USER, {**SLOT, "content": "b"}, USER, SLOT]}
    assert problem(tmp_path, row).startswith("`messages` has sampled turns with words and without")


# --- prompts given in Python


def test_prompts_in_python() -> None:
    given = Prompt(key="own", text="z")
    found = as_prompts(
        [
            "Once",
            [USER],
            (USER, SLOT),
            {"messages": [USER], "tools": [SCHEMA]},
            {"prompt": "b", "id": 7},
            given,
        ],
        "train",
    )
    assert found == [
        Prompt(key="train:1", text="Once", origin="train:1"),
        Prompt(key="train:2", messages=(Message(role="user", content="a"),), origin="train:2"),
        Prompt(
            key="train:3",
            messages=(Message(role="user", content="a"), Message(role="assistant", sampled=True)),
            origin="train:3",
        ),
        Prompt(key="train:4", messages=(Message(role="user", content="a"),), tools=(TOOL,), origin="train:4"),
        Prompt(key="7", text="b", origin="train:5"),
        given,
    ]


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (["a", ""], "train prompt 2: `prompt` is empty, expected text"),
        ([[{**USER, "weight": 1}]], "train prompt 1: `messages[0]` has 'weight', which would be lost"),
        ([{"message": [USER]}], "train prompt 1: got the fields 'message', expected 'prompt'"),
        ([Prompt(key="k", text="a"), Prompt(key="k", text="b")], "train prompt 2 has the key 'k'"),
    ],
)
def test_bad_prompts_in_python(items: list[Any], expected: str) -> None:
    with pytest.raises(DataError) as caught:
        as_prompts(items, "train")
    assert str(caught.value).startswith(expected)
