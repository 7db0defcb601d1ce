"""`Renderer`: a prompt and a response as ids of one model, in that model's own form of conversation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64

from dragoman.assets import resolve
from dragoman.config import ModelConfig, StudentConfig, TeacherConfig
from dragoman.errors import RenderError, TokenizerError
from dragoman.render.stops import named_stops, turn_ends
from dragoman.render.templates import (
    Template,
    Turn,
    chat_ids,
    check_template_kwargs,
    choose_template,
    plain_text,
    text_ids,
)
from dragoman.text import Tokenization
from dragoman.types import Event, Prompt, Rollout, StopReason, TeacherView, TokenText

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

    @classmethod
    def from_config(cls, model: ModelConfig) -> Renderer:
        """Load the tokenizer of a folder, `assets:NAME` or hub id, and find its template and stop set.

        The stop set is the tokenizer's end of sequence, what the generation config names and, with a
        chat template, what that writes after an assistant's turn; `stop_tokens` replaces all of it.

        Raises TokenizerError where the tokenizer cannot be loaded, RenderError for a chat template that
        is missing or fails and where no stop token is found, ConfigError for a stop token or template
        variable that cannot be meant.
        """
        side = _side(model)
        tokenization = Tokenization.from_pretrained(model.model, revision=model.revision)
        tokenizer = _load_tokenizer(model)
        template = choose_template(model.template, tokenizer, side)
        check_template_kwargs(model.chat_template_kwargs, tokenizer, side)
        if model.stop_tokens is not None:
            stops = frozenset(named_stops(model.stop_tokens, tokenization, tokenizer, side))
        else:
            stops = tokenization.stop_ids
            if template is Template.CHAT:
                stops |= set(turn_ends(tokenization, tokenizer, model.chat_template_kwargs))
        if not stops:
            raise RenderError(
                f"no token is known to end a response of {model.model!r}: its tokenizer and generation "
                f"config name no end of sequence, and {_template_words(template)}. Without one every "
                f"response runs to the length limit. Set {side}.stop_tokens, e.g. {side}.stop_tokens=[</s>]"
            )
        return cls(
            tokenization=tokenization.with_stops(stops),
            tokenizer=tokenizer,
            template=template,
            template_kwargs=model.chat_template_kwargs,
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
        turns = _turns(prompt)
        if self.template is Template.CHAT:
            ids = chat_ids(self.tokenizer, turns, self.template_kwargs, where=where, generation_prompt=True)
        elif prompt.text is not None:
            ids = text_ids(self.tokenizer, prompt.text)
        else:
            ids = text_ids(self.tokenizer, plain_text(self.tokenizer, turns))
        if not ids:
            raise RenderError(
                f"{where} has no tokens for {self.tokenization.name!r}: it is empty and this tokenizer has "
                "no beginning-of-sequence token, so that no token could be predicted from it. Give it text"
            )
        return np.array(ids, np.int64)

    def completion(self, data: bytes, stop: StopReason) -> TokenText:
        """The canonical ids of `data`, then one stop event if the response was ended by one.

        Raises RenderError if the text itself holds a stop token, which only an ordinary word or a line
        break named in `stop_tokens` can be: it would read as several endings, and its bytes be lost.
        """
        text = self.tokenization.encode(data)
        if text.num_stops:
            stop_id = int(text.ids[text.event == Event.STOP][0])
            raise RenderError(
                f"a response holds {self.tokenization.token_name(stop_id)!r} as text, which is a stop token "
                f"of {self.tokenization.name!r}: expected stop tokens that end a response and are never part "
                "of one. Take it out of this model's stop_tokens"
            )
        if stop is StopReason.LENGTH:
            return text
        return TokenText(
            ids=np.append(text.ids, self.stop_id),
            data=text.data,
            bounds=np.append(text.bounds, len(text.data)),
            event=np.append(text.event, np.uint8(Event.STOP)),
            canonical=np.append(text.canonical, True),
        )

    def view(self, rollout: Rollout, *, keep_ids: bool = False) -> TeacherView:
        """The bytes of a response in this model's conversation and tokens.

        `keep_ids` takes the sampled ids as they are, which is right only where both models give every id
        the same meaning (`Tokenization.same_ids_as`). Raises RenderError if the response holds a stop that
        its `stop` reason denies, or lacks one.
        """
        _check_stop(rollout)
        context = self.context_ids(rollout.prompt)
        sampled = rollout.completion
        completion = sampled if keep_ids else self.completion(sampled.data, rollout.stop)
        return TeacherView(
            rollout_key=rollout.key,
            teacher=self.tokenization.name,
            ids=np.concatenate([context, completion.ids]),
            start=len(context),
            completion=completion,
        )


def _side(model: ModelConfig) -> str:
    """The section of the configuration, for messages."""
    if isinstance(model, StudentConfig):
        return "student"
    return "teacher" if isinstance(model, TeacherConfig) else "model"


def _template_words(template: Template) -> str:
    if template is Template.CHAT:
        return "its chat template writes no control token after an answer"
    return "it is used without a chat template"


def _load_tokenizer(model: ModelConfig) -> PreTrainedTokenizerFast:
    """The tokenizer of `tokenizer.json`: AutoTokenizer picks classes by name, which changes ids."""
    from transformers import PreTrainedTokenizerFast

    try:
        return PreTrainedTokenizerFast.from_pretrained(
            resolve(model.model), revision=model.revision, clean_up_tokenization_spaces=False
        )
    except (OSError, ValueError) as error:
        raise TokenizerError(f"transformers cannot load the tokenizer of {model.model!r}: {error}") from error


def _turns(prompt: Prompt) -> list[Turn]:
    if prompt.messages is None:
        return [{"role": "user", "content": prompt.text or ""}]
    return [{"role": message.role, "content": message.content} for message in prompt.messages]


def _check_stop(rollout: Rollout) -> None:
    event = rollout.completion.event
    num_stops = rollout.completion.num_stops
    wanted = 1 if rollout.stop is StopReason.STOP else 0
    if num_stops != wanted or (wanted and event[-1] != Event.STOP):
        places = np.flatnonzero(event == Event.STOP).tolist()
        raise RenderError(
            f"rollout {rollout.key!r} ended by {rollout.stop.value!r}, so that it should hold "
            f"{'one stop event, at its end' if wanted else 'no stop event'}; got {num_stops} among its "
            f"{len(event)} tokens, at {places}. The other model would be told another ending than was sampled"
        )
