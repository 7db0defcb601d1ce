"""What a template does to a conversation: found by rendering probes, reported with both texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from dragoman.errors import RenderError
from dragoman.render.probing import PROBE_TOOL
from dragoman.render.renderer import Renderer
from dragoman.render.symbols import ids_symbols, readable
from dragoman.types import Message, Prompt, ToolCall


class Status(StrEnum):
    """What became of a probe."""

    OK = "ok"
    RAISES = "raises"
    TRIMS = "trims"
    REORDERS = "reorders"
    DROPS = "drops"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One probe: the conversation given, and what the model is shown of it (or why it refuses)."""

    name: str
    status: Status
    given: str
    rendered: str


def _user(content: str) -> Message:
    return Message(role="user", content=content)


def _said(content: str, **fields: Any) -> Message:
    return Message(role="assistant", content=content, **fields)


_CALL = ToolCall(name="probefunction", arguments='{"probekey": "probevalue"}', id="probeid01")
_RESULT = Message(role="tool", content="proberesult", tool_call_id="probeid01", name="probefunction")

_probes: Mapping[str, tuple[tuple[Message, ...], tuple[str, ...], bool]] = {
    "system message": (
        (Message(role="system", content="probesystem"), _user("probeone")),
        ("probesystem", "probeone"),
        False,
    ),
    "several turns": (
        (_user("probeone"), _said("probetwo"), _user("probethree"), _said("probefour"), _user("probefive")),
        ("probeone", "probetwo", "probethree", "probefour", "probefive"),
        False,
    ),
    "two turns of the user": (
        (_user("probeone"), _user("probetwo")),
        ("probeone", "probetwo"),
        False,
    ),
    "white space around a question": ((_user("  probeone\n\n"),), ("  probeone\n\n",), False),
    "white space around an earlier answer": (
        (_user("probeone"), _said("  probetwo\n\n"), _user("probethree")),
        ("probeone", "  probetwo\n\n", "probethree"),
        False,
    ),
    "thinking of an earlier answer": (
        (_user("probeone"), _said("probetwo", reasoning_content="probethought"), _user("probethree")),
        ("probeone", "probethought", "probetwo", "probethree"),
        False,
    ),
    "tool definitions": ((_user("probeone"),), ("probefunction", "probeone"), True),
    "tool call and result": (
        (_user("probeone"), _said("", tool_calls=(_CALL,)), _RESULT),
        ("probeone", "probefunction", "probekey", "probevalue", "proberesult"),
        True,
    ),
    "words beside a tool call": (
        (_user("probeone"), _said("probetwo", tool_calls=(_CALL,)), _RESULT),
        ("probeone", "probetwo", "probefunction", "probevalue", "proberesult"),
        True,
    ),
}
"""Name -> conversation, what must appear of it in this order, and whether it has tools."""


def template_findings(renderer: Renderer) -> tuple[Finding, ...]:
    """Render every probe as this side would, and say what became of it."""
    return tuple(
        _finding(renderer, name, messages, words, tools=(PROBE_TOOL,) if with_tools else ())
        for name, (messages, words, with_tools) in _probes.items()
    )


def _finding(
    renderer: Renderer,
    name: str,
    messages: tuple[Message, ...],
    words: Sequence[str],
    tools: tuple[Mapping[str, Any], ...],
) -> Finding:
    given = "\n".join(_shown(message) for message in messages)
    try:
        ids = renderer.context_ids(Prompt(key="probe", messages=messages, tools=tools))
    except RenderError as error:
        return Finding(name=name, status=Status.RAISES, given=given, rendered=str(error))
    rendered = readable(ids_symbols(renderer.tokenization, ids.tolist()), renderer.tokenization)
    return Finding(name=name, status=_status(words, rendered), given=given, rendered=rendered)


def _status(words: Sequence[str], rendered: str) -> Status:
    """Whether all words appear, in order and with the white space around them.

    Words are looked for from the back, as templates show examples of calls before the conversation.
    """
    if not all(word.strip() in rendered for word in words):
        return Status.DROPS
    end = len(rendered)
    for word in reversed(words):
        end = rendered.rfind(word.strip(), 0, end)
        if end < 0:
            return Status.REORDERS
    return Status.OK if all(word in rendered for word in words) else Status.TRIMS


def _shown(message: Message) -> str:
    parts = [f"{message.role}: {message.content!r}"]
    if message.reasoning_content is not None:
        parts.append(f"thinking {message.reasoning_content!r}")
    parts += [f"calls {call.name}({call.arguments})" for call in message.tool_calls]
    return ", ".join(parts)
