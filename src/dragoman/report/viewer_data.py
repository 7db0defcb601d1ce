"""A record as packed columns for the viewer's script.

A column is a little-endian typed array in base64, `{"f4": "..."}`: a tenth of a second to read for 100,000
tokens, and float32 values arrive exactly as recorded. Labels are stored once each and referred to by number.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
from rich.cells import cell_len

from dragoman.observe import Record
from dragoman.report.layout import printable, token_label
from dragoman.report.passages import ENDINGS
from dragoman.types import Alignment, Message, Prompt, TokenText

Column = dict[str, str]


def record_columns(record: Record) -> dict[str, Any]:
    """Everything the page shows of one rollout. Log-probs and credits are nats; NaN is a missing value."""
    rollout, alignment, supervision = record.rollout, record.alignment, record.supervision
    return {
        "key": printable(rollout.key),
        "step": record.step,
        "turn": rollout.turn,
        "ending": ENDINGS[rollout.stop],
        "temperature": rollout.temperature,
        "policy_version": rollout.policy_version,
        "num_clamped": None if supervision is None or supervision.credit is None else supervision.num_clamped,
        "coverage": None if alignment is None else alignment.coverage,
        "teacher_name": None if record.view is None else printable(record.view.teacher),
        "prompt": conversation(rollout.prompt),
        "text": printable(rollout.completion.data.decode("utf-8", errors="replace")),
        "data": base64.b64encode(rollout.completion.data).decode(),
        "student": _student_columns(record),
        "teacher": _teacher_columns(record),
        "chunks": None if alignment is None or record.view is None else _chunk_columns(alignment),
    }


def _student_columns(record: Record) -> dict[str, Any]:
    rollout, supervision = record.rollout, record.supervision
    columns = {
        **_token_columns(rollout.completion),
        "logp": _floats(rollout.behaviour_logp),
        "entropy": _floats(rollout.entropy),
        "stop": _floats(rollout.stop_logp),
        "credit": None,
        "reason": None,
    }
    if supervision is not None:
        columns["reason"] = whole_numbers(supervision.reason)
        if supervision.credit is not None:
            trained = np.where(supervision.weight > 0, supervision.credit, np.float32(np.nan))
            columns["credit"] = _floats(trained)
    return columns


def _teacher_columns(record: Record) -> dict[str, Any] | None:
    if record.view is None:
        return None
    scores = record.scores
    return {
        **_token_columns(record.view.completion),
        "logp": None if scores is None else _floats(scores.logp),
        "stop": None if scores is None else _floats(scores.stop_logp),
        "reason": None if scores is None else whole_numbers(scores.missing),
    }


def _token_columns(text: TokenText) -> dict[str, Any]:
    """Labels with their widths in terminal cells, and per token its label, id, number of bytes, flags."""
    number_of: dict[str, int] = {}
    labels = [number_of.setdefault(token_label(text, i), len(number_of)) for i in range(len(text))]
    return {
        "names": list(number_of),
        "cells": [max(cell_len(name), 1) for name in number_of],
        "label": whole_numbers(np.array(labels, np.int64)),
        "id": whole_numbers(text.ids),
        "size": whole_numbers(np.diff(text.bounds)),
        "event": whole_numbers(text.event),
        "odd": whole_numbers(~text.canonical),
    }


def _chunk_columns(alignment: Alignment) -> dict[str, Column]:
    return {
        "student": whole_numbers(np.diff(alignment.student_bounds)),
        "teacher": whole_numbers(np.diff(alignment.teacher_bounds)),
        "kind": whole_numbers(alignment.kind),
        "reason": whole_numbers(alignment.reasons),
    }


def whole_numbers(values: np.ndarray) -> Column:
    """Numbers from 0 on, in the narrowest unsigned type that holds them.

    >>> whole_numbers(np.array([1, 2, 255])), whole_numbers(np.array([258]))
    ({'u1': 'AQL/'}, {'u2': 'AgE='})
    """
    if len(values) and not 0 <= int(values.min()) <= int(values.max()) < 1 << 32:
        raise ValueError(f"expected whole numbers below 2^32, got {values.min()} to {values.max()}")
    largest = int(values.max()) if len(values) else 0
    width = 1 if largest < 1 << 8 else 2 if largest < 1 << 16 else 4
    return {f"u{width}": base64.b64encode(values.astype(f"<u{width}").tobytes()).decode()}


def _floats(values: np.ndarray | None) -> Column | None:
    """Float32 values as they are; None where there is no such column."""
    return None if values is None else {"f4": base64.b64encode(values.astype("<f4").tobytes()).decode()}


def conversation(prompt: Prompt) -> list[dict[str, Any]]:
    """The turns before the response: role, text, and where present thinking, calls and tools."""
    if prompt.messages is None:
        return [{"role": "text", "content": printable(prompt.text or "")}]
    tools = [json.dumps(dict(tool), ensure_ascii=False, indent=2) for tool in prompt.tools]
    given = [{"role": "tools", "content": printable("\n".join(tools))}] if tools else []
    return given + [_turn(message) for message in prompt.messages]


def _turn(message: Message) -> dict[str, Any]:
    named = [message.role, message.name, message.tool_call_id and f"answers {message.tool_call_id}"]
    turn: dict[str, Any] = {
        "role": printable(" · ".join(part for part in named if part)),
        "content": printable(message.content),
    }
    if message.reasoning_content is not None:
        turn["thinking"] = printable(message.reasoning_content)
    if message.tool_calls:
        turn["calls"] = [
            printable(f"{call.name}({call.arguments})" + (f"  id {call.id}" if call.id else ""))
            for call in message.tool_calls
        ]
    return turn
