"""Recorded rollouts: one JSON line each, readable by eye and read back without any loss.

A line holds the rollout, the teacher's view and scores, the chunks and the supervision; what is absent is
null. `text` is for the reader: the bytes, which may be invalid UTF-8, are in `student.data`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dragoman.errors import DataError, DragomanError
from dragoman.observe import fields as parts
from dragoman.observe.files import atomic_writer
from dragoman.types import Alignment, Rollout, StopReason, Supervision, TeacherScores, TeacherView


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """One rollout and what became of it in `step` (the first step is 1)."""

    rollout: Rollout
    view: TeacherView | None = None
    scores: TeacherScores | None = None
    alignment: Alignment | None = None
    supervision: Supervision | None = None
    step: int

    def __post_init__(self) -> None:
        if self.view is not None and self.view.rollout_key != self.rollout.key:
            raise ValueError(f"the view belongs to {self.view.rollout_key!r}, not to {self.rollout.key!r}")


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write a file of records, atomically and in the order given."""
    with atomic_writer(path) as file:
        for record in records:
            file.write(json.dumps(_record_fields(record), ensure_ascii=False, allow_nan=False) + "\n")


def read_records(path: Path) -> Iterator[Record]:
    """The records of a file, one at a time.

    Raises DataError, with file and line, for a line that is not a whole record.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                record = _parse_record(json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError, DragomanError) as error:
                reason = f"no {error}" if isinstance(error, KeyError) else str(error)
                raise DataError(
                    f"{path}:{number}: got a line that is not a recorded rollout ({reason}); expected one "
                    "JSON object as written by dragoman. Delete the line, or record the rollouts again"
                ) from error
            yield record


def _record_fields(record: Record) -> parts.Fields:
    rollout = record.rollout
    alignment, supervision = record.alignment, record.supervision
    return {
        "key": rollout.key,
        "step": record.step,
        "prompt": parts.prompt_fields(rollout.prompt),
        "sample": rollout.sample,
        "turn": rollout.turn,
        "stop": rollout.stop.value,
        "temperature": rollout.temperature,
        "policy_version": rollout.policy_version,
        "text": rollout.completion.data.decode("utf-8", "replace"),
        "student": {
            "context_ids": rollout.context_ids.tolist(),
            **parts.token_text_fields(rollout.completion),
            "logp": parts.optional_floats(rollout.behaviour_logp),
            "entropy": parts.optional_floats(rollout.entropy),
            "stop_logp": parts.optional_floats(rollout.stop_logp),
            "reference_logp": parts.optional_floats(rollout.reference_logp),
        },
        "teacher": parts.teacher_fields(record.view, record.scores),
        "chunks": None if alignment is None else parts.chunk_rows(alignment),
        "supervision": None if supervision is None else parts.supervision_fields(supervision),
    }


def _parse_record(fields: parts.Fields) -> Record:
    student, chunks, supervision = fields["student"], fields["chunks"], fields["supervision"]
    completion = parts.parse_token_text(student)
    size = len(completion)
    rollout = Rollout(
        prompt=parts.parse_prompt(fields["prompt"]),
        sample=fields["sample"],
        context_ids=np.array(student["context_ids"], np.int64),
        completion=completion,
        behaviour_logp=parts.parse_optional_floats(student["logp"], size, "student.logp"),
        entropy=parts.parse_optional_floats(student["entropy"], size, "student.entropy"),
        stop_logp=parts.parse_optional_floats(student.get("stop_logp"), size, "student.stop_logp"),
        reference_logp=parts.parse_optional_floats(
            student.get("reference_logp"), size, "student.reference_logp"
        ),
        temperature=fields["temperature"],
        stop=StopReason(fields["stop"]),
        policy_version=fields["policy_version"],
        turn=fields.get("turn", 0),
    )
    if rollout.key != fields["key"]:
        raise ValueError(f"key is {fields['key']!r}, but prompt, sample and turn make it {rollout.key!r}")
    view = parts.parse_view(fields["teacher"], rollout.key)
    return Record(
        rollout=rollout,
        view=view,
        scores=parts.parse_scores(fields["teacher"], view),
        alignment=None if chunks is None else parts.parse_chunks(chunks),
        supervision=None if supervision is None else parts.parse_supervision(supervision, size),
        step=fields["step"],
    )
