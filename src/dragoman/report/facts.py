"""The figures of a report: headline, before and after, where time and arithmetic went, what was dropped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dragoman.report.formats import NOT_RECORDED, duration, flops, interval, measured, memory, number, percent
from dragoman.report.source import RunSource
from dragoman.types import DropReason

_STAGES = {
    "seconds_rollout": "Student samples",
    "seconds_teacher": "Teacher scores",
    "seconds_align": "Alignment and credit",
    "seconds_update": "Student updates",
}
_PARTS = {"rollout": "Sampling", "teacher": "Teacher scoring", "update": "Updates", "eval": "Evaluation"}
_REASONS = {
    DropReason.BYTES_DIFFER: "Both sides spell different bytes here: a tokenizer changes the text.",
    DropReason.STUDENT_ONLY: "The teacher has no token here, such as a control token only the student knows.",
    DropReason.TEACHER_CONTEXT: "The teacher's context ended before this token.",
    DropReason.NON_FINITE: "A log-probability was NaN or infinite.",
    DropReason.CHUNK_TOO_LONG: "The chunk has more tokens than the method allows.",
    DropReason.NON_CANONICAL: "The student's tokenizer would have written this text with other tokens.",
    DropReason.NORMALISED: "The teacher's tokenizer changes the bytes here, and such chunks are masked.",
    DropReason.TOOL_SYNTAX: "Markup of a tool call that the teacher's template writes differently.",
    DropReason.THINKING: "Thinking that the teacher is not shown.",
    DropReason.REFUSED: "The teacher's template refuses what the student's earlier turns have made.",
    DropReason.NO_ROW: "The method has no row here.",
}
_MEASURES = (
    ("kl_per_byte", "KL per byte, nats", measured),
    ("teacher_bits_per_byte", "Teacher's bits per byte", measured),
    ("coverage", "Coverage", percent),
    ("noncanonical_rate", "Non-canonical tokens", percent),
    ("stop_rate", "Stop rate", percent),
    ("length_tokens", "Response length, tokens", measured),
    ("length_bytes", "Response length, bytes", measured),
    ("entropy", "Student entropy, nats a token", measured),
    ("repetition", "Repetition", measured),
)


@dataclass(frozen=True, kw_only=True)
class Headline:
    """Held-out KL per byte before and after; texts, empty where there is none."""

    before: str
    before_interval: str
    after: str
    after_interval: str
    change: str
    change_interval: str
    improved: bool


@dataclass(frozen=True, kw_only=True)
class Share:
    """A row of a table of parts; `fraction` of the whole is the length of its bar."""

    label: str
    amount: str
    fraction: float
    note: str = ""


def headline(source: RunSource) -> Headline | None:
    """What the run was for, or None if nothing was evaluated. Of a stopped run: first and last evaluation."""
    before, after = _before_and_after(source)
    start, end = before.get("kl_per_byte"), after.get("kl_per_byte")
    if start is None and end is None:
        return None
    change = source.summary.get("change") or {}
    relative = change.get("relative")
    if relative is None and start and end is not None:
        relative = (end - start) / abs(start)
    return Headline(
        before=measured(start),
        before_interval=interval(before.get("kl_per_byte_ci")),
        after=measured(end),
        after_interval=interval(after.get("kl_per_byte_ci")),
        change="" if relative is None else percent(relative, signed=True),
        change_interval=interval(change.get("relative_ci"), as_percent=True),
        improved=relative is not None and relative < 0,
    )


def names(source: RunSource) -> tuple[str, str]:
    """Student and teacher, from the configuration while there is no summary."""
    sides = [
        source.summary.get(side) or source.config.get(side, {}).get("model") or f"unnamed {side}"
        for side in ("student", "teacher")
    ]
    return str(sides[0]), str(sides[1])


def identity(source: RunSource) -> dict[str, str]:
    """By which method, for how long and at what cost."""
    summary, config = source.summary, source.config
    planned = config.get("train", {}).get("steps")
    steps = number(summary.get("steps", source.last_step))
    if planned is not None and steps != number(planned):
        steps = f"{steps} of {number(planned)}"
    part_flops = [value for value in (summary.get("flops") or {}).values() if value is not None]
    facts = {
        "Method": summary.get("method") or config.get("method", {}).get("name"),
        "Steps": steps,
        "Time": duration(summary.get("seconds")),
        "Peak memory": memory(summary.get("peak_memory_bytes")),
        "Compute": flops(sum(part_flops)) if part_flops else NOT_RECORDED,
    }
    return {label: str(value or NOT_RECORDED) for label, value in facts.items()}


def measures(source: RunSource) -> list[tuple[str, list[tuple[str, str]]]]:
    """(measure, [before, after]) for everything measured on the held-out prompts, each with its interval."""
    before, after = _before_and_after(source)
    rows = []
    for name, label, form in _MEASURES:
        if before.get(name) is None and after.get(name) is None:
            continue
        cells = [(form(side.get(name)), interval(side.get(f"{name}_ci"))) for side in (before, after)]
        rows.append((label, cells))
    return rows


def stages(source: RunSource) -> list[Share]:
    """Seconds by stage of the training steps, and the rest of the run where its length is known."""
    spent = {
        label: sum(line[name] for line in source.train if line.get(name) is not None)
        for name, label in _STAGES.items()
        if any(line.get(name) is not None for line in source.train)
    }
    total = source.summary.get("seconds")
    if spent and total is not None and total > sum(spent.values()):
        spent["Loading, evaluation and the rest"] = total - sum(spent.values())
    return _shares(spent, duration)


def compute(source: RunSource) -> list[Share]:
    """Floating-point operations by part, those of weight and attention products (no activations)."""
    parts = source.summary.get("flops") or {}
    return _shares({_PARTS.get(name, name): value for name, value in parts.items() if value}, flops)


def dropped(source: RunSource) -> list[Share]:
    """Student tokens without signal by reason, most frequent first; bars relative to all of them."""
    counts = source.summary.get("dropped") or {}
    notes = {reason.label: text for reason, text in _REASONS.items()}
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    shares = _shares({name: count for name, count in ordered if count}, number)
    return [
        Share(
            label=share.label.replace("_", " "),
            amount=share.amount,
            fraction=share.fraction,
            note=notes.get(share.label, ""),
        )
        for share in shares
    ]


def environment(env: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(key, value) rows, nested keys joined by a dot."""
    rows: list[tuple[str, str]] = []
    for key, value in env.items():
        if isinstance(value, Mapping):
            rows += [(f"{key}.{name}", text) for name, text in environment(value)]
        else:
            rows.append((key, value if isinstance(value, str) else json.dumps(value)))
    return rows


def _before_and_after(source: RunSource) -> tuple[dict[str, Any], dict[str, Any]]:
    """The measurements before and after training; of a stopped run, the first and the last evaluation."""
    if source.summary:
        return source.summary.get("before") or {}, source.summary.get("after") or {}
    evaluations = [
        {**line, "kl_per_byte_ci": [line.get("kl_per_byte_low"), line.get("kl_per_byte_high")]}
        for line in source.held_out
    ]
    return (evaluations[0] if evaluations else {}), (evaluations[-1] if len(evaluations) > 1 else {})


def _shares(amounts: Mapping[str, float], form: Callable[[float], str]) -> list[Share]:
    """Rows with the fraction each has of the sum."""
    total = sum(amounts.values())
    return [
        Share(label=label, amount=form(amount), fraction=amount / total if total else 0.0)
        for label, amount in amounts.items()
    ]
