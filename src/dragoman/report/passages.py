"""A recorded rollout as the page draws it: chunks of student tokens above teacher tokens.

A chunk is a small grid whose columns are the byte ranges between token borders of either side, so that
borders meet wherever the bytes do. Text arrives as bytes and leaves as visible text; the template escapes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from rich.cells import cell_len

from dragoman.observe import Record
from dragoman.report.formats import number, percent
from dragoman.report.layout import chunk_slices, printable, same_bytes, token_label
from dragoman.types import ChunkKind, DropReason, Event, Message, Prompt, StopReason, TeacherScores, TokenText

Span = tuple[int, int]

ENDINGS = {
    StopReason.STOP: "a stop",
    StopReason.STRING: "a stop string",
    StopReason.LENGTH: "the length limit",
    StopReason.CONTEXT: "the end of the context",
}

MAX_TOKENS = 600
"""Student tokens drawn of one rollout; a page must stay small enough for a phone."""


@dataclass(frozen=True, kw_only=True)
class Token:
    """One token in the grid of its chunk. Columns are one-based and half-open, as in CSS.

    `strength` is the credit relative to the scale, from -1 to 1; None where there is none.
    """

    label: str
    start: int
    end: int
    details: str
    strength: float | None
    classes: str


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Both rows of a chunk. `ruler` is its byte offset, or empty where that would not fit.

    `breaks` asks for a new line behind it.
    """

    number: int
    kind: str
    comparable: bool
    ruler: str
    student: tuple[Token, ...]
    teacher: tuple[Token, ...]
    breaks: bool


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A rollout, ready to draw. Without a teacher's view it is a single row of student tokens."""

    name: str
    step: int
    teacher: str | None
    prompt: tuple[tuple[str, str], ...]
    response: str
    chunks: tuple[Chunk, ...]
    num_hidden: int
    facts: tuple[str, ...]


def credit_scale(records: Iterable[Record]) -> float | None:
    """Credit in nats at which colours saturate: the 95th percentile of its size; None without credit."""
    sizes = [
        np.abs(record.supervision.credit[record.supervision.weight > 0])
        for record in records
        if record.supervision is not None and record.supervision.credit is not None
    ]
    values = np.concatenate([*sizes, np.empty(0)])
    values = values[np.isfinite(values)]
    return max(float(np.quantile(values, 0.95)), 1e-3) if len(values) else None


def passage(record: Record, scale: float | None) -> Passage:
    """Lay out one record; `scale` is that of the whole page."""
    rollout = record.rollout
    chunks = tuple(_chunks(record, scale))
    num_drawn = sum(len(chunk.student) for chunk in chunks)
    return Passage(
        name=printable(rollout.key),
        step=record.step,
        teacher=None if record.view is None else printable(record.view.teacher),
        prompt=_prompt(rollout.prompt),
        response=printable(rollout.completion.data.decode("utf-8", errors="replace")),
        chunks=chunks,
        num_hidden=len(rollout.completion) - num_drawn,
        facts=tuple(_facts(record)),
    )


def _facts(record: Record) -> Iterator[str]:
    """What is said about a rollout in one line."""
    rollout = record.rollout
    yield f"{len(rollout.completion)} student tokens"
    if record.view is not None:
        yield f"{len(record.view.completion)} teacher tokens"
    yield f"{len(rollout.completion.data)} bytes"
    if record.alignment is not None:
        yield f"coverage {percent(record.alignment.coverage)}"
    yield f"{rollout.completion.num_noncanonical} non-canonical"
    if record.supervision is not None:
        yield f"{record.supervision.num_clamped} clamped"
    yield f"ended by {ENDINGS[rollout.stop]}"
    yield f"temperature {number(rollout.temperature)}"


def _prompt(prompt: Prompt) -> tuple[tuple[str, str], ...]:
    """(role, text) of every turn; a raw prompt has the role "text"."""
    if prompt.messages is None:
        return (("text", printable(prompt.text or "")),)
    return tuple((printable(turn.role), printable(_said(turn))) for turn in prompt.messages)


def _said(turn: Message) -> str:
    """What a turn holds: thinking, words and calls."""
    thought = [f"(thinks: {turn.reasoning_content})"] if turn.reasoning_content else []
    calls = [f"(calls {call.name} with {call.arguments})" for call in turn.tool_calls]
    return "\n".join([*thought, *([turn.content] if turn.content else []), *calls])


def _chunks(record: Record, scale: float | None) -> Iterator[Chunk]:
    """The chunks of the first `MAX_TOKENS` student tokens; single tokens where nothing was aligned."""
    student, alignment = record.rollout.completion, record.alignment
    if record.view is None or alignment is None:
        for token in range(min(len(student), MAX_TOKENS)):
            alone = _student_token(record, token, (1, 2), "not aligned", scale)
            yield _chunk(student, token, range(token, token + 1), ("not aligned", True), ((alone,), ()))
        return
    for index, slices in enumerate(chunk_slices(alignment)):
        if slices[0].start >= MAX_TOKENS:
            return
        kind = ChunkKind(int(alignment.kind[index]))
        where = f"chunk {index} ({kind.label})"
        spans = _columns(student, record.view.completion, slices)
        above = tuple(
            _student_token(record, token, span, where, scale)
            for token, span in zip(slices[0], spans[0], strict=True)
        )
        below = tuple(
            _teacher_token(record.view.completion, record.scores, token, span, where)
            for token, span in zip(slices[1], spans[1], strict=True)
        )
        comparable = bool(alignment.comparable[index])
        yield _chunk(student, index, slices[0], (kind.label, comparable), (above, below))


def _chunk(
    student: TokenText,
    index: int,
    tokens: range,
    kind: tuple[str, bool],
    rows: tuple[tuple[Token, ...], tuple[Token, ...]],
) -> Chunk:
    """A chunk from its rows; the line breaks where its text does."""
    cells = max(sum(cell_len(one.label) for one in row) for row in rows)
    offset = str(student.bounds[tokens.start])
    return Chunk(
        number=index,
        kind=kind[0],
        comparable=kind[1],
        ruler=offset if len(offset) <= 2 * cells else "",
        student=rows[0],
        teacher=rows[1],
        breaks=bool(tokens) and student.token_bytes(tokens[-1]).endswith(b"\n"),
    )


def _columns(student: TokenText, teacher: TokenText, slices: tuple[range, range]) -> list[list[Span]]:
    """Grid columns of the tokens of both rows: by bytes where they agree, else one after another."""
    if not same_bytes(student, teacher, slices):
        return [[(column, column + 1) for column, _ in enumerate(tokens, 1)] for tokens in slices]
    bounds = [
        text.bounds[tokens.start : tokens.stop + 1] - text.bounds[tokens.start]
        for text, tokens in zip((student, teacher), slices, strict=True)
    ]
    cuts = np.union1d(bounds[0], bounds[1])
    return [list(pairwise((np.searchsorted(cuts, side) + 1).tolist())) for side in bounds]


def _student_token(record: Record, index: int, span: Span, where: str, scale: float | None) -> Token:
    """A student token with its log-probability and its credit, or why it has none."""
    text, supervision, logp = record.rollout.completion, record.supervision, record.rollout.behaviour_logp
    details = [*_identity(text, index, "student"), where]
    if logp is not None:
        details.append(f"p {number(float(logp[index]))} nats")
    strength = None
    dropped = False
    if supervision is not None:
        reason = DropReason(int(supervision.reason[index]))
        dropped = reason != DropReason.NONE
        if dropped:
            details.append(f"no signal: {reason.label}")
        elif supervision.credit is not None and scale is not None:
            credit = float(supervision.credit[index])
            details.append(f"credit {number(credit)} nats")
            strength = max(-1.0, min(1.0, credit / scale))
    if not text.canonical[index]:
        details.append("not canonical")
    return _token(text, index, span, details, strength=strength, dropped=dropped)


def _teacher_token(
    text: TokenText, scores: TeacherScores | None, index: int, span: Span, where: str
) -> Token:
    """A teacher token with its log-probability, or why there is none."""
    details = [*_identity(text, index, "teacher"), where]
    dropped = False
    if scores is not None:
        missing = DropReason(int(scores.missing[index]))
        dropped = missing != DropReason.NONE
        details.append(f"no t: {missing.label}" if dropped else f"t {number(float(scores.logp[index]))} nats")
    return _token(text, index, span, details, strength=None, dropped=dropped)


def _identity(text: TokenText, index: int, side: str) -> list[str]:
    """Which token this is, and which bytes it spells."""
    start, end = int(text.bounds[index]), int(text.bounds[index + 1])
    place = f"bytes {start}–{end}" if end > start else f"at byte {start}"
    return [f"{side} token {index}", f"id {int(text.ids[index])}", f"{place} {token_label(text, index)}"]


def _token(
    text: TokenText, index: int, span: Span, details: list[str], *, strength: float | None, dropped: bool
) -> Token:
    """A token with the classes of the style sheet: events, tokens without signal and odd ones stand out."""
    flags = {
        "event": text.event[index] != Event.NONE,
        "dropped": dropped,
        "odd": not text.canonical[index],
        "plus": strength is not None and strength > 0,
        "minus": strength is not None and strength < 0,
    }
    return Token(
        label=token_label(text, index),
        start=span[0],
        end=span[1],
        details=", ".join(details),
        strength=strength,
        classes="".join(f" {name}" for name, holds in flags.items() if holds),
    )
