"""The closed vocabularies of the data types: what a token, a chunk, an ending or a loss of signal can be."""

from __future__ import annotations

from enum import IntEnum, StrEnum


class Event(IntEnum):
    """What a token is when it is not text. Events have no bytes; a stop is any id of the stop set."""

    NONE = 0
    STOP = 1
    CONTROL = 2


class StopReason(StrEnum):
    """Why sampling ended: the model emitted a stop event, or it ran into the length limit."""

    STOP = "stop"
    LENGTH = "length"


class ChunkKind(IntEnum):
    """How many student and teacher tokens meet in a chunk, or why it carries no comparison."""

    ONE_TO_ONE = 0
    ONE_TO_MANY = 1
    MANY_TO_ONE = 2
    MANY_TO_MANY = 3
    EVENT = 4
    STUDENT_ONLY = 5
    TEACHER_ONLY = 6
    IMPURE = 7

    @property
    def label(self) -> str:
        """The name used in reports and JSON, student side first: `n:1` is n student tokens."""
        return _CHUNK_LABELS[self]


_CHUNK_LABELS = ("1:1", "1:n", "n:1", "n:m", "event", "student-only", "teacher-only", "impure")


class DropReason(IntEnum):
    """Why a student token carries no signal (`NONE`: it does). Each dropped token has exactly one."""

    NONE = 0
    BYTES_DIFFER = 1
    """The two sides spell different bytes in this chunk (lossy tokenizer)."""
    STUDENT_ONLY = 2
    """The teacher has no token here, e.g. a control token only the student knows."""
    TEACHER_CONTEXT = 3
    """The teacher's context ended before this chunk."""
    NON_FINITE = 4
    """The teacher's or the student's log-prob is NaN or infinite."""
    CHUNK_TOO_LONG = 5
    """The chunk has more tokens on one side than the method allows."""
    NON_CANONICAL = 6
    """The sampled ids are not the student's own tokenisation of their text, and the guard masks them."""

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
