"""The closed vocabularies of the data types: what a token, a chunk, an ending or a loss of signal can be."""

from __future__ import annotations

from enum import IntEnum, StrEnum


class Event(IntEnum):
    """What a token is when it is not text. Events have no bytes; a stop is any id of the stop set.

    Thinking and tool calls are opened and closed by events where a vocabulary has tokens for that.
    """

    NONE = 0
    STOP = 1
    CONTROL = 2
    THINK_OPEN = 3
    THINK_CLOSE = 4
    TOOL_OPEN = 5
    TOOL_CLOSE = 6


class StopReason(StrEnum):
    """Why a response ended. Only `STOP` leaves a stop event at its end."""

    STOP = "stop"
    """The model emitted a stop event."""
    STRING = "stop_string"
    """It wrote one of the stop strings asked for, which are text and stay in the response."""
    LENGTH = "length"
    """It reached the longest response allowed."""
    CONTEXT = "context"
    """The model's context was full before that."""


class ChunkKind(IntEnum):
    """How many student and teacher tokens meet in a chunk, or why it carries no comparison."""

    ONE_TO_ONE = 0
    ONE_TO_MANY = 1
    MANY_TO_ONE = 2
    MANY_TO_MANY = 3
    EVENT = 4
    NORMALISED = 5
    STUDENT_ONLY = 6
    TEACHER_ONLY = 7
    IMPURE = 8

    @property
    def label(self) -> str:
        """The name used in reports and JSON, student side first: `n:1` is n student tokens."""
        return _CHUNK_LABELS[self]

    @property
    def comparable(self) -> bool:
        """Whether both sides say the same: the same bytes or event, or bytes as a tokenizer changes them."""
        return self <= ChunkKind.NORMALISED


_CHUNK_LABELS = (
    "1:1",
    "1:n",
    "n:1",
    "n:m",
    "event",
    "normalised",
    "student-only",
    "teacher-only",
    "impure",
)


class PairKind(IntEnum):
    """How a stretch of the student's response and one of the teacher's version of it belong together."""

    EXACT = 0
    """Symbol by symbol."""
    NORMALISED = 1
    """As wholes: the teacher's tokenizer writes these bytes in another way (case, accents, white space)."""
    MARKER = 2
    """As wholes: each side's own marker for the same thing, such as the opening of thinking."""
    TOOL_SYNTAX = 3
    """Not at all: markup of a tool call that the other side writes differently."""
    THINKING = 4
    """Not at all: thinking that the teacher is not shown."""


class DropReason(IntEnum):
    """Why a student token carries no signal (`NONE`: it does). Each dropped token has exactly one."""

    NONE = 0
    BYTES_DIFFER = 1
    """The two sides spell different bytes in this chunk (lossy tokenizer)."""
    STUDENT_ONLY = 2
    """The teacher has no token here, e.g. a control token only the student knows."""
    TEACHER_CONTEXT = 3
    """The teacher's context, or that of its reference, ended before this chunk."""
    NON_FINITE = 4
    """The teacher's or the student's log-prob is NaN or infinite."""
    CHUNK_TOO_LONG = 5
    """The chunk has more tokens on one side than the method allows."""
    NON_CANONICAL = 6
    """The sampled ids are not the student's own tokenisation of their text, and the guard masks them."""
    NORMALISED = 7
    """The teacher's tokenizer changes the bytes here, and the configuration masks such chunks."""
    TOOL_SYNTAX = 8
    """Markup of a tool call that the teacher's template writes differently, or a call that is malformed."""
    THINKING = 9
    """Thinking that the teacher is not shown."""
    REFUSED = 10
    """The teacher's template refuses the conversation that the student's earlier turns have made."""
    NO_ROW = 11
    """The method has no row here."""

    @property
    def label(self) -> str:
        """The name used in reports and JSON."""
        return self.name.lower()


class TeacherLevel(IntEnum):
    """What a teacher can tell about a response; each level includes those before it."""

    REALISED = 0
    """Log-probs of the realised tokens."""
    TOPK = 1
    """And of the k most likely tokens at every position."""
    LOGITS = 2
    """And of the whole vocabulary."""
    REFERENCE = 3
    """And a small reference model of its family."""


class RowLabel(IntEnum):
    """What is known of a row of teacher mass on student tokens, compared with the exact target `q*`."""

    NONE = 0
    """There is no row."""
    EXACT = 1
    """Every candidate has exactly the mass of `q*`."""
    LOWER = 2
    """No candidate has more than `q*` gives it; the residual holds what is missing."""
    HEURISTIC = 3
    """Neither: mass may stand at the wrong token."""

    @property
    def label(self) -> str:
        """The name used in reports and JSON."""
        return self.name.lower()
