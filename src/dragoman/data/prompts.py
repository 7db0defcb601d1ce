"""Prompts from a file or data set, every line checked before the run begins.

A line is an object with a `prompt` (text to continue) or with `messages` (a conversation whose next turn
is the student's), and may have an `id`. A bad line found after hours of training is a bad surprise, so
all are looked at first and reported together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from dragoman.config import resolve_data_path
from dragoman.data.rows import numbered_rows
from dragoman.errors import DataError
from dragoman.types import Message, Prompt

ROLES = ("system", "user", "assistant", "tool")
_MOST_PROBLEMS = 10


class _BadLineError(Exception):
    """What is wrong with one line."""


def load_prompts(
    source: str,
    *,
    prompt_field: str = "prompt",
    messages_field: str = "messages",
    split: str = "train",
    limit: int | None = None,
    base: Path | None = None,
) -> list[Prompt]:
    """The first `limit` prompts (None: all) of a JSON Lines or Parquet file or a Hugging Face data set.

    A relative path is looked up from the working directory, then from `base`. The key of a prompt is its
    `id`, else the file's stem and the line, `train:17`; keys are unique.

    Raises DataError if there is nothing to read, and for bad lines: broken JSON, neither or both of the
    two fields, wrong types, empty text, an unknown role, a conversation that is empty or ends with the
    assistant, an `id` given twice. The first ten are named in one message.
    """
    name = resolve_data_path(source, base)
    prompts: list[Prompt] = []
    problems: list[str] = []
    line_of_key: dict[str, int] = {}
    for number, raw in islice(numbered_rows(name, split), limit):
        origin = f"{name}:{number}"
        try:
            row = _row(raw)
            key = _key(row, f"{Path(name).stem}:{number}")
            if key in line_of_key:
                raise _BadLineError(
                    f"the id {key!r} is that of line {line_of_key[key]} too, expected another"
                )
            line_of_key[key] = number
            prompts.append(_prompt(row, key, origin, prompt_field, messages_field))
        except _BadLineError as problem:
            problems.append(f"{origin}: {problem}")
            if len(problems) == _MOST_PROBLEMS:
                problems.append("no further lines were looked at")
                break
    if problems:
        raise DataError("\n  ".join(["some prompts cannot be used; correct or remove them:", *problems]))
    if not prompts:
        raise DataError(
            f"{name} holds no prompts, expected one a line, such as {{{prompt_field!r}: 'Hello'}}"
        )
    return prompts


def _row(raw: object) -> Mapping[str, Any]:
    value = _parsed(raw) if isinstance(raw, bytes) else raw
    if not isinstance(value, Mapping):
        raise _BadLineError(f"got {_shown(value)}, expected an object")
    return value


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _BadLineError(
            f"got the byte {line[error.start]:#04x} at offset {error.start}, expected UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        raise _BadLineError(
            f"got broken JSON ({error.msg} at column {error.colno}), expected one object a line"
        ) from None


def _key(row: Mapping[str, Any], fallback: str) -> str:
    value = row.get("id")
    if value is None:
        return fallback
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise _BadLineError(f"`id` is {_shown(value)}, expected text or a whole number")
    return str(value)


def _prompt(row: Mapping[str, Any], key: str, origin: str, prompt_field: str, messages_field: str) -> Prompt:
    text, messages = row.get(prompt_field), row.get(messages_field)
    if text is None and messages is None:
        found = ", ".join(map(repr, row)) or "nothing"
        raise _BadLineError(
            f"got the fields {found}, expected {prompt_field!r} (text) or {messages_field!r} (a list); name "
            "others with data.prompt_field and data.messages_field"
        )
    if messages is None:
        if isinstance(text, list):
            raise _BadLineError(
                f"`{prompt_field}` is a list, expected text; if it is a conversation, set "
                f"data.messages_field to {prompt_field!r} and data.prompt_field to another name"
            )
        return Prompt(key=key, text=_text(text, f"`{prompt_field}`"), origin=origin)
    if text is not None:
        raise _BadLineError(f"got both `{prompt_field}` and `{messages_field}`, expected one of them")
    return Prompt(key=key, messages=_messages(messages, messages_field), origin=origin)


def _messages(value: object, field: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise _BadLineError(f"`{field}` is {_shown(value)}, expected a list of messages that is not empty")
    messages = tuple(_message(turn, f"`{field}[{index}]`") for index, turn in enumerate(value))
    if messages[-1].role == "assistant":
        raise _BadLineError(
            f"`{field}` ends with the assistant, but the next turn is to be the student's answer; "
            "expected the last role to be user or tool"
        )
    return messages


def _message(value: object, place: str) -> Message:
    if not isinstance(value, Mapping) or not {"role", "content"} <= value.keys():
        raise _BadLineError(f"{place} is {_shown(value)}, expected an object with role and content")
    if value["role"] not in ROLES:
        raise _BadLineError(
            f"{place} has the role {_shown(value['role'])}, expected one of {', '.join(ROLES)}"
        )
    others = [key for key in value if key not in ("role", "content") and value[key] is not None]
    if others:
        raise _BadLineError(
            f"{place} has {', '.join(map(repr, others))}, which would be lost; expected role and content only"
        )
    return Message(role=value["role"], content=_text(value["content"], f"the content of {place}"))


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise _BadLineError(f"{place} is {_shown(value)}, expected text")
    if not value.strip():
        raise _BadLineError(f"{place} is empty, expected text")
    lone = next((char for char in value if "\ud800" <= char <= "\udfff"), None)
    if lone is not None:
        raise _BadLineError(f"{place} holds the lone surrogate U+{ord(lone):04X}, expected valid Unicode")
    return value


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}..."
