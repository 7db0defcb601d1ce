"""What each side is, what the two vocabularies share, and how one side's events are the other's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dragoman.audit.facts import EventRow, Overlap, SideFacts, TemplateRow
from dragoman.errors import RenderError
from dragoman.render import Renderer
from dragoman.render.findings import Finding, Status, template_findings
from dragoman.render.symbols import BLANKS, ids_symbols, is_event_symbol, readable
from dragoman.text import vocabulary_map
from dragoman.text.probes import PROBES
from dragoman.types import Message, Prompt

_SWITCHES = ("enable_thinking", "thinking")
"""Variables by which templates are told not to think; whether one makes a difference is tried."""
CONVERSATION = Prompt(
    key="audit:conversation",
    messages=(
        Message(role="system", content="You are brief."),
        Message(role="user", content="Name a river."),
        Message(role="assistant", content="The Rhine."),
        Message(role="user", content="And a mountain?"),
    ),
)


def side_facts(side: Renderer) -> SideFacts:
    """One side as probed."""
    tokens = side.tokenization
    return SideFacts(
        model=tokens.name,
        algorithm=tokens.structure.algorithm,
        spelling=str(tokens.structure.spelling),
        byte_fallback=tokens.structure.byte_fallback,
        num_ids=tokens.num_ids,
        num_events=sum(not data for data in tokens.vocabulary_bytes()),
        losses=tokens.losses,
        num_probes=len(PROBES),
        dummy_prefix=tokens.dummy_prefix,
        template=str(side.template),
        thinks=side.dialect.thinks,
        may_think_first=_may_think_first(side),
        no_thinking=_switch(side) if side.dialect.thinks else None,
    )


def overlap(student: Renderer, teacher: Renderer) -> Overlap:
    """What the vocabularies share by bytes; control tokens aside."""
    num_shared = len(vocabulary_map(student.tokenization, teacher.tokenization))
    texts = [sum(map(bool, side.tokenization.vocabulary_bytes())) for side in (student, teacher)]
    return Overlap(
        num_shared=num_shared,
        share_of_student=num_shared / max(texts[0], 1),
        share_of_teacher=num_shared / max(texts[1], 1),
        same_ids=student.tokenization.same_ids_as(teacher.tokenization),
    )


def event_map(student: Renderer, teacher: Renderer) -> tuple[EventRow, ...]:
    """Ends, thinking and tool calls, as either side writes them."""
    sides = (student, teacher)
    stops = [_names(side, side.tokenization.stop_ids) for side in sides]
    rows = [EventRow(name="end of the answer", student=stops[0], teacher=stops[1], mapped="mass of the set")]
    thinking = {
        "teacher-format": "teacher's own markers",
        "keep": "student's markers, as text",
        "drop": "not shown to the teacher",
    }[str(teacher.thinking)]
    for name, attribute in (("thinking opens", "think_open"), ("thinking closes", "think_close")):
        shown = [_marker(side, getattr(side.dialect, attribute), own=side.dialect.thinks) for side in sides]
        rows.append(EventRow(name=name, student=shown[0], teacher=shown[1], mapped=thinking))
    tools = [side.dialect.tools for side in sides]
    if tools[1] is None:
        mapped = "dropped, with what follows"
    elif tools[0] == tools[1]:
        mapped = "the same"
    else:
        mapped = "rewritten; arguments by their bytes"
    for name, attribute in (("a tool call opens", "open"), ("a tool call closes", "close")):
        shown = [
            "none" if syntax is None else _marker(side, getattr(syntax, attribute), own=True)
            for side, syntax in zip(sides, tools, strict=True)
        ]
        rows.append(EventRow(name=name, student=shown[0], teacher=shown[1], mapped=mapped))
    return tuple(rows)


def template_rows(student: Renderer, teacher: Renderer) -> tuple[TemplateRow, ...]:
    """A conversation as both sides write it, then every probe of the templates."""
    shown = [_conversation(side) for side in (student, teacher)]
    given = "\n".join(f"{turn.role}: {turn.content!r}" for turn in CONVERSATION.messages or ())
    rows = [_row(given, *shown)]
    for of_student, of_teacher in zip(template_findings(student), template_findings(teacher), strict=True):
        rows.append(_row(of_student.given, of_student, of_teacher))
    return tuple(rows)


def _row(given: str, student: Finding, teacher: Finding) -> TemplateRow:
    return TemplateRow(
        name=student.name,
        given=given,
        student_status=str(student.status),
        student=student.rendered,
        teacher_status=str(teacher.status),
        teacher=teacher.rendered,
    )


def _conversation(side: Renderer) -> Finding:
    name = "a conversation with a system message"
    try:
        ids = side.context_ids(CONVERSATION)
    except RenderError as error:
        return Finding(name=name, status=Status.RAISES, given="", rendered=str(error))
    text = readable(ids_symbols(side.tokenization, ids.tolist()), side.tokenization)
    return Finding(name=name, status=Status.OK, given="", rendered=text)


def _may_think_first(side: Renderer) -> bool:
    """Whether a template that writes thinking rules it out neither in its generation prompt nor by what it
    writes before an answer."""
    dialect = side.dialect
    if not dialect.thinks:
        return False
    close = dialect.think_close.strip(BLANKS)
    return close not in dialect.tail and not dialect.answer_open.strip(BLANKS)


def _switch(side: Renderer) -> str | None:
    """The variable that, set to false, changes the beginning of an answer."""
    question = Prompt(key="audit:switch", text="Hello")
    for name in _SWITCHES:
        kwargs: Mapping[str, object] = {**side.template_kwargs, name: False}
        if (
            replace(side, template_kwargs=kwargs).context_ids(question).tolist()
            != side.context_ids(question).tolist()
        ):
            return name
    return None


def _names(side: Renderer, ids: frozenset[int]) -> str:
    return " ".join(side.tokenization.token_name(index) for index in sorted(ids))


def _marker(side: Renderer, symbols: str, *, own: bool) -> str:
    """A marker by name; `own` tells what the template writes from what is merely customary."""
    text = readable(symbols, side.tokenization).strip()
    kind = "token" if any(map(is_event_symbol, symbols)) or _is_marker(side, text) else "text"
    return f"{text} ({kind})" if own else f"{text} ({kind}, not its template's)"


def _is_marker(side: Renderer, text: str) -> bool:
    index = side.tokenization.token_id(text)
    return index is not None and side.tokenization.is_event(index)
