"""Real tokenizers begin anew at a space behind ink where they are taken to."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dragoman.text import Tokenization
from dragoman.text.borders import divided_before_space

pytestmark = pytest.mark.assets

Asset = Callable[[str], Path]

BPE = (
    *("llama3.1", "qwen3", "deepseek-v3", "gpt-oss", "gpt-4o", "smollm2-135m-instruct", "claude"),
    *("gemma3", "gemma-3-270m", "gemini", "llama2"),
)
HELD = {"gemma3": b">", "gemma-3-270m": b">"}
"""Visible bytes that some token of a vocabulary holds before a space."""

PIECES = [
    *"aZé漢🙂’.,;:!?/\\<>()[]{}=#*_-~0189 \t\n\u0301\u3000\u00a0\u200b",
    *("'s", "'LL", "the", "THE", "Don't", "12345", "//", "/*", "->", "::", "...", "<br>", "</s>"),
    *("  ", "\r\n"),
]
strings = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)


@cache
def load(folder: Path) -> tuple[Tokenization, np.ndarray]:
    side = Tokenization.from_pretrained(str(folder))
    return side, divided_before_space(side)


@pytest.mark.parametrize("name", [*BPE, "j2", "minilm"])
def test_where_they_divide(asset: Asset, name: str) -> None:
    _, divided = load(asset(name))
    ink = set(range(0x21, 0x7F)) if name in BPE else set()
    assert set(np.flatnonzero(divided).tolist()) == ink - set(HELD.get(name, b""))


@pytest.mark.parametrize("name", BPE)
@given(before=strings, last=st.integers(0x21, 0x7E), behind=strings)
@example(before="a", last=ord("'"), behind="s")
@example(before="  ", last=ord("/"), behind="\n//")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_sides_stand_alone(asset: Asset, name: str, before: str, last: int, behind: str) -> None:
    side, divided = load(asset(name))
    one, other = (before + chr(last)).encode(), (" " + behind).encode()
    if divided[last] and behind.strip():
        whole = side.encode(one + other).ids.tolist()
        assert whole == [*side.encode(one).ids.tolist(), *side.encode(other).ids.tolist()]
