"""Finding the markers of a chat template by rendering probes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dragoman.errors import RenderError
from dragoman.render.dialect import PROBE_ID, TEXT_TOOLS, Dialect, ToolSyntax, customary_thinking
from dragoman.render.literal import LiteralReader
from dragoman.render.messages import CALL_FORMS, CallForm, template_turns
from dragoman.render.symbols import BLANKS, event_symbol, ids_symbols, num_common, readable
from dragoman.render.templates import chat_ids
from dragoman.text import Tokenization
from dragoman.types import Message, ToolCall

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

QUESTION = Message(role="user", content="Hello")
_ANSWER, _THOUGHT = "probeanswer", "probethought"
_NAME, _KEY, _VALUE = "probefunction", "probekey", "probevalue"
_CALL = ToolCall(name=_NAME, arguments=f'{{"{_KEY}": "{_VALUE}"}}', id=PROBE_ID)
PROBE_TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "A probe.",
        "parameters": {"type": "object", "properties": {_KEY: {"type": "string"}}},
    },
}


class Prober:
    """Renders probes of one tokenizer's chat template as symbols."""

    def __init__(
        self, tokenization: Tokenization, tokenizer: PreTrainedTokenizerFast, kwargs: Mapping[str, Any]
    ) -> None:
        self.tokenization = tokenization
        self._tokenizer = tokenizer
        self._kwargs = kwargs

    def ids(
        self,
        messages: Sequence[Message],
        *,
        form: CallForm | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        generation_prompt: bool = False,
        reader: LiteralReader | None = None,
    ) -> list[int]:
        """The ids of a conversation; raises RenderError where the template refuses it."""
        return chat_ids(
            self._tokenizer,
            template_turns(messages, form or CallForm()),
            self._kwargs,
            where="a probe",
            generation_prompt=generation_prompt,
            tools=tools,
            reader=reader,
        )

    def symbols(self, messages: Sequence[Message], **options: Any) -> str:
        """The symbols of a conversation."""
        return ids_symbols(self.tokenization, self.ids(messages, **options))

    @cached_property
    def _asked(self) -> list[int]:
        return self.ids([QUESTION], tools=[PROBE_TOOL], generation_prompt=True)

    def calls(
        self, message: Message, dialect: Dialect, form: CallForm, reader: LiteralReader | None = None
    ) -> str:
        """What the template writes for a turn that calls tools, without what it writes before any answer and
        without the end of the turn; raises RenderError where it refuses."""
        tail, before = list(dialect.tail_ids), self._asked
        if tail and before[-len(tail) :] == tail:
            before = before[: -len(tail)]
        whole = self.ids([QUESTION, message], form=form, tools=[PROBE_TOOL], reader=reader)
        written = ids_symbols(self.tokenization, whole[num_common(before, whole) :])
        written, end = self._until_stop(written), self._until_stop(dialect.end)
        return written.removeprefix(dialect.answer_open).removesuffix(end)

    def _until_stop(self, symbols: str) -> str:
        """Symbols up to the first stop: a turn that calls may end by another than one that answers."""
        stops = map(event_symbol, self.tokenization.stop_ids)
        return symbols[: min((place for s in stops if (place := symbols.find(s)) >= 0), default=None)]


def probe_dialect(
    tokenization: Tokenization,
    tokenizer: PreTrainedTokenizerFast,
    kwargs: Mapping[str, Any],
    *,
    text_tools: bool,
) -> Dialect:
    """Find the markers of a chat template. With `text_tools`, calls are the text of `tools_as_text`."""
    prober = Prober(tokenization, tokenizer, kwargs)
    asked = prober.ids([QUESTION], generation_prompt=True)
    answered = prober.ids([QUESTION, _said(_ANSWER)])
    earlier = prober.ids([QUESTION, _said(_ANSWER), QUESTION])
    num_head = min(num_common(asked, answered), num_common(asked, earlier))
    head = ids_symbols(tokenization, asked[:num_head])
    tail = ids_symbols(tokenization, asked[num_head:])
    plain = ids_symbols(tokenization, answered)
    place = plain.rfind(_ANSWER)
    if place < len(head):
        raise RenderError(
            f"the chat template of {tokenization.name!r} does not show what an assistant says: with the "
            f"answer {_ANSWER!r} it gives {readable(plain, tokenization)!r}. Set template=plain for this "
            "model"
        )
    answer_open, end = plain[len(head) : place], plain[place + len(_ANSWER) :]
    think_open, think_close, thinks = _thinking(prober, head)
    dialect = Dialect(
        tail=tail,
        tail_ids=tuple(asked[num_head:]),
        end=end,
        answer_open=answer_open,
        think_open=think_open,
        think_close=think_close,
    )
    dialect = replace(dialect, thinks=thinks or dialect.tail_opens_thinking)
    if text_tools:
        return replace(dialect, tools=TEXT_TOOLS, lists_tools=True)
    syntax, form = _tools(prober, dialect)
    return replace(dialect, tools=syntax, call_form=form, lists_tools=_lists_tools(prober))


def _said(content: str, **fields: Any) -> Message:
    return Message(role="assistant", content=content, **fields)


def _thinking(prober: Prober, head: str) -> tuple[str, str, bool]:
    """What opens and closes thinking, and whether the template itself says so."""
    try:
        text = prober.symbols([QUESTION, _said(_ANSWER, reasoning_content=_THOUGHT)])
    except RenderError:
        text = ""
    thought, answer = text.rfind(_THOUGHT), text.rfind(_ANSWER)
    close = text[thought + len(_THOUGHT) : answer]
    if len(head) <= thought < answer and close.strip(BLANKS):
        return text[len(head) : thought], close, True
    return *customary_thinking(prober.tokenization), False


def _lists_tools(prober: Prober) -> bool:
    """Whether definitions of tools appear in the conversation."""
    try:
        return _NAME in prober.symbols([QUESTION], tools=[PROBE_TOOL], generation_prompt=True)
    except RenderError:
        return False


def _tools(prober: Prober, dialect: Dialect) -> tuple[ToolSyntax | None, CallForm]:
    """How the template writes calls, and in which form it wants them."""

    def written(form: CallForm, content: str, *calls: ToolCall) -> str | None:
        try:
            return prober.calls(_said(content, tool_calls=calls), dialect, form)
        except RenderError:
            return None

    for form in CALL_FORMS:
        one = written(form, "", _CALL)
        if one is None or not _is_understood(one):
            continue
        syntax = _syntax(one, written(form, "", _CALL, _CALL), written(form, _ANSWER, _CALL))
        needs_ids = PROBE_ID in "".join(syntax.markers) or written(form, "", replace(_CALL, id=None)) is None
        return syntax, replace(form, needs_ids=needs_ids)
    return None, CallForm()


def _arguments(one: str) -> tuple[int, int]:
    """Where the arguments of a rendered call seem to stand."""
    key = one.rfind(_KEY)
    return one.rfind("{", 0, key), one.find("}", key) + 1


def _is_understood(one: str) -> bool:
    """Whether a rendered call has its name and, behind it, its arguments as a JSON object: neither quoted
    once more nor in Python's spelling."""
    start, stop = _arguments(one)
    try:
        return 0 <= one.find(_NAME) < start and json.loads(one[start:stop]) == json.loads(_CALL.arguments)
    except json.JSONDecodeError:
        return False


def _syntax(one: str, two: str | None, spoken: str | None) -> ToolSyntax:
    """Take apart a rendered call, two of them, and one beside words."""
    name = one.find(_NAME)
    start, stop = _arguments(one)
    opening, middle, close = one[:name], one[name + len(_NAME) : start], one[stop:]
    again, separator, last = opening, "\n", ""
    if two is not None:
        second = two.find(_NAME, two.find(_VALUE))
        between = two[two.find("}", two.find(_VALUE)) + 1 : second]
        tail = two[two.find("}", two.rfind(_VALUE)) + 1 :]
        again = opening[len(opening) - num_common(opening[::-1], between[::-1]) :]
        close = close[: min(num_common(close, tail), num_common(close, between))]
        separator = between.removesuffix(again).removeprefix(close)
        last = tail[len(close) :]
    before = "\n"
    if spoken is not None and (place := spoken.find(_ANSWER)) >= 0 and opening in spoken[place:]:
        before = spoken[place + len(_ANSWER) : spoken.find(opening, place)]
    return ToolSyntax(
        open=opening,
        middle=middle,
        close=close,
        again=again,
        separator=separator,
        before=before,
        end=last,
    )
