"""`Renderer`: a prompt and a response as ids of one model, in that model's own form of conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64

from dragoman.config import ModelConfig
from dragoman.errors import RenderError
from dragoman.render.contexts import answer_context, beginning, check_stop, thinking_opened, writes_alike
from dragoman.render.dialect import Dialect
from dragoman.render.literal import LiteralReader
from dragoman.render.loading import load_side, warn_once
from dragoman.render.messages import calls_as_text, template_turns, tools_as_text
from dragoman.render.probing import Prober
from dragoman.render.stops import turn_ends
from dragoman.render.symbols import byte_symbols, event_symbol, readable, symbol_string, text_symbols
from dragoman.render.templates import Template, chat_ids, plain_ids, text_ids
from dragoman.render.turns import THINKING, Part, as_message, as_text, take_apart
from dragoman.render.viewing import Side, Thinking, rewrite
from dragoman.render.written import through, write_symbols
from dragoman.text import Tokenization
from dragoman.types import (
    Correspondence,
    Event,
    Message,
    Prompt,
    Rollout,
    StopReason,
    TeacherView,
    TokenText,
    ToolCall,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True, kw_only=True)
class Renderer:
    """One model's side of a conversation.

    >>> renderer = Renderer.from_config(StudentConfig(model="assets:smollm2-135m-instruct"))
    >>> renderer.tokenization.token_name(renderer.stop_id)
    '<|im_end|>'
    >>> renderer.completion(b"12.", StopReason.STOP).event.tolist()  # "1", "2", ".", <|im_end|>
    [0, 0, 0, 1]
    """

    tokenization: Tokenization
    """With the final stop set."""
    tokenizer: PreTrainedTokenizerFast
    """Transformers' own, for its template and for saving beside a trained model."""
    template: Template
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Variables handed to the chat template."""
    dialect: Dialect = field(default_factory=Dialect)
    """How this side opens and closes thinking, answers and tool calls."""
    thinking: Thinking = Thinking.KEEP
    """What this side, as a teacher, is shown of the student's thinking."""
    tools_as_text: bool = False
    """Whether tools are written as text, for a template that knows none."""

    @classmethod
    def from_config(cls, model: ModelConfig) -> Renderer:
        """Load the tokenizer of a folder, `assets:NAME` or hub id, and find its template and stop set.

        The stop set is the tokenizer's end of sequence, what the generation config names and, with a
        chat template, what that writes after an assistant's turn; `stop_tokens` replaces all of it.

        Raises TokenizerError where the tokenizer cannot be loaded, RenderError for a chat template that
        is missing or fails and where no stop token is found, ConfigError for a stop token or template
        variable that cannot be meant.
        """
        side = load_side(model)
        return cls(
            tokenization=side.tokenization,
            tokenizer=side.tokenizer,
            template=side.template,
            template_kwargs=model.chat_template_kwargs,
            dialect=side.dialect,
            thinking=side.thinking,
            tools_as_text=model.tools == "text",
        )

    @cached_property
    def stop_id(self) -> int:
        """The id written for a stop event: the chat template's end of turn, else the tokenizer's end of
        sequence, else (neither is in the stop set) the lowest id of the stop set."""
        stops = self.tokenization.stop_ids
        ends: tuple[int | None, ...] = (self.tokenizer.eos_token_id, *sorted(stops))
        if self.template is Template.CHAT:
            ends = (*turn_ends(self.tokenization, self.tokenizer, self.template_kwargs), *ends)
        return next(index for index in ends if index is not None and index in stops)

    def context_ids(self, prompt: Prompt) -> Int64[np.ndarray, " P"]:
        """Ids up to where the answer starts, the generation prompt included; at least one.

        Under a chat template a text prompt is one user message. Under the plain template a conversation
        is written in `PLAIN_TEMPLATE` and a text prompt is encoded as it is; both follow the model's
        beginning of sequence, if it has one. Raises RenderError if the template refuses the conversation
        or nothing is left of it.
        """
        where = f"prompt {prompt.key!r}" + (f" ({prompt.origin})" if prompt.origin else "")
        messages, tools = self._conversation(prompt, where)
        turns = template_turns(messages, self.dialect.call_form)
        if self.template is Template.CHAT:
            ids = chat_ids(
                self.tokenizer,
                turns,
                self.template_kwargs,
                where=where,
                generation_prompt=True,
                tools=tools,
                reader=self._reader,
            )
        elif prompt.text is not None:
            ids = text_ids(self.tokenizer, prompt.text)
        else:
            ids = plain_ids(self.tokenizer, turns, self._reader)
        if not ids:
            raise RenderError(
                f"{where} has no tokens for {self.tokenization.name!r}: it is empty and this tokenizer has "
                "no beginning-of-sequence token, so that no token could be predicted from it. Give it text"
            )
        return np.array(ids, np.int64)

    @property
    def side(self) -> Side:
        """What the rewriting of a turn needs to know of this side."""
        return Side(dialect=self.dialect, tokenization=self.tokenization)

    def completion(self, data: bytes, stop: StopReason) -> TokenText:
        """The canonical ids of `data`, then one stop event if the response was ended by one.

        Raises RenderError if the text itself holds a stop token, which only an ordinary word or a line
        break named in `stop_tokens` can be: it would read as several endings, and its bytes be lost.
        """
        end = event_symbol(self.stop_id) if stop is StopReason.STOP else ""
        return self._write(byte_symbols(data) + end, stop)[0]

    def _write(self, symbols: str, stop: StopReason) -> tuple[TokenText, Correspondence | None]:
        text, changed = write_symbols(symbols, self.tokenization)
        places = np.flatnonzero(text.event == Event.STOP)
        if len(places) > (stop is StopReason.STOP):
            raise RenderError(
                f"a response holds {self.tokenization.token_name(int(text.ids[places[0]]))!r} as text, which "
                f"is a stop token of {self.tokenization.name!r}: expected stop tokens that end a response "
                "and are never part of one. Take it out of this model's stop_tokens"
            )
        return text, changed

    @cached_property
    def _reader(self) -> LiteralReader:
        added = self.tokenizer.added_tokens_decoder
        controls = [index for index in added if self.tokenization.is_event(index)]
        markers = [index for index, event in self.tokenization.markers.items() if event > Event.CONTROL]
        return LiteralReader(self.tokenizer, controls, markers)

    def _conversation(
        self, prompt: Prompt, where: str
    ) -> tuple[tuple[Message, ...], Sequence[Mapping[str, Any]]]:
        """Messages and tools as this side's template takes them."""
        messages = prompt.messages or (Message(role="user", content=prompt.text or ""),)
        if prompt.has_tools and self.tools_as_text:
            return tools_as_text(messages, prompt.tools)
        if prompt.has_tools and self.dialect.tools is None:
            raise RenderError(
                f"the chat template of {self.tokenization.name!r} has no form for tool calls, so those of "
                f"{where} would be lost. Set tools=text for this model, which writes them as text"
            )
        if prompt.tools and not self.dialect.lists_tools:
            warn_once(
                f"the chat template of {self.tokenization.name!r} does not list tools, so this model is not "
                "told of them. Put them into the system message, or set tools=text for it"
            )
        return messages, prompt.tools

    def parse(self, completion: TokenText, *, opened: bool = False, calls: bool = True) -> Message:
        """A response of this side as a message. `opened`: its context left thinking open; `calls`: there
        were tools to call. Text that keeps to no form is content."""
        symbols = symbol_string(completion)
        finished = bool(len(completion)) and completion.event[-1] == Event.STOP
        pieces = take_apart(symbols, self.dialect, finished=finished, opened=opened, calls=calls)
        return as_message(symbols, pieces, self.dialect, lambda part: readable(part, self.tokenization))

    def response(self, message: Message, prompt: Prompt) -> TokenText:
        """An assistant's message as this side writes it behind `context_ids(prompt)`, with its stop.

        Ids are canonical, the text of the message is taken as it is. Raises RenderError for tool calls
        this side's template cannot write.
        """
        tools = self.dialect.tools
        symbols = beginning(message, self.dialect) + text_symbols(message.content)
        if message.tool_calls:
            if tools is None:
                raise RenderError(
                    f"the template of {self.tokenization.name!r} has no form for the tool calls of an answer "
                    f"to {prompt.key!r}; set tools=text for this model, which writes them as text"
                )
            symbols += (tools.before if message.content else "") + self.write_calls(message.tool_calls)
        return self._write(symbols + event_symbol(self.stop_id), StopReason.STOP)[0]

    @cached_property
    def _prober(self) -> Prober:
        return Prober(self.tokenization, self.tokenizer, self.template_kwargs)

    def write_calls(self, calls: Sequence[ToolCall]) -> str:
        """Tool calls in this side's syntax, as symbols and without what ends the turn. Raises RenderError if
        the template refuses them."""
        if self.tools_as_text:
            return text_symbols(calls_as_text(calls))
        message = Message(role="assistant", tool_calls=tuple(calls))
        return self._prober.calls(message, self.dialect, self.dialect.call_form, self._reader)

    def _calls_if_written(self, calls: Sequence[ToolCall]) -> str | None:
        try:
            return self.write_calls(calls)
        except RenderError as error:
            warn_once(
                f"the chat template of {self.tokenization.name!r} cannot write tool calls of the student, so "
                f"they and what follows them are dropped as tool_syntax: {error}"
            )
            return None

    def view(
        self, rollout: Rollout, *, student: Renderer | None = None, keep_ids: bool = False
    ) -> TeacherView:
        """A response in this model's conversation and tokens.

        With the `student`'s renderer its thinking and tool calls become this side's; without, the response
        is text. `keep_ids` says that both models give every id the same meaning
        (`Tokenization.same_ids_as`), so that the sampled ids are taken as they are wherever both sides also
        write such a turn alike. Raises RenderError if the response holds a
        stop that its `stop` reason denies, or lacks one.
        """
        check_stop(rollout)
        context = self.context_ids(rollout.prompt)
        symbols, finished = symbol_string(rollout.completion), rollout.stop is StopReason.STOP
        if student is None:
            pieces = as_text(symbols, finished=finished)
        else:
            pieces = take_apart(
                symbols,
                student.dialect,
                finished=finished,
                opened=student.dialect.tail_opens_thinking,
                calls=rollout.prompt.has_tools,
            )
        written_by = None if student is None else student.side
        if keep_ids and writes_alike(pieces, self.side, written_by, self.thinking):
            if student is not None and student.dialect != self.dialect:
                context = answer_context(context, self.side, thinks=False)
            return self._view(rollout, context, rollout.completion)
        formats = self.thinking is Thinking.TEACHER_FORMAT and any(p.part in THINKING for p in pieces)
        opened = formats and self.dialect.tail_opens_thinking
        draft = rewrite(
            symbols,
            pieces,
            student=written_by or self.side,
            teacher=self.side,
            thinking=self.thinking,
            opened=opened,
            stop_symbol=event_symbol(self.stop_id),
            write_calls=self._calls_if_written,
        )
        completion, changed = self._write(draft.symbols, rollout.stop)
        found = None if changed is None and draft.is_plain(len(symbols)) else draft.correspondence()
        if not opened:
            context = answer_context(context, self.side, thinks=formats)
            if student is not None and pieces and pieces[0].part in (Part.THOUGHT, Part.THINK_CLOSE):
                opening = thinking_opened(self.side, student.side, self.thinking)
                context = np.concatenate([context, opening])
        return self._view(rollout, context, completion, None if found is None else through(found, changed))

    def _view(
        self,
        rollout: Rollout,
        context: Int64[np.ndarray, " P"],
        completion: TokenText,
        correspondence: Correspondence | None = None,
    ) -> TeacherView:
        return TeacherView(
            rollout_key=rollout.key,
            teacher=self.tokenization.name,
            ids=np.concatenate([context, completion.ids]),
            start=len(context),
            completion=completion,
            correspondence=correspondence,
        )
