"""The parts of a rollout as JSON values and back, without loss.

Arrays are lists, bytes are base64. A float32 is written as the double of the same value, so it comes back
to the last bit; NaN is null, infinity the text "inf" or "-inf". One thing has no place in a list of rows:
the K of top-k arrays with no rows, which is read back as 0.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32

from dragoman.types import (
    Alignment,
    ChunkKind,
    Message,
    Prompt,
    Supervision,
    TeacherScores,
    TeacherView,
    TokenText,
)

Fields = dict[str, Any]
_KIND_OF_LABEL = {kind.label: kind for kind in ChunkKind}


def prompt_fields(prompt: Prompt) -> Fields:
    """A prompt under `text` or `messages`, whichever it has."""
    if prompt.messages is None:
        return {"key": prompt.key, "text": prompt.text, "origin": prompt.origin}
    messages = [{"role": message.role, "content": message.content} for message in prompt.messages]
    return {"key": prompt.key, "messages": messages, "origin": prompt.origin}


def parse_prompt(fields: Fields) -> Prompt:
    """The inverse of `prompt_fields`."""
    if "messages" not in fields:
        return Prompt(key=fields["key"], text=fields["text"], origin=fields["origin"])
    messages = tuple(Message(role=turn["role"], content=turn["content"]) for turn in fields["messages"])
    return Prompt(key=fields["key"], messages=messages, origin=fields["origin"])


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
    if scores is not None:
        fields |= {"logp": float_fields(scores.logp), "missing": scores.missing.tolist()}
        fields["topk_ids"] = None if scores.topk_ids is None else scores.topk_ids.tolist()
        fields["topk_logp"] = None
        if scores.topk_logp is not None:
            fields["topk_logp"] = [float_fields(row) for row in scores.topk_logp]
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
    )


def chunk_rows(alignment: Alignment) -> list[list[int | str]]:
    """One row a chunk: student slice, teacher slice, label of the kind."""
    student, teacher = alignment.student_bounds.tolist(), alignment.teacher_bounds.tolist()
    return [
        [*student[chunk : chunk + 2], *teacher[chunk : chunk + 2], ChunkKind(kind).label]
        for chunk, kind in enumerate(alignment.kind.tolist())
    ]


def parse_chunks(rows: Sequence[Sequence[Any]]) -> Alignment:
    """The inverse of `chunk_rows`; raises ValueError if a chunk does not start where the last one ended."""
    student, teacher, kinds = [0], [0], []
    for number, (student_start, student_end, teacher_start, teacher_end, label) in enumerate(rows):
        if (student_start, teacher_start) != (student[-1], teacher[-1]):
            raise ValueError(
                f"chunk {number} starts at tokens {student_start} and {teacher_start}, but the one before "
                f"ended at {student[-1]} and {teacher[-1]}"
            )
        student.append(student_end)
        teacher.append(teacher_end)
        kinds.append(_KIND_OF_LABEL[label])
    return Alignment(
        student_bounds=np.array(student, np.int64),
        teacher_bounds=np.array(teacher, np.int64),
        kind=np.array(kinds, np.uint8),
    )


def supervision_fields(supervision: Supervision) -> Fields:
    """What the loss was told; `chunk_of` is kept because there may be no chunks beside it."""
    return {
        "weight": float_fields(supervision.weight),
        "reason": supervision.reason.tolist(),
        "chunk_of": supervision.chunk_of.tolist(),
        "credit": None if supervision.credit is None else float_fields(supervision.credit),
        "num_clamped": supervision.num_clamped,
    }


def parse_supervision(fields: Fields, size: int) -> Supervision:
    """The inverse of `supervision_fields` for `size` student tokens."""
    credit = fields["credit"]
    return Supervision(
        weight=parse_floats(fields["weight"], size, "supervision.weight"),
        reason=np.array(fields["reason"], np.uint8),
        chunk_of=np.array(fields["chunk_of"], np.int64),
        credit=None if credit is None else parse_floats(credit, size, "supervision.credit"),
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


def _float_field(value: float) -> float | str | None:
    if math.isfinite(value):
        return value
    return None if math.isnan(value) else str(value)
