"""What stands before a turn on the teacher's side, and what has to hold of the turn itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from dragoman.errors import RenderError
from dragoman.render.dialect import Dialect
from dragoman.render.symbols import spelled, text_symbols
from dragoman.render.turns import Part, Piece
from dragoman.render.viewing import Side, Thinking
from dragoman.render.written import write_symbols
from dragoman.types import Event, Message, Rollout, StopReason


def answer_context(context: Int64[np.ndarray, " P"], side: Side, *, thinks: bool) -> Int64[np.ndarray, " P"]:
    """The context of a turn whose beginning is known: without an opening of thinking that the turn does not
    continue, and with what the template writes before an answer without thinking."""
    dialect = side.dialect
    tail = np.array(dialect.tail_ids, np.int64)
    if len(tail):
        if not np.array_equal(context[-len(tail) :], tail):
            return context
        context = context[: -len(tail)]
    if thinks or not dialect.answer_marker:
        return context
    return np.concatenate([context, write_symbols(dialect.answer_marker, side.tokenization)[0].ids])


def beginning(message: Message, dialect: Dialect) -> str:
    """What a side writes behind its generation prompt before what a message says. A message without thinking
    closes at once what the prompt has opened."""
    if message.reasoning_content is not None:
        opening = "" if dialect.tail_opens_thinking else dialect.think_open
        return opening + text_symbols(message.reasoning_content) + dialect.think_close
    if dialect.answer_open.startswith(dialect.tail):
        return dialect.answer_open.removeprefix(dialect.tail)
    return dialect.think_close if dialect.tail_opens_thinking else ""


def check_stop(rollout: Rollout) -> None:
    """Raise RenderError if a response does not end as its reason says."""
    event = rollout.completion.event
    num_stops = rollout.completion.num_stops
    wanted = 1 if rollout.stop is StopReason.STOP else 0
    if num_stops != wanted or (wanted and event[-1] != Event.STOP):
        places = np.flatnonzero(event == Event.STOP).tolist()
        raise RenderError(
            f"rollout {rollout.key!r} ended by {rollout.stop.value!r}, so that it should hold "
            f"{'one stop event, at its end' if wanted else 'no stop event'}; got {num_stops} among its "
            f"{len(event)} tokens, at {places}. The other model would be told another ending than was sampled"
        )


def thinking_opened(teacher: Side, student: Side, thinking: Thinking) -> Int64[np.ndarray, " O"]:
    """What opens thinking in the teacher's context where the student's own context opened it."""
    if thinking is Thinking.DROP:
        return np.zeros(0, np.int64)
    if thinking is Thinking.TEACHER_FORMAT:
        opening = teacher.dialect.think_open
    else:
        opening = spelled(student.dialect.think_open, student.tokenization)[0]
    return write_symbols(opening, teacher.tokenization)[0].ids


def writes_alike(pieces: Sequence[Piece], teacher: Side, student: Side | None, thinking: Thinking) -> bool:
    """Whether the teacher would write a turn just as it was sampled, but for the choice of tokens."""
    if student is None or all(piece.part in (Part.ANSWER, Part.STOP) for piece in pieces):
        return True
    return student.dialect == teacher.dialect and thinking is not Thinking.DROP
