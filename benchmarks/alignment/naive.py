"""Three ways to align that suggest themselves, as baselines. Each is given the student's ids alone.

They decode the ids, tokenise the text for the teacher as `transformers` does, and pair up tokens by what is
at hand: decoded strings, character offsets, or token strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

Aligned = tuple[list[int], list[tuple[int, int, int, int]], str | None]
"""Teacher ids, used chunks, and the text given to the teacher (None: the very bytes)."""


class Tokenizers:
    """The fast tokenizers of `transformers`, by name."""

    def __init__(self, folders: dict[str, Path]) -> None:
        from transformers import PreTrainedTokenizerFast

        self.by_name = {
            name: PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
            for name, folder in folders.items()
        }

    def text(self, student: str, ids: Sequence[int]) -> str:
        """The decoded response."""
        text: str = self.by_name[student].decode(ids, clean_up_tokenization_spaces=False)
        return text

    def encode(self, name: str, text: str) -> Any:
        """The ids of a text and their character offsets, without a beginning-of-sequence token."""
        return self.by_name[name].backend_tokenizer.encode(text, add_special_tokens=False)


def by_strings(tokenizers: Tokenizers, student: str, teacher: str, ids: list[int]) -> Aligned:
    """Two pointers over decoded strings (the idea of arXiv 2606.09456).

    Either side has a buffer of tokens; the one whose decoded string is shorter grows until both decode to the
    same string, which closes a chunk. A string that ends inside a character is not compared yet.
    """
    text = tokenizers.text(student, ids)
    theirs = tokenizers.encode(teacher, text).ids
    chunks = []
    start_s = start_t = s = t = 0
    buffer_s = buffer_t = ""
    while s < len(ids) or t < len(theirs):
        if s < len(ids) and (len(buffer_s) <= len(buffer_t) or t == len(theirs)):
            s += 1
            buffer_s = tokenizers.text(student, ids[start_s:s])
        else:
            t += 1
            buffer_t = tokenizers.text(teacher, theirs[start_t:t])
        if buffer_s == buffer_t and not buffer_s.endswith("\ufffd"):
            chunks.append((start_s, s, start_t, t))
            start_s, start_t = s, t
            buffer_s = buffer_t = ""
    return theirs, chunks, text


def by_offsets(tokenizers: Tokenizers, student: str, teacher: str, ids: list[int]) -> Aligned:
    """Two pointers over the character offsets that the tokenizers report.

    Offsets come with tokenising only, so the student's text is tokenised again; a response whose ids do not
    come back has no offsets and is left out.
    """
    text = tokenizers.text(student, ids)
    ours, theirs = (tokenizers.encode(name, text) for name in (student, teacher))
    if ours.ids != ids:
        return theirs.ids, [], text
    ends_s, ends_t = ([end for _, end in encoding.offsets] for encoding in (ours, theirs))
    chunks = []
    start_s = start_t = s = t = 0
    while s < len(ends_s) and t < len(ends_t):
        end_s, end_t = ends_s[s], ends_t[t]
        s += end_s <= end_t
        t += end_t <= end_s
        if end_s == end_t:
            chunks.append((start_s, s, start_t, t))
            start_s, start_t = s, t
    return theirs.ids, chunks, text


def by_difflib(tokenizers: Tokenizers, student: str, teacher: str, ids: list[int]) -> Aligned:
    """`difflib` over token strings: equal tokens are paired, and a replaced run is one chunk."""
    text = tokenizers.text(student, ids)
    theirs = tokenizers.encode(teacher, text).ids
    strings = [
        [piece.replace("▁", "Ġ") for piece in tokenizers.by_name[name].convert_ids_to_tokens(side)]
        for name, side in ((student, ids), (teacher, theirs))
    ]
    chunks = []
    for tag, s0, s1, t0, t1 in SequenceMatcher(None, *strings).get_opcodes():
        if tag == "equal":
            chunks += [(s0 + k, s0 + k + 1, t0 + k, t0 + k + 1) for k in range(s1 - s0)]
        elif tag == "replace":
            chunks.append((s0, s1, t0, t1))
    return theirs, chunks, text
