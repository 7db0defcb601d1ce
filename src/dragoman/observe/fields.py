"""The parts of a rollout as JSON values and back, without loss.

Arrays are lists, bytes are base64. A float32 is written as the double of the same value, so it comes back
to the last bit; NaN is null, infinity the text "inf" or "-inf". One thing has no place in a list of rows:
the K of top-k arrays with no rows, which is read back as 0.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32

from dragoman.types import (
    Alignment,
    ChunkKind,
    Correspondence,
    DropReason,
    Message,
    PairKind,
    Prompt,
    Supervision,
    TeacherScores,
    TeacherView,
    TokenText,
    ToolCall,
)

Fields = dict[str, Any]
_KIND_OF_LABEL = {kind.label: kind for kind in ChunkKind}
_LABEL_OF_PAIR = {kind: kind.name.lower() for kind in PairKind}
_PAIR_OF_LABEL = {label: kind for kind, label in _LABEL_OF_PAIR.items()}
_REASON_OF_LABEL = {reason.label: reason for reason in DropReason}


def prompt_fields(prompt: Prompt) -> Fields:
    """A prompt under `text` or `messages`, whichever it has; tools only where there are any."""
    fields: Fields = {"key": prompt.key}
    if prompt.messages is None:
        fields["text"] = prompt.text
    else:
        fields["messages"] = [_message_fields(message) for message in prompt.messages]
    if prompt.tools:
        fields["tools"] = [dict(tool) for tool in prompt.tools]
    return {**fields, "origin": prompt.origin}


def parse_prompt(fields: Fields) -> Prompt:
    """The inverse of `prompt_fields`."""
    messages = fields.get("messages")
    return Prompt(
        key=fields["key"],
        text=fields["text"] if messages is None else None,
        messages=None if messages is None else tuple(_parse_message(turn) for turn in messages),
        tools=tuple(fields.get("tools", ())),
        origin=fields["origin"],
    )


def _message_fields(message: Message) -> Fields:
    """Role and content, and what else the message has."""
    fields = asdict(message)
    fields["tool_calls"] = [asdict(call) for call in message.tool_calls]
    return {
        key: value
        for key, value in fields.items()
        if key in ("role", "content") or value not in (None, [], False)
    }


def _parse_message(fields: Fields) -> Message:
    calls = tuple(ToolCall(**call) for call in fields.get("tool_calls", ()))
    return Message(**{**fields, "tool_calls": calls})


def token_text_fields(text: TokenText) -> Fields:
    """Tokens and their bytes."""
    return {
        "ids": text.ids.tolist(),
        "bounds": text.bounds.tolist(),
        "data": base64.b64encode(text.data).decode("ascii"),
        "event": text.event.tolist(),
        "canonical": text.canonical.tolist(),
    }


def parse_token_text(fields: Fields) -> TokenText:
    """The inverse of `token_text_fields`; raises TokenizerError if the axes disagree."""
    return TokenText(
        ids=np.array(fields["ids"], np.int64),
        bounds=np.array(fields["bounds"], np.int64),
        data=base64.b64decode(fields["data"], validate=True),
        event=np.array(fields["event"], np.uint8),
        canonical=np.array(fields["canonical"], np.bool_),
    )


def teacher_fields(view: TeacherView | None, scores: TeacherScores | None) -> Fields | None:
    """View and scores in one object; the keys of an absent one are left out."""
    if view is None and scores is None:
        return None
    fields: Fields = {}
    if view is not None:
        fields |= {"name": view.teacher, "ids": view.ids.tolist(), "start": view.start}
        fields["completion"] = token_text_fields(view.completion)
        fields["correspondence"] = _correspondence_rows(view.correspondence)
    if scores is not None:
        fields |= {"logp": float_fields(scores.logp), "missing": scores.missing.tolist()}
        fields["topk_ids"] = None if scores.topk_ids is None else scores.topk_ids.tolist()
        fields["topk_logp"] = None
        if scores.topk_logp is not None:
            fields["topk_logp"] = [float_fields(row) for row in scores.topk_logp]
        fields["stop_logp"] = optional_floats(scores.stop_logp)
        fields["reference_logp"] = optional_floats(scores.reference_logp)
    return fields


def parse_view(fields: Fields | None, rollout_key: str) -> TeacherView | None:
    """The view in `teacher_fields`, if there is one."""
    if fields is None or "ids" not in fields:
        return None
    return TeacherView(
        rollout_key=rollout_key,
        teacher=fields["name"],
        ids=np.array(fields["ids"], np.int64),
        start=fields["start"],
        completion=parse_token_text(fields["completion"]),
        correspondence=_parse_correspondence(fields.get("correspondence")),
    )


def parse_scores(fields: Fields | None, view: TeacherView | None) -> TeacherScores | None:
    """The scores in `teacher_fields`, if there are any; they must fit the view's completion."""
    if fields is None or "logp" not in fields:
        return None
    size = len(fields["logp"]) if view is None else len(view.completion)
    topk_ids: Int32[np.ndarray, "T K"] | None = None
    topk_logp: Float32[np.ndarray, "T K"] | None = None
    if fields["topk_ids"] is not None:
        topk_ids = np.array(fields["topk_ids"], np.int32).reshape(size, -1 if size else 0)
    if fields["topk_logp"] is not None:
        rows = [parse_floats(row, len(row), "teacher.topk_logp") for row in fields["topk_logp"]]
        topk_logp = np.array(rows, np.float32).reshape(size, -1 if size else 0)
    return TeacherScores(
        logp=parse_floats(fields["logp"], size, "teacher.logp"),
        missing=np.array(fields["missing"], np.uint8),
        topk_ids=topk_ids,
        topk_logp=topk_logp,
        stop_logp=parse_optional_floats(fields.get("stop_logp"), size, "teacher.stop_logp"),
        reference_logp=parse_optional_floats(fields.get("reference_logp"), size, "teacher.reference_logp"),
    )


def _correspondence_rows(correspondence: Correspondence | None) -> list[list[int | str]] | None:
    """One row a span: the student's symbols, the teacher's, the kind."""
    if correspondence is None:
        return None
    kinds = [_LABEL_OF_PAIR[kind] for kind in correspondence.kind.tolist()]
    return [[*span, kind] for span, kind in zip(correspondence.spans.tolist(), kinds, strict=True)]


def _parse_correspondence(rows: Sequence[Sequence[Any]] | None) -> Correspondence | None:
    if rows is None:
        return None
    return Correspondence(
        spans=np.array([row[:4] for row in rows], np.int64).reshape(-1, 4),
        kind=np.array([_PAIR_OF_LABEL[label] for *_, label in rows], np.uint8),
    )


def chunk_rows(alignment: Alignment) -> list[list[int | str]]:
    """One row a chunk: student slice, teacher slice, label of the kind; where the alignment gives reasons of
    its own, the label of the chunk's reason, if it has one.
    """
    student, teacher = alignment.student_bounds.tolist(), alignment.teacher_bounds.tolist()
    rows: list[list[int | str]] = [
        [*student[chunk : chunk + 2], *teacher[chunk : chunk + 2], ChunkKind(kind).label]
        for chunk, kind in enumerate(alignment.kind.tolist())
    ]
    if alignment.reason is not None:
        implied = replace(alignment, reason=None).reasons.tolist()
        for row, reason, default in zip(rows, alignment.reason.tolist(), implied, strict=True):
            if (reason, default) != (DropReason.NONE, DropReason.NONE):
                row.append(DropReason(reason).label)
    return rows


def parse_chunks(rows: Sequence[Sequence[Any]]) -> Alignment:
    """The inverse of `chunk_rows`, where no row has a reason without the reasons that follow from the kinds.

    Raises ValueError if a chunk does not start where the last one ended.
    """
    student, teacher, kinds, reasons = [0], [0], [], []
    for number, (student_start, student_end, teacher_start, teacher_end, label, *reason) in enumerate(rows):
        if (student_start, teacher_start) != (student[-1], teacher[-1]):
            raise ValueError(
                f"chunk {number} starts at tokens {student_start} and {teacher_start}, but the one before "
                f"ended at {student[-1]} and {teacher[-1]}"
            )
        student.append(student_end)
        teacher.append(teacher_end)
        kinds.append(_KIND_OF_LABEL[label])
        reasons.append(_REASON_OF_LABEL[reason[0]] if reason else DropReason.NONE)
    given = any(len(row) > 5 for row in rows)
    return Alignment(
        student_bounds=np.array(student, np.int64),
        teacher_bounds=np.array(teacher, np.int64),
        kind=np.array(kinds, np.uint8),
        reason=np.array(reasons, np.uint8) if given else None,
    )


def supervision_fields(supervision: Supervision) -> Fields:
    """What the loss was told; `chunk_of` is kept because there may be no chunks beside it."""
    return {
        "weight": float_fields(supervision.weight),
        "reason": supervision.reason.tolist(),
        "chunk_of": supervision.chunk_of.tolist(),
        "credit": optional_floats(supervision.credit),
        "num_clamped": supervision.num_clamped,
    }


def parse_supervision(fields: Fields, size: int) -> Supervision:
    """The inverse of `supervision_fields` for `size` student tokens."""
    return Supervision(
        weight=parse_floats(fields["weight"], size, "supervision.weight"),
        reason=np.array(fields["reason"], np.uint8),
        chunk_of=np.array(fields["chunk_of"], np.int64),
        credit=parse_optional_floats(fields["credit"], size, "supervision.credit"),
        num_clamped=fields["num_clamped"],
    )


def float_fields(values: Float32[np.ndarray, " N"]) -> list[float | str | None]:
    """A float array as JSON values."""
    return [_float_field(value) for value in values.tolist()]


def parse_floats(values: Sequence[Any], size: int, name: str) -> Float32[np.ndarray, " N"]:
    """The inverse of `float_fields`; raises ValueError if there are not `size` values."""
    if len(values) != size:
        raise ValueError(f"{name} has {len(values)} values, expected {size}, one a token")
    return np.array([math.nan if value is None else float(value) for value in values], np.float32)


def optional_floats(values: Float32[np.ndarray, " N"] | None) -> list[float | str | None] | None:
    """A float array as JSON values, null where there is none."""
    return None if values is None else float_fields(values)


def parse_optional_floats(
    values: Sequence[Any] | None, size: int, name: str
) -> Float32[np.ndarray, " N"] | None:
    """The inverse of `optional_floats`; raises ValueError if there are not `size` values."""
    return None if values is None else parse_floats(values, size, name)


def _float_field(value: float) -> float | str | None:
    if math.isfinite(value):
        return value
    return None if math.isnan(value) else str(value)
