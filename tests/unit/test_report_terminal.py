"""The terminal view: token rows that line up on bytes, whatever the text and the width."""

from __future__ import annotations

import doctest
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from dragoman.alignment import align
from dragoman.report import alignment_json, alignment_text, formats, layout
from dragoman.types import (
    Event,
    TokenText,
)
from texts import tokens


def drawn(student: TokenText, teacher: TokenText, width: int = 80) -> list[str]:
    """The lines of the terminal view, without style."""
    text = alignment_text(
        student, teacher, align(student, teacher), width=width, student_name="small", teacher_name="large"
    )
    return text.plain.split("\n")


def blocks(lines: list[str]) -> Iterator[tuple[str, str, str]]:
    """(ruler, student row, teacher row) of every block, without the names before them."""
    for i, line in enumerate(lines):
        if line.startswith("bytes "):
            yield line[6:], lines[i + 1][6:], lines[i + 2][6:]


# ---- terminal ----------------------------------------------------------------------------------------


def test_a_split_character_is_as_wide_as_its_two_bytes() -> None:
    # "é" is c3 a9: four cells each and the border between them, so the teacher's é is padded to nine.
    student = tokens("ca", b"f\xc3", b"\xa9", " b", Event.STOP)
    teacher = tokens("caf", "é", " ", "b", Event.STOP)
    assert drawn(student, teacher)[:3] == [
        "bytes 0  2 3         5 6 7",
        "small |ca|f \\xc3|\\xa9|· b|⟨stop⟩|",
        "large |ca f|é        |·|b|⟨stop⟩|",
    ]


def test_wide_and_combining_characters_keep_the_rows_aligned() -> None:
    # 你 and 好 take two cells each; a combining acute takes none beside its base and ◌ where it is alone.
    student = tokens("你", "好", "e", "\u0301", "!")
    teacher = tokens("你好", "e\u0301!")
    assert drawn(student, teacher)[:3] == [
        "bytes 0  3  6   9",
        "small |你|好|e|◌\u0301|!|",
        "large |你 好|e\u0301   !|",
    ]


def test_joined_emoji_are_spelled_out() -> None:
    student = tokens("👩\u200d", "🚀")
    assert drawn(student, student)[1] == "small |👩\\u200d|🚀|"
    assert layout.visible("👍🏽❤\ufe0f🇩🇪".encode()) == "👍\\U0001f3fd❤\\ufe0f\\U0001f1e9\\U0001f1ea"


def test_what_cannot_be_seen_is_spelled_out() -> None:
    assert layout.visible(b"a b\n\t\r\x1b\x00") == "a·b⏎⇥\\r\\x1b\\x00"
    assert layout.visible("\u202e\u00a0·".encode()) == "\\u202e\\u00a0\\u00b7"
    assert layout.visible(b"\xf0\x9f\xff<b>") == "\\xf0\\x9f\\xff<b>"


def test_a_row_without_tokens_stays_empty_between_its_borders() -> None:
    student = tokens("a", Event.CONTROL, "b")
    teacher = tokens("a", "b")
    lines = drawn(student, teacher, width=200)
    assert lines[1:3] == ["small |a|⟨control⟩|b|", "large |a|         |b|"]
    assert "student-only × 1" in lines[4]


def test_impure_rows_stand_side_by_side() -> None:
    # NFD against NFC: other bytes, so the glyphs are paired in order, and the second row ends first.
    student = tokens("x", "A", "\u030a", "y")
    teacher = tokens("x", "Å", "y")
    assert drawn(student, teacher)[1:3] == ["small |x|A|◌\u030a|y|", "large |x|Å| |y|"]


def test_lines_break_between_chunks_and_inside_only_if_they_must() -> None:
    student, teacher = tokens("abcd", "efgh", "ij"), tokens("abcd", "efgh", "ij")
    # 22 cells leave 16 for the row and its last border: "|abcd|efgh" and "|ij" take 13.
    assert [row for _, row, _ in blocks(drawn(student, teacher, width=17))] == ["|abcd|efgh|ij|"]
    long = tokens("0123456789" * 4)
    rows = [row for _, row, _ in blocks(drawn(long, long, width=26))]
    assert rows == ["|012345678901234567", "8901234567890123456", "789|"]


def test_a_long_name_is_cut_before_the_rows_and_whole_below() -> None:
    name = "a-very-long-model-name"
    one = tokens("a")
    lines = alignment_text(one, one, align(one, one), width=80, student_name=name, teacher_name="t").plain
    assert "a-very-long-m… |a|" in lines
    assert f"{name}: 1 tokens" in lines


def test_styles_tell_chunks_apart_and_underline_odd_tokens() -> None:
    student = tokens("a", "b", "c", "d", Event.CONTROL, odd=(2,))
    teacher = tokens("a", "b", "cd")
    alignment = align(student, teacher)
    text = alignment_text(student, teacher, alignment, width=80, student_name="s", teacher_name="t")
    console = Console(width=80, color_system="truecolor", force_terminal=True)
    styles = {
        segment.text: segment.style
        for segment in text.render(console)
        if segment.style and segment.text.strip()
    }
    assert styles["c"].underline and not styles["d"].underline
    assert styles["a"].bgcolor != styles["b"].bgcolor, "neighbours of one kind"
    assert styles["c"].bgcolor == styles["d"].bgcolor, "tokens of one chunk"
    assert styles["⟨control⟩"].bgcolor.name in ("red3", "dark_red")
    assert "non-canonical 1 and 0" in text.plain


def test_summary_counts_by_hand() -> None:
    student = tokens("a", "b", "cd", Event.STOP, odd=(0,))
    teacher = tokens("ab", "c", "d", Event.STOP)
    assert drawn(student, teacher, width=200)[4:] == [
        "small: 4 tokens · large: 4 tokens · 4 bytes · 3 chunks: 1:n × 1, n:1 × 1, event × 1 · "
        "coverage 100.0% · non-canonical 1 and 0"
    ]


def test_an_empty_response_has_a_summary() -> None:
    assert drawn(tokens(), tokens(), width=200)[-1].startswith(
        "small: 0 tokens · large: 0 tokens · 0 bytes · 0 chunks"
    )


@st.composite
def tokenised_twice(draw: st.DrawFn) -> tuple[TokenText, TokenText]:
    alphabet = st.one_of(
        st.characters(codec="utf-8"), st.sampled_from("é你👩🏽\u200d\u0301\u0e31ก각क्षि ·\n|")
    )
    data = draw(st.text(alphabet, max_size=12)).encode()
    sides = []
    for _ in range(2):
        cuts = draw(st.sets(st.integers(1, max(len(data) - 1, 1)), max_size=8)) if len(data) > 1 else set()
        bounds = [0, *sorted(cuts), len(data)] if data else [0]
        sides.append(tokens(*(data[a:b] for a, b in pairwise(bounds)), Event.STOP))
    return sides[0], sides[1]


@settings(max_examples=300, deadline=None)
@given(tokenised_twice(), st.integers(24, 90))
def test_rows_line_up_for_any_text(texts: tuple[TokenText, TokenText], width: int) -> None:
    shown = ["", ""]
    for ruler, *rows in blocks(drawn(*texts, width=width)):
        assert cell_len(rows[0]) == cell_len(rows[1]), rows
        for label in re.finditer(r"\d+", ruler):
            before = [prefix(row, label.start()) for row in rows]
            assert None not in before, "a byte offset points into the middle of a character"
        shown = [all_before + row for all_before, row in zip(shown, rows, strict=True)]
    for text, line in zip(texts, shown, strict=True):
        glyphs = "".join(layout.token_label(text, i) for i in range(len(text)))
        assert strip_row(line) == strip_row(glyphs)


def prefix(row: str, cells: int) -> str | None:
    """The start of a row that takes this many cells, if no character straddles its end."""
    return next((row[:i] for i in range(len(row) + 1) if cell_len(row[:i]) == cells), None)


def strip_row(line: str) -> str:
    """A row without padding, borders and the circles that carry lone marks."""
    return re.sub(r"[ |◌]", "", line)


def test_json_is_plain_and_complete() -> None:
    student, teacher = tokens("a", "b", Event.STOP), tokens("ab", Event.STOP)
    value = alignment_json(student, teacher, align(student, teacher))
    assert json.loads(json.dumps(value)) == {
        "student": {"ids": [100, 101, 102], "bounds": [0, 1, 2, 2]},
        "teacher": {"ids": [100, 101], "bounds": [0, 2, 2]},
        "chunks": [[0, 2, 0, 1, "n:1"], [2, 3, 1, 2, "event"]],
        "coverage": 1.0,
    }


@pytest.mark.parametrize("module", [formats, layout])
def test_examples_in_docstrings(module: Any) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0
