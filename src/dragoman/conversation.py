"""Conversations: what is said before a response, by whom, and with which tools at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A function an assistant calls; `arguments` is JSON text, as it was written."""

    name: str
    arguments: str
    id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation.

    An assistant's turn that is `sampled` is the student's own: without a word in it, a place where the
    student is to write; else a recording of what it wrote.
    """

    role: str
    content: str = ""
    reasoning_content: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    sampled: bool = False

    @property
    def is_slot(self) -> bool:
        """Whether the turn is still to be written."""
        return self.sampled and not (self.content or self.reasoning_content or self.tool_calls)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What the student answers: raw text to continue, or a conversation whose next turn is sampled.

    `key` is unique within a run and stable between runs of the same data; `origin` is `file:line`. `tools`
    are definitions of functions the assistant may call, as JSON schemas (OpenAI's form).
    """

    key: str
    text: str | None = None
    messages: tuple[Message, ...] | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    origin: str = ""

    def __post_init__(self) -> None:
        if (self.text is None) == (self.messages is None):
            raise ValueError(f"prompt {self.key!r} needs exactly one of `text` and `messages`")

    @property
    def has_tools(self) -> bool:
        """Whether tools are at hand, or were used before."""
        return bool(self.tools) or any(m.tool_calls or m.role == "tool" for m in self.messages or ())

    def until_last_turn(self) -> Prompt:
        """The conversation before the student's last turn, where it names its turns; else as it is."""
        places = [place for place, message in enumerate(self.messages or ()) if message.sampled]
        if not places or places[-1] < len(self.messages or ()) - 1:
            return self
        return replace(self, messages=(self.messages or ())[: places[-1]])
