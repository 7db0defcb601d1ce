"""Finding the markers of a chat template by rendering probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dragoman.errors import RenderError
from dragoman.render.dialect import TEXT_TOOLS, Dialect, ToolSyntax, customary_thinking
from dragoman.render.literal import LiteralReader
from dragoman.render.messages import CALL_FORMS, CallForm, template_turns
from dragoman.render.symbols import ids_symbols, num_common, readable
from dragoman.render.templates import chat_ids
from dragoman.text import Tokenization
from dragoman.types import Message, ToolCall

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

QUESTION = Message(role="user", content="Hello")
_ANSWER, _THOUGHT = "probeanswer", "probethought"
_NAME, _KEY, _VALUE = "probefunction", "probekey", "probevalue"
_CALL = ToolCall(name=_NAME, arguments=f'{{"{_KEY}": "{_VALUE}"}}', id="probeid01")
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
    syntax, form, lists = (TEXT_TOOLS, CallForm(), True) if text_tools else _tools(prober, answer_open, end)
    return Dialect(
        tail=tail,
        tail_ids=tuple(asked[num_head:]),
        end=end,
        answer_open=answer_open,
        think_open=think_open,
        think_close=think_close,
        thinks=thinks,
        tools=syntax,
        lists_tools=lists,
        call_form=form,
    )


def _said(content: str, **fields: Any) -> Message:
    return Message(role="assistant", content=content, **fields)


def _thinking(prober: Prober, head: str) -> tuple[str, str, bool]:
    """What opens and closes thinking, and whether the template itself says so."""
    try:
        text = prober.symbols([QUESTION, _said(_ANSWER, reasoning_content=_THOUGHT)])
    except RenderError:
        text = ""
    thought, answer = text.rfind(_THOUGHT), text.rfind(_ANSWER)
    if len(head) <= thought < answer:
        return text[len(head) : thought], text[thought + len(_THOUGHT) : answer], True
    return *customary_thinking(prober.tokenization), False


def _tools(prober: Prober, answer_open: str, end: str) -> tuple[ToolSyntax | None, CallForm, bool]:
    """How the template writes calls, in which form it wants them, and whether it lists definitions."""
    try:
        lists = _NAME in prober.symbols([QUESTION], tools=[PROBE_TOOL], generation_prompt=True)
    except RenderError:
        lists = False
    for form in CALL_FORMS:
        one, two, spoken = (
            _after_head(prober, form, message, answer_open)
            for message in (
                _said("", tool_calls=(_CALL,)),
                _said("", tool_calls=(_CALL, _CALL)),
                _said(_ANSWER, tool_calls=(_CALL,)),
            )
        )
        if one is not None and (syntax := _syntax(one, two, spoken, end)) is not None:
            return syntax, form, lists
    return None, CallForm(), lists


def _after_head(prober: Prober, form: CallForm, message: Message, answer_open: str) -> str | None:
    """What the template writes for a turn that calls tools; None if it refuses."""
    try:
        before = prober.ids([QUESTION], tools=[PROBE_TOOL], generation_prompt=True)
        whole = prober.ids([QUESTION, message], form=form, tools=[PROBE_TOOL])
    except RenderError:
        return None
    written = ids_symbols(prober.tokenization, whole[num_common(before, whole) :])
    return written.removeprefix(answer_open)


def _syntax(one: str, two: str | None, spoken: str | None, end: str) -> ToolSyntax | None:
    """Take a rendered call apart; None where name or arguments do not appear as they are."""
    name, key = one.find(_NAME), one.rfind(_KEY)
    start, stop = one.rfind("{", 0, key), one.find("}", key) + 1
    if not 0 <= name < start or _VALUE not in one[start:stop]:
        return None
    opening, middle = one[:name], one[name + len(_NAME) : start]
    close = one[stop:].removesuffix(end)
    again, separator, last = opening, "\n", ""
    if two is not None:
        second = two.find(_NAME, two.find(_VALUE))
        third = two.rfind(_VALUE)
        between = two[two.find("}", two.find(_VALUE)) + 1 : second]
        tail = two[two.find("}", third) + 1 :].removesuffix(end)
        again = opening[len(opening) - num_common(opening[::-1], between[::-1]) :]
        shared = close[: num_common(close, tail)]
        separator = between.removesuffix(again).removeprefix(shared)
        last = tail[len(shared) :]
        close = shared
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
