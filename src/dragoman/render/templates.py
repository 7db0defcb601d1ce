"""Conversations through a template, always by the tokenizer's own path, and what a template may refuse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from dragoman.errors import ConfigError, RenderError
from dragoman.render.literal import LiteralReader, free_mark

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'] | capitalize + ':\n' }}{% endif %}"
    "{{ message['content'] + '\n\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:\n' }}{% endif %}"
)
"""A conversation for a model without a chat template, as text to continue: a system message stands by
itself, other turns start with a line that names their role, and the answer follows `Assistant:` on a
line of its own. There an answer may start without a space, as those of chat models do."""


class Template(StrEnum):
    """How a conversation becomes ids: by the model's chat template, or as plain text."""

    CHAT = "chat"
    PLAIN = "plain"


def choose_template(wanted: str, tokenizer: PreTrainedTokenizerFast, side: str) -> Template:
    """Resolve `auto`; raises RenderError if `chat` is wanted of a tokenizer without a chat template."""
    if wanted == "auto":
        return Template.CHAT if tokenizer.chat_template else Template.PLAIN
    template = Template(wanted)
    if template is Template.CHAT and not tokenizer.chat_template:
        raise RenderError(
            f"{side}.template is chat, but the tokenizer of {tokenizer.name_or_path!r} has no chat template, "
            f"so its conversations have no form the model knows. Set {side}.template=plain, "
            "or add a chat_template.jinja beside the tokenizer"
        )
    return template


def check_template_kwargs(kwargs: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast, side: str) -> None:
    """Raise ConfigError for variables the tokenizer would take as its own arguments."""
    import inspect

    arguments = inspect.signature(tokenizer.apply_chat_template).parameters
    taken = sorted(kwargs.keys() & (arguments.keys() - {"documents"}))
    if taken:
        raise ConfigError(
            f"{side}.chat_template_kwargs sets {', '.join(taken)}, expected variables of the template only: "
            "the form of the prompt is decided by dragoman, the same way for every model"
        )


def chat_ids(
    tokenizer: PreTrainedTokenizerFast,
    turns: Sequence[Mapping[str, Any]],
    kwargs: Mapping[str, Any],
    *,
    where: str,
    generation_prompt: bool,
    tools: Sequence[Mapping[str, Any]] = (),
    reader: LiteralReader | None = None,
) -> list[int]:
    """Ids of a conversation in the model's own template.

    With a `reader`, content that spells a control token stays content. `where` names the conversation in
    the RenderError that is raised if the template refuses it.
    """
    mark = None
    if reader is not None and reader.spells_control([*turns, *tools]):
        mark = free_mark([*turns, *tools])
        turns = [reader.guard(turn, mark) for turn in turns]
        tools = [reader.guard(tool, mark) for tool in tools]
    try:
        if mark is None and all(turn["content"] is not None for turn in turns):
            return list(
                tokenizer.apply_chat_template(
                    list(turns),
                    tools=list(tools) or None,
                    add_generation_prompt=generation_prompt,
                    tokenize=True,
                    return_dict=False,
                    **kwargs,
                )
            )
        rendered = _rendered(tokenizer, turns, tools, kwargs, generation_prompt)
    except (TemplateError, TypeError, ValueError) as error:
        given = f" and the variables {dict(kwargs)}" if kwargs else ""
        raise RenderError(
            f"the chat template of {tokenizer.name_or_path!r} cannot render {where}: {error}. It was given "
            f"the roles {[turn['role'] for turn in turns]}{given}. Change the conversation to what the "
            "template takes, or set template=plain for this model"
        ) from error
    if reader is not None and mark is not None:
        return reader.ids(rendered, mark)
    return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])


def _rendered(
    tokenizer: PreTrainedTokenizerFast,
    turns: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    kwargs: Mapping[str, Any],
    generation_prompt: bool,
) -> str:
    """A conversation as text. `apply_chat_template` leaves out a content that is null (transformers 5.23),
    which some templates ask for beside a tool call; the renderer beneath it does not."""
    from transformers.utils.chat_template_utils import render_jinja_template

    found = render_jinja_template(
        [list(turns)],
        tools=list(tools) or None,
        chat_template=tokenizer.get_chat_template(tools=list(tools) or None),
        add_generation_prompt=generation_prompt,
        **{**tokenizer.special_tokens_map, **kwargs},
    )
    # With the chats comes, in some versions, what marks their generated parts.
    return str(found[0][0] if isinstance(found, tuple) else found[0])


def plain_text(tokenizer: PreTrainedTokenizerFast, turns: Sequence[Mapping[str, Any]]) -> str:
    """A conversation in the plain template."""
    return str(
        tokenizer.apply_chat_template(
            list(turns), chat_template=PLAIN_TEMPLATE, add_generation_prompt=True, tokenize=False
        )
    )


def plain_ids(
    tokenizer: PreTrainedTokenizerFast, turns: Sequence[Mapping[str, Any]], reader: LiteralReader
) -> list[int]:
    """Ids of a conversation in the plain template; content that spells a control token stays content."""
    if not reader.spells_control(turns):
        return text_ids(tokenizer, plain_text(tokenizer, turns))
    mark = free_mark(turns)
    rendered = plain_text(tokenizer, [reader.guard(turn, mark) for turn in turns])
    return [*text_ids(tokenizer, ""), *reader.ids(rendered, mark)]


def text_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Ids of text to be continued: with what the tokenizer puts before a text (its beginning of
    sequence), and without what it puts after one, which would say that the text has ended."""
    encoding = tokenizer(text, add_special_tokens=True, return_attention_mask=False)
    num_after = _num_added_after(tokenizer)
    return list(encoding["input_ids"][: len(encoding["input_ids"]) - num_after])


def _num_added_after(tokenizer: PreTrainedTokenizerFast) -> int:
    """How many tokens the tokenizer puts after a text of its own accord."""
    added = tokenizer("a", add_special_tokens=True, return_special_tokens_mask=True)["special_tokens_mask"]
    return added[::-1].index(0) if 0 in added else 0
