"""Finding out about one side of a conversation: tokenizer, template, stops and markers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from dragoman.assets import resolve
from dragoman.config import ModelConfig, StudentConfig, TeacherConfig
from dragoman.errors import ConfigError, RenderError, TokenizerError
from dragoman.render.dialect import Dialect, marker_events, plain_dialect
from dragoman.render.probing import probe_dialect
from dragoman.render.stops import named_stops, turn_ends
from dragoman.render.templates import Template, check_template_kwargs, choose_template
from dragoman.render.viewing import Thinking
from dragoman.text import Tokenization
from dragoman.types import Event

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoadedSide:
    """What `Renderer.from_config` is made of."""

    tokenization: Tokenization
    tokenizer: PreTrainedTokenizerFast
    template: Template
    dialect: Dialect
    thinking: Thinking


def load_side(model: ModelConfig) -> LoadedSide:
    """Load a tokenizer and find its template, stop set and markers; see `Renderer.from_config`."""
    side = _side(model)
    tokenization = Tokenization.from_pretrained(model.model, revision=model.revision)
    tokenizer = _load_tokenizer(model)
    template = choose_template(model.template, tokenizer, side)
    check_template_kwargs(model.chat_template_kwargs, tokenizer, side)
    tokenization = tokenization.with_stops(_stops(model, side, tokenization, tokenizer, template))
    markers = _controls(tokenization, tokenizer) if template is Template.CHAT else {}
    dialect = _dialect(model, tokenization, tokenizer, template)
    added = {index: token.content for index, token in tokenizer.added_tokens_decoder.items()}
    markers |= marker_events(dialect, tokenization, added)
    tokenization = tokenization.with_markers(markers)
    dialect = _dialect(model, tokenization, tokenizer, template)
    return LoadedSide(
        tokenization=tokenization,
        tokenizer=tokenizer,
        template=template,
        dialect=dialect,
        thinking=_thinking(getattr(model, "thinking", "auto"), dialect, side),
    )


@cache
def warn_once(message: str) -> None:
    """Log a warning the first time it is given."""
    logger.warning("%s", message)


def _stops(
    model: ModelConfig,
    side: str,
    tokenization: Tokenization,
    tokenizer: PreTrainedTokenizerFast,
    template: Template,
) -> frozenset[int]:
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
    return stops


def _controls(tokenization: Tokenization, tokenizer: PreTrainedTokenizerFast) -> dict[int, Event]:
    """Added tokens that the chat template itself writes: control tokens, whatever their files call them."""
    template = tokenizer.chat_template
    source = "".join(template.values()) if isinstance(template, Mapping) else str(template)
    return {
        index: Event.CONTROL
        for index, token in tokenizer.added_tokens_decoder.items()
        if not tokenization.is_event(index) and len(token.content.strip()) > 2 and token.content in source
    }


def _dialect(
    model: ModelConfig, tokenization: Tokenization, tokenizer: PreTrainedTokenizerFast, template: Template
) -> Dialect:
    text_tools = model.tools == "text"
    if template is Template.PLAIN:
        return plain_dialect(tokenization, text_tools=text_tools)
    return probe_dialect(tokenization, tokenizer, model.chat_template_kwargs, text_tools=text_tools)


def _thinking(wanted: str, dialect: Dialect, side: str) -> Thinking:
    if wanted == "auto":
        return Thinking.TEACHER_FORMAT if dialect.thinks else Thinking.KEEP
    if wanted == Thinking.TEACHER_FORMAT and not dialect.thinks:
        raise ConfigError(
            f"{side}.thinking is 'teacher-format', but the template of this model writes no thinking, so it "
            "has no markers for it; expected 'keep' or 'drop'"
        )
    return Thinking(wanted)


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
