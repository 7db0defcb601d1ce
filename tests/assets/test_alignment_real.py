"""The aligner on real tokenizers: every ordered pair of eleven, over texts that break other aligners."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import cache
from itertools import permutations
from pathlib import Path

import pytest

from dragoman.alignment import align
from dragoman.text import Tokenization
from dragoman.types import ChunkKind, TokenText
from naive import check_alignment, chunks_of, naive_align

pytestmark = pytest.mark.assets

Asset = Callable[[str], Path]

TEXTS = {
    "english": b"The interpreter, who had served three sultans, wasn't believed; he'd translated *all*.",
    "code": b"def f(xs: list[int]) -> int:\n    # sum of squares\n\treturn sum(x**2 for x in xs if x != 0)\n",
    "chinese": "翻译者站在两个宫廷之间，把每一句话都说两遍。".encode(),
    "emoji": "👩\u200d👩\u200d👧\u200d👦 🏳️\u200d🌈 👍🏽 ok 🇹🇷!".encode(),
    "decomposed": unicodedata.normalize("NFD", "Crème brûlée à Zürich, señor Ångström").encode(),
    "whitespace": b"a  b   c\t\td \n\n\n e        f\n            g   ",
    "digits": b"3.14159265358979 1234567 -0.001e-23 2026-01-31 0x7fff",
    "crlf": b"one\r\ntwo\r\n\r\nthree\rfour\n",
    "tool call": b'<think>\n\n</think>\n<tool_call>\n{"name": "add", "arguments": {"a": [2]}}\n</tool_call>',
    "compatibility": "ﬁne ① Ⅷ ｆｕｌｌ ½ … ™ e\u0301 \u00a0 \u3000".encode(),
    "invalid": b"ok \xff\xfe then \x80 and \xc3( end",
    "cut": "the end is 漢字".encode()[:-1],
}

# What each tokenizer does not give back. Qwen 3 composes (NFC); Claude and J2 fold compatibility forms
# (NFKC, which also makes the full-width comma of the Chinese text ASCII); J2 rewrites white space;
# SmolLM2's vocabulary holds no token for the bytes FE and FF; MiniLM lower-cases and drops white space.
LOSES = {
    "gemma3": set(),
    "llama3.1": set(),
    "llama2": set(),
    "deepseek-v3": set(),
    "gpt-oss": set(),
    "gpt-4o": set(),
    "smollm2-135m-instruct": {"invalid"},
    "qwen3": {"decomposed", "compatibility"},
    "claude": {"chinese", "decomposed", "compatibility"},
    "j2": {"code", "chinese", "emoji", "decomposed", "whitespace", "crlf", "tool call", "compatibility"},
    "minilm": set(TEXTS),
}


LACKS_BYTES = ("smollm2-135m-instruct", "minilm")
"""Tokenizers that have no token for some bytes."""


@cache
def load(folder: Path) -> Tokenization:
    return Tokenization.from_pretrained(str(folder))


@cache
def encoded(folder: Path, text: str) -> TokenText:
    return load(folder).encode(TEXTS[text])


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", LOSES)
def test_bytes_come_back_through_ids_but_for_known_losses(asset: Asset, name: str, text: str) -> None:
    tokens = encoded(asset(name), text)
    assert (tokens.data != TEXTS[text]) == (text in LOSES[name])
    view = load(asset(name)).view(tokens.ids)
    assert view.data == tokens.data
    assert view.bounds.tolist() == tokens.bounds.tolist()
    assert view.event.tolist() == tokens.event.tolist()
    if text not in LOSES[name]:
        assert not view.event.any(), "text makes no events"
        assert view.canonical.all(), "what the tokenizer makes is canonical"


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(("ours", "theirs"), list(permutations(LOSES, 2)))
def test_every_pair_loses_only_what_differs(asset: Asset, ours: str, theirs: str, text: str) -> None:
    student, teacher = encoded(asset(ours), text), encoded(asset(theirs), text)
    alignment = align(student, teacher)
    check_alignment(student, teacher, alignment)
    lost = int((~alignment.comparable).sum())
    if text not in LOSES[ours] | LOSES[theirs]:
        assert chunks_of(alignment) == naive_align(student, teacher)
        assert (lost, alignment.coverage) == (0, 1.0)
    elif student.data != teacher.data:
        assert lost > 0


@pytest.mark.parametrize("theirs", [name for name in LOSES if LOSES[name]])
@pytest.mark.parametrize("ours", LOSES)
def test_a_teacher_that_changes_the_text_keeps_its_signal(asset: Asset, ours: str, theirs: str) -> None:
    """By its own places all is compared, but for what it has no token for."""
    for text in TEXTS:
        student = encoded(asset(ours), text)
        if student.event.any():
            continue
        placed = load(asset(theirs)).place(student.data)
        alignment = align(student, placed.text, placed.correspondence)
        unknown = placed.text.event.any() or text in ("invalid", "cut")
        assert alignment.coverage == 1.0 or (theirs in LACKS_BYTES and unknown), text
        if placed.correspondence is None:
            check_alignment(student, placed.text, alignment)
        by_search = align(student, placed.text)
        assert alignment.coverage >= by_search.coverage, text


def test_a_composed_letter_is_placed(asset: Asset) -> None:
    # Qwen 3 as the teacher composes the é that Llama 3.1 wrote in two characters: one normalised chunk
    data = unicodedata.normalize("NFD", "The old café on the corner was closed for the winter.").encode()
    student, placed = load(asset("llama3.1")).encode(data), load(asset("qwen3")).place(data)
    alignment = align(student, placed.text, placed.correspondence)
    changed = [
        student.data[student.bounds[s0] : student.bounds[s1]]
        for (s0, s1, _, _), kind in zip(chunks_of(alignment), alignment.kind.tolist(), strict=True)
        if kind == ChunkKind.NORMALISED
    ]
    assert alignment.coverage == 1.0
    assert len(changed) == 1 and "e\u0301".encode() in changed[0]


def test_a_composed_letter_costs_its_chunk_alone(asset: Asset) -> None:
    # Qwen 3 spells é in two bytes, Llama 3.1 keeps e and the accent in three: everything else is equal.
    data = unicodedata.normalize("NFD", "The old café on the corner was closed for the winter.").encode()
    student, teacher = load(asset("qwen3")).encode(data), load(asset("llama3.1")).encode(data)
    alignment = align(student, teacher)
    check_alignment(student, teacher, alignment)
    lost = [
        (student.data[student.bounds[s0] : student.bounds[s1]], kind)
        for (s0, s1, _, _), kind in zip(chunks_of(alignment), alignment.kind.tolist(), strict=True)
        if kind > ChunkKind.EVENT
    ]
    assert len(lost) == 1
    assert "é".encode() in lost[0][0]
    assert lost[0][1] == ChunkKind.IMPURE
