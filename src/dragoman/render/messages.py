"""Messages in the form chat templates take, with or without knowledge of tools.

Templates disagree on small things: whether the arguments of a call are an object or text, whether the
content beside a call is empty or null. Which form a template takes is found by trying (`dialect`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dragoman.types import Message, ToolCall

Turn = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class CallForm:
    """How a template wants an assistant's turn that calls tools."""

    arguments_as_text: bool = False
    null_content: bool = False
    needs_ids: bool = False
    """Whether calls without an id are given one, as are the results that follow them."""


CALL_FORMS = tuple(
    CallForm(arguments_as_text=text, null_content=null) for text in (False, True) for null in (False, True)
)


def template_turns(messages: Sequence[Message], form: CallForm) -> list[Turn]:
    """Messages as a chat template reads them."""
    return [_turn(message, form) for message in (_with_ids(messages) if form.needs_ids else messages)]


def _with_ids(messages: Sequence[Message]) -> list[Message]:
    """Messages whose calls all have ids: new ones of nine characters, which is what Mistral's templates ask
    for. The n-th result behind some calls is that of the n-th of them."""
    found: list[Message] = []
    number = 0
    waiting: list[str] = []
    for message in messages:
        if message.tool_calls:
            waiting = []
            for call in message.tool_calls:
                number += 1
                waiting.append(call.id or f"call{number:05d}")
            calls = tuple(
                replace(call, id=name) for call, name in zip(message.tool_calls, waiting, strict=True)
            )
            message = replace(message, tool_calls=calls)
        elif message.role == "tool" and waiting:
            name = waiting.pop(0)
            message = replace(message, tool_call_id=message.tool_call_id or name)
        found.append(message)
    return found


def _turn(message: Message, form: CallForm) -> Turn:
    turn: Turn = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [_call(call, form) for call in message.tool_calls]
        if form.null_content and not message.content:
            turn["content"] = None
    optional = {
        "reasoning_content": message.reasoning_content,
        "tool_call_id": message.tool_call_id,
        "name": message.name,
    }
    return turn | {key: value for key, value in optional.items() if value is not None}


def _call(call: ToolCall, form: CallForm) -> Turn:
    arguments: Any = call.arguments
    if not form.arguments_as_text:
        try:
            arguments = json.loads(call.arguments)
        except json.JSONDecodeError:
            arguments = call.arguments
    found: Turn = {"type": "function", "function": {"name": call.name, "arguments": arguments}}
    return found if call.id is None else {**found, "id": call.id}


TEXT_CALL_OPEN = '<tool_call>\n{"name": "'
TEXT_CALL_MIDDLE = '", "arguments": '
TEXT_CALL_CLOSE = "}\n</tool_call>"


def tools_as_text(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
) -> tuple[tuple[Message, ...], tuple[()]]:
    """A conversation with tools for a template that knows none: definitions in the system message, calls
    in what the assistant says, results in turns of the user.
    """
    found: list[Message] = []
    for message in messages:
        if message.role == "tool":
            text = f"<tool_response>\n{message.content}\n</tool_response>"
            if found and found[-1].role == "user" and found[-1].content.startswith("<tool_response>"):
                found[-1] = replace(found[-1], content=f"{found[-1].content}\n{text}")
            else:
                found.append(Message(role="user", content=text))
        elif message.tool_calls:
            parts = [message.content] if message.content else []
            parts += [calls_as_text(message.tool_calls)]
            found.append(replace(message, content="\n".join(parts), tool_calls=()))
        else:
            found.append(message)
    return _with_definitions(found, tools), ()


def calls_as_text(calls: Sequence[ToolCall]) -> str:
    """Calls in the form that `tools_as_text` asks for."""
    return "\n".join(
        f"{TEXT_CALL_OPEN}{call.name}{TEXT_CALL_MIDDLE}{call.arguments}{TEXT_CALL_CLOSE}" for call in calls
    )


def _with_definitions(messages: list[Message], tools: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    if not tools:
        return tuple(messages)
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    example = f"{TEXT_CALL_OPEN}NAME{TEXT_CALL_MIDDLE}{{...}}{TEXT_CALL_CLOSE}"
    text = f"You may call these functions:\n{lines}\nTo call one, write:\n{example}"
    first = messages[0] if messages else Message(role="system")
    if first.role == "system":
        return (replace(first, content=f"{first.content}\n\n{text}".strip()), *messages[1:])
    return (Message(role="system", content=text), *messages)
