"""A record as columns of plain values, for the viewer's script."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from rich.cells import cell_len

from dragoman.observe import Record
from dragoman.report.layout import printable, token_label
from dragoman.report.passages import ENDINGS
from dragoman.types import Alignment, ChunkKind, DropReason, Message, Prompt, TokenText

DIGITS = 4


def record_columns(record: Record) -> dict[str, Any]:
    """Everything the page shows of one rollout. Numbers are nats, rounded to four digits behind the point."""
    rollout, supervision, alignment = record.rollout, record.supervision, record.alignment
    size = len(rollout.completion)
    student = {
        **_token_columns(rollout.completion),
        "p": _numbers(rollout.behaviour_logp),
        "entropy": _numbers(rollout.entropy),
        "stop": _numbers(rollout.stop_logp),
        "credit": None,
        "reason": [0] * size,
    }
    if supervision is not None:
        student["reason"] = supervision.reason.tolist()
        if supervision.credit is not None:
            student["credit"] = _numbers(
                np.where(supervision.weight > 0, supervision.credit, np.float32(np.nan))
            )
    teacher = None
    if record.view is not None:
        teacher = _token_columns(record.view.completion)
        scores = record.scores
        teacher["t"] = None if scores is None else _numbers(scores.logp)
        teacher["stop"] = None if scores is None else _numbers(scores.stop_logp)
        teacher["missing"] = [0] * len(record.view.completion) if scores is None else scores.missing.tolist()
    return {
        "key": rollout.key,
        "step": record.step,
        "turn": rollout.turn,
        "ending": ENDINGS[rollout.stop],
        "temperature": rollout.temperature,
        "teacher_name": None if record.view is None else printable(record.view.teacher),
        "prompt": _conversation(rollout.prompt),
        "text": printable(rollout.completion.data.decode("utf-8", errors="replace")),
        # One character a byte, so that the script can search bytes.
        "data": rollout.completion.data.decode("latin-1"),
        "student": student,
        "teacher": teacher,
        "chunks": _chunk_columns(alignment) if alignment is not None else None,
        "kinds": [kind.label for kind in ChunkKind],
        "reasons": [reason.label.replace("_", " ") for reason in DropReason],
    }


def _token_columns(text: TokenText) -> dict[str, Any]:
    labels = [token_label(text, index) for index in range(len(text))]
    return {
        "label": labels,
        "width": [cell_len(label) for label in labels],
        "id": text.ids.tolist(),
        "bounds": text.bounds.tolist(),
        "event": text.event.tolist(),
        "odd": (~text.canonical).astype(int).tolist(),
    }


def _chunk_columns(alignment: Alignment) -> dict[str, Any]:
    return {
        "student": alignment.student_bounds.tolist(),
        "teacher": alignment.teacher_bounds.tolist(),
        "kind": alignment.kind.tolist(),
        "reason": alignment.reasons.tolist(),
    }


def _numbers(values: np.ndarray | None) -> list[float | None] | None:
    """Rounded, with null for what is not finite."""
    if values is None:
        return None
    return [round(value, DIGITS) if math.isfinite(value) else None for value in values.tolist()]


def _conversation(prompt: Prompt) -> list[dict[str, Any]]:
    if prompt.messages is None:
        return [{"role": "text", "content": printable(prompt.text or "")}]
    tools = [{"role": "tools", "content": printable(", ".join(map(_tool_name, prompt.tools)))}]
    return (tools if prompt.tools else []) + [_turn(message) for message in prompt.messages]


def _tool_name(tool: Any) -> str:
    function = tool.get("function", tool)
    return str(function.get("name", "unnamed"))


def _turn(message: Message) -> dict[str, Any]:
    calls = [f"{call.name}({call.arguments})" for call in message.tool_calls]
    thinking = message.reasoning_content
    return {
        "role": printable(message.role),
        "content": printable(message.content),
        "thinking": None if thinking is None else printable(thinking),
        "calls": [printable(call) for call in calls],
    }
