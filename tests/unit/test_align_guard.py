"""What aligning and spelling cost, by counts that no busy machine changes: lines run, bytes allocated."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import dragoman
import tiny
from dragoman.alignment import align
from dragoman.text import Tokenization
from dragoman.types import Correspondence, Event, PairKind, TokenText

SOURCE = str(Path(dragoman.__file__).parent)


def segmented(num_tokens: int, seed: int, stop: bool = False) -> TokenText:
    """About `num_tokens` tokens of 1 to 8 bytes, in all of 9/2 bytes a token, cut at random."""
    size = num_tokens * 9 // 2
    rng = np.random.default_rng(seed)
    bounds = np.append(0, np.cumsum(rng.integers(1, 9, num_tokens)))
    bounds = np.append(bounds[bounds < size], size)
    bounds = np.append(bounds, size) if stop else bounds
    event = np.zeros(len(bounds) - 1, np.uint8)
    event[len(event) - stop :] = Event.STOP
    return TokenText(
        ids=np.arange(len(event)),
        data=bytes(size),
        bounds=bounds,
        event=event,
        canonical=np.ones(len(event), bool),
    )


def lines_run(call: Callable[[], Any]) -> int:
    """How many lines of dragoman a call runs."""
    lines = 0

    def trace(frame: FrameType, what: str, _: Any) -> Any:
        nonlocal lines
        if not frame.f_code.co_filename.startswith(SOURCE):
            return None
        lines += what == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return lines


def peak_bytes(call: Callable[[], Any]) -> int:
    """The most memory that a call holds at once, beyond what was there."""
    call()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def jobs(num_tokens: int) -> dict[str, Callable[[], Any]]:
    """Ways through the aligner that are to have no loop over tokens."""
    ours, theirs = segmented(num_tokens, 1), segmented(num_tokens, 2)
    stopped = segmented(num_tokens, 1, stop=True), segmented(num_tokens, 2, stop=True)
    places = np.arange(0, len(ours.data), 5)
    spans = np.stack([places, places + 5, places, places + 5], axis=1)[:-1]
    pairs = Correspondence(spans=spans, kind=np.full(len(spans), PairKind.EXACT, np.uint8))
    return {
        "text": lambda: align(ours, theirs),
        "equal": lambda: align(ours, ours),
        "stop": lambda: align(*stopped),
        "stop on one side": lambda: align(stopped[0], theirs),
        "correspondence": lambda: align(ours, theirs, pairs),
    }


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenization:
    return Tokenization.from_pretrained(str(tiny.byte_level(tmp_path_factory.mktemp("byte-level"))))


@pytest.mark.parametrize("name", jobs(8))
def test_a_longer_text_runs_no_more_lines(name: str) -> None:
    short, long = lines_run(jobs(500)[name]), lines_run(jobs(8_000)[name])
    assert 0 < short == long


@pytest.mark.parametrize(("name", "most"), [("text", 15), ("equal", 26), ("stop", 32)])
def test_an_alignment_holds_few_bytes_a_token(name: str, most: int) -> None:
    # Of 4.5 bytes a token, each with 2 in the table of border numbers, 9, and 2 for the numbers themselves:
    # 11. Where every token is a chunk, bounds of 8 and 2 bytes, 8 for their differences and 4 for what
    # comes of these: 22. A stop moves the borders behind it, so that both sides copy theirs: 27.
    num_tokens = 16_000
    assert num_tokens < peak_bytes(jobs(num_tokens)[name]) < most * num_tokens


def test_spelling_runs_no_more_lines_for_more_ids(byte_level: Tokenization) -> None:
    text_ids = np.flatnonzero(byte_level.events == Event.NONE)
    few, many = np.resize(text_ids, 300), np.resize(text_ids, 6_000)
    assert 0 < lines_run(lambda: byte_level.spell(few)) == lines_run(lambda: byte_level.spell(many))


def test_spelling_holds_few_bytes_a_byte(byte_level: Tokenization) -> None:
    ids = np.resize(byte_level.encode(b"the quick brown fox").ids, 16_000)
    size = len(byte_level.spell(ids).data)
    # 8 for the place of a byte, 1 for the byte, 1 for a copy; for an id, two places and a border, 24.
    assert size < peak_bytes(lambda: byte_level.spell(ids)) < 10 * size + 32 * len(ids)
