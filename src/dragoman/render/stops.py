"""Which tokens end a model's response: asked of its files and its template, not of a list of families."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dragoman.errors import ConfigError
from dragoman.render.messages import Turn
from dragoman.render.templates import chat_ids
from dragoman.text import Tokenization

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_QUESTION: Turn = {"role": "user", "content": "Hello"}
_ANSWER: Turn = {"role": "assistant", "content": "probe"}
_MARK = b"probe"


def turn_ends(
    tokenization: Tokenization, tokenizer: PreTrainedTokenizerFast, kwargs: Mapping[str, Any]
) -> tuple[int, ...]:
    """Ids the chat template writes after an assistant's turn, found by rendering one.

    A turn at the end of a conversation and one that is followed by another are both tried: some
    templates end a turn by nothing but the head of the next (GLM), others write no end at the end.
    """
    found: list[int] = []
    for turns in ([_QUESTION, _ANSWER], [_QUESTION, _ANSWER, _QUESTION]):
        ids = chat_ids(
            tokenizer,
            turns,
            kwargs,
            where="a conversation of one question and answer",
            generation_prompt=False,
        )
        end = _control_after_answer(tokenization, tokenizer, ids)
        if end is not None and end not in found:
            found.append(end)
    return tuple(found)


def _control_after_answer(
    tokenization: Tokenization, tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]
) -> int | None:
    """The first control token after the probe, with nothing but white space between (Llama 2)."""
    spelled = [tokenization.token_bytes(index) for index in ids]
    place = b"".join(spelled).rfind(_MARK)
    if place < 0:
        return None
    # A marker may be an added token that its files do not call special; runs of spaces may be added too.
    added = tokenizer.added_tokens_decoder
    start = 0
    for index, data in zip(ids, spelled, strict=True):
        if start >= place + len(_MARK):
            if tokenization.is_event(index) or (index in added and data.strip()):
                return index
            if data.strip():
                return None
        start += len(data)
    return None


def named_stops(
    names: Sequence[str], tokenization: Tokenization, tokenizer: PreTrainedTokenizerFast, side: str
) -> tuple[int, ...]:
    """The ids of `stop_tokens`; raises ConfigError for a name the vocabulary does not hold."""
    ids: list[int] = []
    for name in names:
        index = tokenization.token_id(name)
        if index is None:
            near = difflib.get_close_matches(name, tokenizer.get_added_vocab(), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"{side}.stop_tokens names {name!r}, which is no token of {tokenization.name!r}{hint} "
                "A response could never end in it; expected tokens as spelled in the vocabulary"
            )
        ids.append(index)
    return tuple(ids)
