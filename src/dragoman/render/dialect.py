"""How one side writes an assistant's turn: the markers between thinking, answer, tool calls and end.

Every marker is a string of symbols (`render.symbols`). They are found by rendering probes
(`render.probing`), not from a list of families.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dragoman.render.messages import TEXT_CALL_CLOSE, TEXT_CALL_MIDDLE, TEXT_CALL_OPEN, CallForm
from dragoman.render.symbols import (
    BLANKS,
    event_symbol,
    spelled,
    symbol_text,
    text_symbols,
)
from dragoman.text import Tokenization
from dragoman.types import Event

PROBE_ID = "probeid01"
"""Stands for any id in the markers of a `ToolSyntax`."""
_SPELLED_OPEN, _SPELLED_CLOSE = "<think>", "</think>"


@dataclass(frozen=True, kw_only=True)
class ToolSyntax:
    """How a call is written: `open` NAME `middle` ARGUMENTS `close`. Further calls follow a `separator` and
    open with `again`; `before` stands between what is said and the first call, `end` after the last.
    """

    open: str
    middle: str
    close: str
    again: str
    separator: str = "\n"
    before: str = "\n"
    end: str = ""

    @property
    def markers(self) -> tuple[str, ...]:
        """All that is written for calls but names and arguments."""
        return self.open, self.middle, self.close, self.again, self.separator, self.end


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """The markers of one side.

    `tail_ids` end the generation prompt but are not written before every answer (an opened or an empty
    thinking); `tail` are their symbols. `answer_open` stands before an answer without thinking, `end` after
    any.
    """

    tail: str = ""
    tail_ids: tuple[int, ...] = ()
    end: str = ""
    answer_open: str = ""
    think_open: str = text_symbols(_SPELLED_OPEN)
    think_close: str = text_symbols(_SPELLED_CLOSE)
    thinks: bool = False
    """Whether the template itself writes thinking, or opens it; else the markers above are the customary
    ones."""
    tools: ToolSyntax | None = None
    lists_tools: bool = False
    """Whether definitions of tools appear in the conversation."""
    call_form: CallForm = field(default_factory=CallForm)

    @property
    def answer_marker(self) -> str:
        """`answer_open`, unless it is mere spaces: those are one token with the first word, so that they are
        the model's to write (`ASSISTANT: Yes`)."""
        return self.answer_open if self.answer_open.strip(" ") else ""

    @property
    def tail_opens_thinking(self) -> bool:
        """Whether the generation prompt leaves thinking open, so that a response starts within it."""
        opened = self.tail.rfind(self.think_open.strip(BLANKS))
        return opened >= 0 and self.tail.find(self.think_close.strip(BLANKS), opened) < 0


TEXT_TOOLS = ToolSyntax(
    open=text_symbols(TEXT_CALL_OPEN),
    middle=text_symbols(TEXT_CALL_MIDDLE),
    close=text_symbols(TEXT_CALL_CLOSE),
    again=text_symbols(TEXT_CALL_OPEN),
)


def plain_dialect(tokenization: Tokenization, *, text_tools: bool) -> Dialect:
    """The markers of a side without a chat template: the customary ones."""
    think_open, think_close = customary_thinking(tokenization)
    return Dialect(
        think_open=think_open,
        think_close=think_close,
        tools=TEXT_TOOLS if text_tools else None,
        lists_tools=text_tools,
    )


def marker_events(dialect: Dialect, tokenization: Tokenization, added: Mapping[int, str]) -> dict[int, Event]:
    """The added tokens (id to name) that open or close thinking or a tool call, and the event each is.

    Thinking has such a token if it is the whole marker, white space aside; a call if it begins, or ends, it.
    """

    def spelled_out(marker: str) -> str:
        return symbol_text(spelled(marker.strip(BLANKS), tokenization)[0])

    names = {name: index for index, name in added.items() if index not in tokenization.stop_ids}
    found: dict[int, Event] = {}
    for event, marker in (
        (Event.THINK_OPEN, dialect.think_open),
        (Event.THINK_CLOSE, dialect.think_close),
    ):
        if (index := names.get(spelled_out(marker))) is not None:
            found[index] = event
    if dialect.tools is not None:
        opening, close = spelled_out(dialect.tools.open), spelled_out(dialect.tools.close)
        starts = [name for name in names if name.strip() and opening.startswith(name)]
        ends = [name for name in names if name.strip() and close.endswith(name)]
        for event, fitting in ((Event.TOOL_OPEN, starts), (Event.TOOL_CLOSE, ends)):
            if fitting:
                found.setdefault(names[max(fitting, key=len)], event)
    return found


def customary_thinking(tokenization: Tokenization) -> tuple[str, str]:
    """`<think>` and `</think>`: as events where the vocabulary has them so, else spelled out."""
    found = []
    for name in (_SPELLED_OPEN, _SPELLED_CLOSE):
        index = tokenization.token_id(name)
        is_event = index is not None and tokenization.is_event(index)
        found.append(event_symbol(index) if index is not None and is_event else text_symbols(name))
    return found[0] + "\n", "\n" + found[1] + "\n\n"
