"""Conversations as plain objects (JSON, Parquet, Python), read strictly: nothing in them is lost unsaid.

Messages and tools are in OpenAI's form. An assistant's turn with `sampled: true` is the student's: without
words a place where it is to write, with words a recording of what it wrote.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from dragoman.types import Message, ToolCall

ROLES = ("system", "developer", "user", "assistant", "tool")
_THINKING = ("reasoning_content", "reasoning", "thinking")
_FIELDS = {
    "system": ("name",),
    "user": ("name",),
    "assistant": ("name", "tool_calls", "sampled", *_THINKING),
    "tool": ("name", "tool_call_id"),
}
"""What a message of each role may have besides role and content."""


class BadValueError(Exception):
    """What is wrong with a value, without where it was found."""


def read_messages(value: object, field: str) -> tuple[Message, ...]:
    """A list of messages; `field` names it in errors. Raises BadValueError for anything not understood, and
    for a conversation after which nothing is left to be written or in which the student begins.
    """
    if not isinstance(value, list | tuple) or not value:
        raise BadValueError(f"`{field}` is {shown(value)}, expected a list of messages that is not empty")
    messages = tuple(_message(turn, f"`{field}[{index}]`") for index, turn in enumerate(value))
    if messages[-1].role == "assistant" and not messages[-1].sampled:
        raise BadValueError(
            f"`{field}` ends with the assistant, but the next turn is to be the student's answer; "
            "expected the last role to be user or tool, or `sampled: true` on that turn"
        )
    if messages[0].sampled:
        raise BadValueError(
            f"`{field}[0]` is sampled, but nothing stands before it; expected a message the student answers"
        )
    if len({message.is_slot for message in messages if message.sampled}) > 1:
        raise BadValueError(
            f"`{field}` has sampled turns with words and without; expected all with words (a recording) or "
            "none (the student writes). Take `sampled` from turns that are only context"
        )
    return messages


def read_tools(value: object, field: str) -> tuple[Mapping[str, Any], ...]:
    """Definitions of functions in OpenAI's form; bare function schemas are put into it."""
    if not isinstance(value, list | tuple):
        raise BadValueError(f"`{field}` is {shown(value)}, expected a list of function definitions")
    return tuple(_tool(tool, f"`{field}[{index}]`") for index, tool in enumerate(value))


def read_text(value: object, place: str) -> str:
    """Text that is not empty and has no lone surrogates, which no tokenizer could encode."""
    text = _any_text(value, place)
    if not text.strip():
        raise BadValueError(f"{place} is empty, expected text")
    return text


def shown(value: object) -> str:
    """A value as errors quote it."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _message(value: object, place: str) -> Message:
    if not isinstance(value, Mapping) or "role" not in value:
        raise BadValueError(f"{place} is {shown(value)}, expected an object with role and content")
    given = {key: item for key, item in value.items() if item is not None}
    role = given.get("role")
    if role not in ROLES:
        raise BadValueError(f"{place} has the role {shown(role)}, expected one of {', '.join(ROLES)}")
    role = "system" if role == "developer" else str(role)
    allowed = ("role", "content", *_FIELDS[role])
    if others := [key for key in given if key not in allowed]:
        raise BadValueError(
            f"{place} has {', '.join(map(repr, others))}, which would be lost; expected only "
            f"{', '.join(allowed)} for the role {role}"
        )
    sampled = given.get("sampled", False)
    if not isinstance(sampled, bool):
        raise BadValueError(f"`sampled` of {place} is {shown(sampled)}, expected true or false")
    message = Message(
        role=role,
        content=_content(given.get("content"), f"the content of {place}"),
        reasoning_content=_reasoning(given, place),
        tool_calls=_calls(given.get("tool_calls", ()), place),
        tool_call_id=_optional(given, "tool_call_id", place),
        name=_optional(given, "name", place),
        sampled=sampled,
    )
    _check_words(message, value, place)
    return message


def _check_words(message: Message, value: Mapping[str, Any], place: str) -> None:
    """A message has to say something; a tool may have nothing to say, and a sampled turn is still open."""
    if message.sampled or message.tool_calls or message.reasoning_content:
        return
    if "content" not in value:
        raise BadValueError(f"{place} is {shown(value)}, expected an object with role and content")
    if message.role != "tool" or value["content"] is None:
        read_text(None if value["content"] is None else message.content, f"the content of {place}")


def _content(value: object, place: str) -> str:
    """Text, or the texts of a list of parts joined; none for null."""
    if not isinstance(value, list | tuple):
        return "" if value is None else _any_text(value, place)
    texts = []
    for index, part in enumerate(value):
        if not isinstance(part, Mapping) or part.get("type") != "text" or set(part) != {"type", "text"}:
            raise BadValueError(
                f'part {index} of {place} is {shown(part)}, expected {{"type": "text", "text": ...}}: only '
                "text can be rendered"
            )
        texts.append(_any_text(part["text"], f"part {index} of {place}"))
    return "".join(texts)


def _reasoning(given: Mapping[str, Any], place: str) -> str | None:
    names = [name for name in _THINKING if name in given]
    if len(names) > 1:
        raise BadValueError(f"{place} has {' and '.join(names)}, which mean the same; expected one of them")
    return _any_text(given[names[0]], f"`{names[0]}` of {place}") if names else None


def _optional(given: Mapping[str, Any], key: str, place: str) -> str | None:
    return read_text(given[key], f"`{key}` of {place}") if key in given else None


def _calls(value: object, place: str) -> tuple[ToolCall, ...]:
    if not isinstance(value, list | tuple):
        raise BadValueError(f"`tool_calls` of {place} is {shown(value)}, expected a list of calls")
    return tuple(_call(call, f"`tool_calls[{index}]` of {place}") for index, call in enumerate(value))


def _call(value: object, place: str) -> ToolCall:
    """A call in OpenAI's form, `{"id", "type", "function": {"name", "arguments"}}`, or flat."""
    wrong = f'{place} is {shown(value)}, expected {{"function": {{"name": ..., "arguments": ...}}}}'
    outer = _given(value, ("id", "type", "function", "name", "arguments"), wrong)
    function = outer
    if "function" in outer:
        function = _given(outer["function"], ("name", "arguments"), wrong)
        if "name" in outer or "arguments" in outer:
            raise BadValueError(wrong)
    if not {"name", "arguments"} <= function.keys() or outer.get("type", "function") != "function":
        raise BadValueError(wrong)
    return ToolCall(
        name=read_text(function["name"], f"the name of {place}"),
        arguments=_arguments(function["arguments"], f"`arguments` of {place}"),
        id=_optional(outer, "id", place),
    )


def _arguments(value: object, place: str) -> str:
    """JSON text of an object, as it was written if it was text."""
    text = value if isinstance(value, str) else _json(value, place)
    try:
        parsed = json.loads(text)
    except json.JSONDecodeError:
        parsed = None
    if not isinstance(parsed, dict):
        raise BadValueError(f"{place} is {shown(value)}, expected an object, or JSON text of one")
    return _any_text(text, place)


def _tool(value: object, place: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadValueError(f"{place} is {shown(value)}, expected a function definition")
    _any_text(_json(value, place), place)
    tool = dict(value) if "function" in value else {"type": "function", "function": dict(value)}
    function = tool["function"]
    if not isinstance(function, Mapping) or "name" not in function:
        raise BadValueError(f"{place} is {shown(value)}, expected a function definition with a name")
    read_text(function["name"], f"the name of {place}")
    return tool


def _given(value: object, allowed: Iterable[str], wrong: str) -> dict[str, Any]:
    """The keys of an object that are not null."""
    if not isinstance(value, Mapping):
        raise BadValueError(wrong)
    given = {key: item for key, item in value.items() if item is not None}
    if others := [key for key in given if key not in allowed]:
        raise BadValueError(f"{wrong}; {', '.join(map(repr, others))} would be lost")
    return given


def _json(value: object, place: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadValueError(f"{place} cannot be written as JSON: {error}") from None


def _any_text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise BadValueError(f"{place} is {shown(value)}, expected text")
    lone = next((char for char in value if "\ud800" <= char <= "\udfff"), None)
    if lone is not None:
        raise BadValueError(f"{place} holds the lone surrogate U+{ord(lone):04X}, expected valid Unicode")
    return value
