"""The aligner with a correspondence given by hand: what becomes a chunk, of which kind, and why not."""

from __future__ import annotations

import numpy as np
import pytest

from dragoman.alignment import align
from dragoman.errors import AlignmentError
from dragoman.types import Alignment, ChunkKind, Correspondence, DropReason, Event, PairKind, TokenText
from naive import Chunk, chunks_of, token_text

EXACT, NORMALISED, MARKER = PairKind.EXACT, PairKind.NORMALISED, PairKind.MARKER
TOOL_SYNTAX, THINKING = PairKind.TOOL_SYNTAX, PairKind.THINKING

Row = tuple[int, int, int, int, PairKind]


def paired(*rows: Row) -> Correspondence:
    spans = np.array([row[:4] for row in rows], np.int64).reshape(-1, 4)
    return Correspondence(spans=spans, kind=np.array([row[4] for row in rows], np.uint8))


def text(*pieces: bytes | Event) -> TokenText:
    return token_text(pieces)


def found(alignment: Alignment) -> list[tuple[Chunk, str]]:
    return [
        (chunk, ChunkKind(kind).label)
        for chunk, kind in zip(chunks_of(alignment), alignment.kind.tolist(), strict=True)
    ]


class TestMarkers:
    def test_spelled_out_against_a_token_of_its_own(self) -> None:
        # student |<th|ink>|ok|   teacher |THINK_OPEN|ok|: 7 symbols stand for 1
        student, teacher = text(b"<th", b"ink>", b"ok"), text(Event.THINK_OPEN, b"ok")
        pairs = paired((0, 7, 0, 1, MARKER), (7, 9, 1, 3, EXACT))
        assert found(align(student, teacher, pairs)) == [((0, 2, 0, 1), "event"), ((2, 3, 1, 2), "1:1")]
        back = paired((0, 1, 0, 7, MARKER), (1, 3, 7, 9, EXACT))
        assert found(align(teacher, student, back)) == [((0, 1, 0, 2), "event"), ((1, 2, 2, 3), "1:1")]

    def test_spelled_out_on_both_sides(self) -> None:
        student, teacher = text(b"<think>", b"x"), text(b"[", b"T]", b"x")
        pairs = paired((0, 7, 0, 3, MARKER), (7, 8, 3, 4, EXACT))
        assert found(align(student, teacher, pairs)) == [((0, 1, 0, 2), "event"), ((1, 2, 2, 3), "1:1")]

    def test_a_token_that_reaches_into_the_text_behind(self) -> None:
        # student |<think|>\n|a|   teacher |THINK_OPEN|\n|a|: the border behind the marker is no token's end,
        # so marker and line break are one chunk. It holds text, so it is no event, seen from either side.
        student, teacher = text(b"<think", b">\n", b"a"), text(Event.THINK_OPEN, b"\n", b"a")
        pairs = paired((0, 7, 0, 1, MARKER), (7, 9, 1, 3, EXACT))
        assert found(align(student, teacher, pairs)) == [((0, 2, 0, 2), "n:m"), ((2, 3, 2, 3), "1:1")]
        back = paired((0, 1, 0, 7, MARKER), (1, 3, 7, 9, EXACT))
        assert found(align(teacher, student, back)) == [((0, 2, 0, 2), "n:m"), ((2, 3, 2, 3), "1:1")]

    def test_events_in_an_exact_row(self) -> None:
        # student |a|THINK_CLOSE|b|STOP|   teacher |A|THINK_CLOSE|b|STOP|
        student = text(b"a", Event.THINK_CLOSE, b"b", Event.STOP)
        teacher = text(b"A", Event.THINK_CLOSE, b"b", Event.STOP)
        pairs = paired((0, 1, 0, 1, NORMALISED), (1, 4, 1, 4, EXACT))
        labels = [label for _, label in found(align(student, teacher, pairs))]
        assert labels == ["normalised", "event", "1:1", "event"]


class TestNormalised:
    def test_a_row_is_one_chunk(self) -> None:
        # "É" of 2 bytes is "e" to the teacher; borders within a row mean nothing on the other side
        student, teacher = text("É".encode()[:1], "É".encode()[1:], b"t"), text(b"e", b"t")
        pairs = paired((0, 2, 0, 1, NORMALISED), (2, 3, 1, 2, EXACT))
        alignment = align(student, teacher, pairs)
        assert found(alignment) == [((0, 2, 0, 1), "normalised"), ((2, 3, 1, 2), "1:1")]
        assert alignment.coverage == 1.0
        assert alignment.reasons.tolist() == [DropReason.NONE] * 2

    def test_equal_sizes_are_not_symbol_by_symbol(self) -> None:
        student, teacher = text(b"A", b"B"), text(b"a", b"b")
        assert found(align(student, teacher, paired((0, 2, 0, 2, NORMALISED)))) == [
            ((0, 2, 0, 2), "normalised")
        ]
        two = paired((0, 1, 0, 1, NORMALISED), (1, 2, 1, 2, NORMALISED))
        assert found(align(student, teacher, two)) == [
            ((0, 1, 0, 1), "normalised"), ((1, 2, 1, 2), "normalised")
        ]  # fmt: skip

    def test_rows_that_end_inside_tokens(self) -> None:
        # student |x A|b|   teacher |x| a|b|: "x" is exact, " A" normalised; one student token holds both
        student, teacher = text(b"x A", b"b"), text(b"x", b" a", b"b")
        pairs = paired((0, 1, 0, 1, EXACT), (1, 3, 1, 3, NORMALISED), (3, 4, 3, 4, EXACT))
        alignment = align(student, teacher, pairs)
        assert found(alignment) == [((0, 1, 0, 2), "normalised"), ((1, 2, 2, 3), "1:1")]
        assert alignment.coverage == 1.0

    def test_rows_that_end_inside_tokens_with_something_unmatched(self) -> None:
        # As above, but the student's blank has no counterpart: its token cannot be compared, the next can
        student, teacher = text(b"x A", b"b"), text(b"x", b"a", b"b")
        pairs = paired((0, 1, 0, 1, EXACT), (2, 3, 1, 2, NORMALISED), (3, 4, 2, 3, EXACT))
        alignment = align(student, teacher, pairs)
        assert found(alignment) == [((0, 1, 0, 2), "impure"), ((1, 2, 2, 3), "1:1")]
        assert alignment.reasons.tolist() == [DropReason.BYTES_DIFFER, DropReason.NONE]


class TestTouchingRows:
    def test_only_the_student_has_something_between(self) -> None:
        # student |a|--|b|   teacher |a|b|
        student, teacher = text(b"a", b"--", b"b"), text(b"a", b"b")
        pairs = paired((0, 1, 0, 1, EXACT), (3, 4, 1, 2, EXACT))
        assert found(align(student, teacher, pairs)) == [
            ((0, 1, 0, 1), "1:1"), ((1, 2, 1, 1), "student-only"), ((2, 3, 1, 2), "1:1")
        ]  # fmt: skip

    def test_only_the_teacher_has_something_between(self) -> None:
        student, teacher = text(b"a", b"b"), text(b"a", b"--", b"b")
        pairs = paired((0, 1, 0, 1, EXACT), (1, 2, 3, 4, EXACT))
        alignment = align(student, teacher, pairs)
        assert found(alignment) == [
            ((0, 1, 0, 1), "1:1"), ((1, 1, 1, 2), "teacher-only"), ((1, 2, 2, 3), "1:1")
        ]  # fmt: skip
        assert alignment.coverage == 1.0

    def test_of_wholes(self) -> None:
        # Two touching markers of 2 and 3 symbols against 1 and 2
        student, teacher = text(b"[[", b"{{{"), text(Event.TOOL_OPEN, b"<", b"<")
        pairs = paired((0, 2, 0, 1, MARKER), (2, 5, 1, 3, MARKER))
        assert found(align(student, teacher, pairs)) == [((0, 1, 0, 1), "event"), ((1, 2, 1, 3), "event")]


class TestReasons:
    def test_markup_of_a_tool_call(self) -> None:
        # student |{|"x"|}|   teacher |CALL |"x"|: the arguments meet, what stands around them does not
        student, teacher = text(b"{", b'"x"', b"}"), text(b"CALL ", b'"x"')
        pairs = paired((0, 1, 0, 5, TOOL_SYNTAX), (1, 4, 5, 8, EXACT), (4, 5, 8, 8, TOOL_SYNTAX))
        alignment = align(student, teacher, pairs)
        assert found(alignment) == [
            ((0, 1, 0, 1), "impure"), ((1, 2, 1, 2), "1:1"), ((2, 3, 2, 2), "student-only")
        ]  # fmt: skip
        assert alignment.reasons.tolist() == [
            DropReason.TOOL_SYNTAX, DropReason.NONE, DropReason.TOOL_SYNTAX
        ]  # fmt: skip

    def test_thinking_that_is_not_shown(self) -> None:
        student = text(Event.THINK_OPEN, b"hm", Event.THINK_CLOSE, b"ok", Event.STOP)
        teacher = text(b"ok", Event.STOP)
        pairs = paired((0, 4, 0, 0, THINKING), (4, 7, 0, 3, EXACT))
        alignment = align(student, teacher, pairs)
        assert found(alignment) == [
            ((0, 3, 0, 0), "student-only"), ((3, 4, 0, 1), "1:1"), ((4, 5, 1, 2), "event")
        ]  # fmt: skip
        assert alignment.reasons.tolist() == [DropReason.THINKING, DropReason.NONE, DropReason.NONE]
        assert alignment.coverage == pytest.approx(2 / 5)

    def test_what_no_row_explains(self) -> None:
        student, teacher = text(b"a", b"?", b"b"), text(b"a", b"!", b"b")
        pairs = paired((0, 1, 0, 1, EXACT), (2, 3, 2, 3, EXACT))
        assert align(student, teacher, pairs).reasons.tolist() == [
            DropReason.NONE, DropReason.BYTES_DIFFER, DropReason.NONE
        ]  # fmt: skip

    def test_no_row_at_all(self) -> None:
        student, teacher = text(b"a", b"b"), text(b"ab")
        assert found(align(student, teacher, paired())) == [((0, 2, 0, 1), "impure")]


@pytest.mark.parametrize("row", [(0, 3, 0, 3, EXACT), (0, 2, 0, 3, MARKER), (1, 3, 0, 2, NORMALISED)])
def test_rows_beyond_either_side(row: Row) -> None:
    with pytest.raises(AlignmentError, match=r"the two sides have 2 and 2: it belongs to another response"):
        align(text(b"ab"), text(b"a", b"b"), paired(row))


def test_a_correspondence_overrules_equal_bytes() -> None:
    """Equal responses may still be paired in part only: thinking kept by chance in both is not shown."""
    both = text(b"a", b"b")
    alignment = align(both, both, paired((1, 2, 1, 2, EXACT)))
    assert found(alignment) == [((0, 1, 0, 1), "impure"), ((1, 2, 1, 2), "1:1")]
