"""Content that spells a control token stays content.

Chat templates are rendered to one string before it becomes ids, so that `<|im_end|>` typed by a user would
end the turn. Here a character of private use is put inside every such spelling before the template sees it;
the stretch of the rendered text that holds one is then read with all control tokens as plain text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Tokenizer

from dragoman.errors import RenderError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_PRIVATE_USE = range(0xE000, 0xF900)


class LiteralReader:
    """Reads rendered conversations in which some spellings of control tokens are content."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, controls: Iterable[int], markers: Iterable[int] = ()
    ) -> None:
        """`markers` are those controls that what an assistant says may hold for its template to find."""
        backend = tokenizer.backend_tokenizer
        self._controls = frozenset(controls)
        self._backend = backend
        self._names = _names(backend, self._controls)
        self._pattern = _any_of(self._names)
        self._assistant_pattern = _any_of(_names(backend, self._controls - frozenset(markers)))
        self._plain: Tokenizer | None = None

    def spells_control(self, value: Any) -> bool:
        """Whether a text, or any text within a JSON value, spells a control token."""
        return any(self._pattern.search(text) for text in _texts(value))

    def guard(self, value: Any, mark: str) -> Any:
        """The same JSON value with the mark behind the first character of every such spelling."""

        def marked(pattern: re.Pattern[str], item: Any) -> Any:
            return _map_texts(item, lambda text: pattern.sub(lambda m: m[0][0] + mark + m[0][1:], text))

        guarded = marked(self._pattern, value)
        if isinstance(value, Mapping) and value.get("role") == "assistant" and "content" in value:
            guarded["content"] = marked(self._assistant_pattern, value["content"])
        return guarded

    def ids(self, rendered: str, mark: str) -> list[int]:
        """The ids of a rendered text, marks taken out of it again."""
        # Templates that print objects or write JSON in ASCII escape the mark.
        rendered = rendered.replace(_escaped(mark), mark)
        encoding = self._backend.encode(rendered, add_special_tokens=False)
        ids: list[int] = []
        start = 0
        is_control = [index in self._controls for index in encoding.ids] + [True]
        offsets = [*encoding.offsets, (len(rendered), len(rendered))]
        while start < len(encoding.ids):
            if is_control[start]:
                ids.append(encoding.ids[start])
                start += 1
                continue
            stop = is_control.index(True, start)
            begin = offsets[start - 1][1] if start else 0
            text = rendered[begin : offsets[stop][0]]
            if mark in text:
                plain = self._as_plain_text()
                ids += plain.encode(text.replace(mark, ""), add_special_tokens=False).ids
            else:
                ids += encoding.ids[start:stop]
            start = stop
        return ids

    def _as_plain_text(self) -> Tokenizer:
        """The tokenizer told to read every control token as text."""
        if self._plain is None:
            plain = Tokenizer.from_str(self._backend.to_str())
            plain.add_special_tokens(
                [AddedToken(name, special=True, normalized=False) for name in self._names]
            )
            plain.encode_special_tokens = True
            self._plain = plain
        return self._plain


def _names(backend: Tokenizer, ids: Iterable[int]) -> list[str]:
    return [name for index in sorted(ids) if (name := backend.id_to_token(index)) is not None]


def _any_of(names: Iterable[str]) -> re.Pattern[str]:
    """Any of some names, the longest first; matches nothing where there are none."""
    return re.compile("|".join(re.escape(n) for n in sorted(names, key=len, reverse=True)) or "(?!)")


def free_mark(values: Any) -> str:
    """A character that occurs in none of the texts; raises RenderError if there is none left."""
    used = {character for text in _texts(values) for character in text if ord(character) in _PRIVATE_USE}
    escapes = {code for text in _texts(values) for code in re.findall(r"\\u[0-9a-f]{4}", text)}
    free = (mark for mark in map(chr, _PRIVATE_USE) if mark not in used and _escaped(mark) not in escapes)
    mark = next(free, None)
    if mark is None:
        raise RenderError(
            "a conversation holds every character of Unicode's private use area, so none is left to mark "
            "content that spells a control token; take one of them out"
        )
    return mark


def _escaped(mark: str) -> str:
    return f"\\u{ord(mark):04x}"


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(str(key)): _map_texts(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map_texts(item, change) for item in value]
    return value
