"""Prompts from a file or data set, every line checked before the run begins.

A line is an object with a `prompt` (text to continue) or with `messages` (a conversation with turns of the
student's), and may have `tools` and an `id`. A bad line found after hours of training is a bad surprise, so
all are looked at first and reported together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from dragoman.config import resolve_data_path
from dragoman.data.conversations import BadValueError, read_messages, read_text, read_tools, shown
from dragoman.data.rows import numbered_rows
from dragoman.errors import DataError
from dragoman.types import Prompt

TOOLS_FIELD = "tools"
_MOST_PROBLEMS = 10


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
    two fields, wrong types, empty text, an unknown role or key of a message, a conversation that is empty
    or ends with a turn of the assistant's that is not sampled, an `id` given twice. The first ten are named
    in one message.
    """
    name = resolve_data_path(source, base)
    prompts: list[Prompt] = []
    problems: list[str] = []
    line_of_key: dict[str, int] = {}
    for number, raw in islice(numbered_rows(name, split), limit):
        origin = f"{name}:{number}"
        try:
            row = _row(raw)
            key = f"{Path(name).stem}:{number}"
            prompt = read_prompt(row, key, origin, prompt_field, messages_field)
            if prompt.key in line_of_key:
                raise BadValueError(
                    f"the id {prompt.key!r} is that of line {line_of_key[prompt.key]} too, expected another"
                )
            line_of_key[prompt.key] = number
            prompts.append(prompt)
        except BadValueError as problem:
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
        raise BadValueError(f"got {shown(value)}, expected an object")
    return value


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadValueError(
            f"got the byte {line[error.start]:#04x} at offset {error.start}, expected UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        raise BadValueError(
            f"got broken JSON ({error.msg} at column {error.colno}), expected one object a line"
        ) from None
    except ValueError as error:
        raise BadValueError(f"got JSON that cannot be read ({error}), expected one object a line") from None


def _key(row: Mapping[str, Any], fallback: str) -> str:
    value = row.get("id")
    if value is None:
        return fallback
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise BadValueError(f"`id` is {shown(value)}, expected text or a whole number")
    return str(value)


def read_prompt(
    row: Mapping[str, Any],
    key: str,
    origin: str,
    prompt_field: str = "prompt",
    messages_field: str = "messages",
) -> Prompt:
    """The prompt of one row, named by its `id`, else by `key`; other fields are left aside.

    Raises BadValueError.
    """
    key = _key(row, key)
    text, messages = row.get(prompt_field), row.get(messages_field)
    if text is None and messages is None:
        found = ", ".join(map(repr, row)) or "nothing"
        raise BadValueError(
            f"got the fields {found}, expected {prompt_field!r} (text) or {messages_field!r} (a list); name "
            "others with data.prompt_field and data.messages_field"
        )
    if messages is None:
        if isinstance(text, list):
            raise BadValueError(
                f"`{prompt_field}` is a list, expected text; if it is a conversation, set "
                f"data.messages_field to {prompt_field!r} and data.prompt_field to another name"
            )
        return Prompt(key=key, text=read_text(text, f"`{prompt_field}`"), tools=_tools(row), origin=origin)
    if text is not None:
        raise BadValueError(f"got both `{prompt_field}` and `{messages_field}`, expected one of them")
    return Prompt(key=key, messages=read_messages(messages, messages_field), tools=_tools(row), origin=origin)


def _tools(row: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    value = row.get(TOOLS_FIELD)
    return () if value is None else read_tools(value, TOOLS_FIELD)
