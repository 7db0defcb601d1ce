"""What the cheap half of an audit finds, as frozen values.

Lengths count tokens unless named otherwise; shares lie between 0 and 1; `inflation` is teacher tokens for
each student token of the same text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SideFacts:
    """One model's tokenizer and form of conversation, as probed."""

    model: str
    algorithm: str
    spelling: str
    byte_fallback: bool
    num_ids: int
    num_events: int
    losses: tuple[str, ...]
    """Probe texts that do not come back as they went in."""
    num_probes: int
    dummy_prefix: bool
    template: str
    thinks: bool
    """Whether its template writes thinking."""
    may_think_first: bool
    """Whether an answer may start with thinking that nothing in the conversation rules out."""
    no_thinking: str | None
    """The template variable that, set to false, makes a difference here; None if none does."""

    @property
    def lossless(self) -> bool:
        """Whether every probe text comes back exactly."""
        return not self.losses


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """What the two vocabularies have in common, by bytes."""

    num_shared: int
    share_of_student: float
    """Of the student's text tokens."""
    share_of_teacher: float
    same_ids: bool
    """Whether every id means the same: the pair shares a tokenizer."""


@dataclass(frozen=True, kw_only=True)
class KindCount:
    """Chunks of one kind and the student tokens in them."""

    kind: str
    num_chunks: int
    student_tokens: int


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What the mapping makes of some texts."""

    name: str
    num_texts: int
    num_bytes: int
    student_tokens: int
    teacher_tokens: int
    covered: int
    """Student tokens in comparable chunks."""
    normalised: int
    """Those of them whose bytes the teacher's tokenizer changes."""
    single: int
    """Student tokens that are one token of the teacher too."""
    altered: int
    """Texts that the student's tokenizer changes."""
    kinds: tuple[KindCount, ...]
    reasons: Mapping[str, int]
    """Student tokens in no comparable chunk, by reason."""
    left_out: int = 0
    """Texts that count nowhere here, as no response could be them: they spell a stop token of a side."""

    @property
    def coverage(self) -> float:
        """Share of student tokens in comparable chunks; 1 where there are none."""
        return self.covered / self.student_tokens if self.student_tokens else 1.0

    @property
    def inflation(self) -> float:
        """Teacher tokens for each student token; NaN where there are none."""
        return self.teacher_tokens / self.student_tokens if self.student_tokens else math.nan


@dataclass(frozen=True, kw_only=True)
class EventRow:
    """One event of a response, as either side writes it."""

    name: str
    student: str
    teacher: str
    mapped: str


@dataclass(frozen=True, kw_only=True)
class TemplateRow:
    """One probe of both templates, with what each model is shown."""

    name: str
    given: str
    student_status: str
    student: str
    teacher_status: str
    teacher: str


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A prompt that one side cannot take."""

    key: str
    side: str
    message: str


@dataclass(frozen=True, kw_only=True)
class ContextNeed:
    """Longest contexts of the prompts looked at, and the room a response needs."""

    num_prompts: int
    max_new_tokens: int
    longest_prompt: str
    """Key of the prompt with the longest context of the teacher; empty where there is none."""
    student_context: int
    teacher_context: int
    teacher_response: int
    """`max_new_tokens` of the student in teacher tokens, by the inflation found."""
    student_limit: int | None
    teacher_limit: int | None
    num_without_room: int
    """Prompts after which the teacher's limit leaves no room for a single token."""

    @property
    def student_need(self) -> int:
        """The longest conversation on the student's side."""
        return self.student_context + self.max_new_tokens

    @property
    def teacher_need(self) -> int:
        """The longest conversation on the teacher's side, by estimate."""
        return self.teacher_context + self.teacher_response


@dataclass(frozen=True, kw_only=True)
class MappingAudit:
    """The cheap half: everything that needs no weights."""

    student: SideFacts
    teacher: SideFacts
    overlap: Overlap
    texts: tuple[Figures, ...]
    """The built-in texts, one by one."""
    total: Figures
    """All of them."""
    own: Figures | None
    """The text of the prompts; None without prompts."""
    events: tuple[EventRow, ...]
    stop_maps: bool
    """Whether the end of a response is an event that both sides share."""
    templates: tuple[TemplateRow, ...]
    context: ContextNeed
    refusals: tuple[Refusal, ...]

    @property
    def judged(self) -> Figures:
        """The figures that decide: those of the prompts where there are any and some could be taken."""
        return self.own if self.own is not None and self.own.num_texts else self.total
