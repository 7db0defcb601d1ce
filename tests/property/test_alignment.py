"""The aligner against its definition, on random bytes, random segmentations and random events."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.alignment import align
from dragoman.types import Alignment, ChunkKind, Correspondence, DropReason, Event, PairKind, TokenText
from naive import (
    Chunk,
    check_alignment,
    chunks_of,
    comparable_chunks,
    naive_align,
    paired_chunks,
    token_text,
)

thorough = settings(max_examples=300, deadline=None)

FRAGMENTS = ("a", "b", "A", " ", "ab", "the", "    ", "\r\n", "é", "e\u0301", "ﬁ", "漢", "👩\u200d👧", "1")
texts = st.lists(st.sampled_from(FRAGMENTS), max_size=20).map("".join)
broken = st.lists(st.sampled_from([b"\xff", b"\xe2\x82", b"\x80", b"a", "é".encode()]), max_size=20).map(
    b"".join
)
datas = st.one_of(texts.map(str.encode), broken, st.binary(max_size=40), st.text(max_size=20).map(str.encode))
kinds = st.sampled_from([Event.STOP, Event.CONTROL])


@st.composite
def segmented(draw: st.DrawFn, data: bytes, most_events_at_a_place: int = 0) -> TokenText:
    """Some segmentation of `data` into tokens of at least one byte, with some events between them."""
    cuts = sorted(draw(st.sets(st.integers(1, len(data) - 1)))) if len(data) > 1 else []
    bounds = [0, *cuts, len(data)] if data else [0]
    words = [data[a:b] for a, b in pairwise(bounds)]
    runs = st.lists(kinds, min_size=1, max_size=max(1, most_events_at_a_place))
    places = st.dictionaries(st.integers(0, len(words)), runs, max_size=3 if most_events_at_a_place else 0)
    events = draw(places)
    pieces: list[bytes | Event] = [*events.get(0, [])]
    for place, word in enumerate(words, start=1):
        pieces += [word, *events.get(place, [])]
    return token_text(pieces)


@st.composite
def pairs(draw: st.DrawFn, most_events_at_a_place: int = 0) -> tuple[TokenText, TokenText]:
    """Two segmentations of the same bytes."""
    data = draw(datas)
    side = segmented(data, most_events_at_a_place)
    return draw(side), draw(side)


def with_stop(text: TokenText) -> TokenText:
    return token_text([*(text.token_bytes(i) for i in range(len(text))), Event.STOP])


def kinds_of(alignment: Alignment) -> list[ChunkKind]:
    return [ChunkKind(kind) for kind in alignment.kind.tolist()]


@thorough
@given(pairs())
def test_text_alone_gives_the_naive_chunks(pair: tuple[TokenText, TokenText]) -> None:
    student, teacher = pair
    alignment = align(student, teacher)
    check_alignment(student, teacher, alignment)
    assert chunks_of(alignment) == naive_align(student, teacher)
    assert alignment.coverage == 1.0


@thorough
@given(pairs(most_events_at_a_place=1))
def test_text_with_events_gives_the_naive_chunks(pair: tuple[TokenText, TokenText]) -> None:
    student, teacher = pair
    alignment = align(student, teacher)
    check_alignment(student, teacher, alignment)
    wanted = comparable_chunks(student, teacher, naive_align(student, teacher))
    assert comparable_chunks(student, teacher, chunks_of(alignment)) == wanted


@thorough
@given(pairs(most_events_at_a_place=3))
def test_runs_of_events_are_matched_in_order(pair: tuple[TokenText, TokenText]) -> None:
    check_alignment(*pair, align(*pair))


@thorough
@given(pairs(most_events_at_a_place=1))
def test_swapping_the_sides_swaps_the_chunks(pair: tuple[TokenText, TokenText]) -> None:
    student, teacher = pair
    there = comparable_chunks(student, teacher, chunks_of(align(student, teacher)))
    back = comparable_chunks(teacher, student, chunks_of(align(teacher, student)))
    assert [(t0, t1, s0, s1) for s0, s1, t0, t1 in back] == there


@thorough
@given(datas.flatmap(lambda data: segmented(data, most_events_at_a_place=3)))
def test_a_sequence_aligns_with_itself_token_by_token(text: TokenText) -> None:
    alignment = align(text, text)
    assert alignment.student_bounds.tolist() == list(range(len(text) + 1))
    assert alignment.teacher_bounds.tolist() == list(range(len(text) + 1))
    assert kinds_of(alignment) == [
        ChunkKind.ONE_TO_ONE if event == Event.NONE else ChunkKind.EVENT for event in text.event
    ]


@thorough
@given(datas, datas, st.data())
def test_unrelated_bytes(ours: bytes, theirs: bytes, data: st.DataObject) -> None:
    student = data.draw(segmented(ours, most_events_at_a_place=2))
    teacher = data.draw(segmented(theirs, most_events_at_a_place=2))
    check_alignment(student, teacher, align(student, teacher))


REWRITES: dict[str, Callable[[str], str]] = {
    "lower": str.lower,
    "drop spaces": lambda text: text.replace(" ", ""),
    "one space": lambda text: " " + text,
    "strip": str.strip,
    "NFC": lambda text: unicodedata.normalize("NFC", text),
    "NFD": lambda text: unicodedata.normalize("NFD", text),
    "NFKC": lambda text: unicodedata.normalize("NFKC", text),
}


@pytest.mark.parametrize("rewrite", REWRITES.values(), ids=list(REWRITES))
@settings(deadline=None)
@given(text=st.one_of(texts, st.text(max_size=20)), data=st.data())
def test_a_side_that_rewrites_its_text(rewrite: Callable[[str], str], text: str, data: st.DataObject) -> None:
    student = data.draw(segmented(text.encode(), most_events_at_a_place=1))
    teacher = data.draw(segmented(rewrite(text).encode(), most_events_at_a_place=1))
    check_alignment(student, teacher, align(student, teacher))


@st.composite
def edits(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Bytes, and the same bytes with one run deleted, inserted or changed."""
    data = draw(datas)
    start = draw(st.integers(0, len(data)))
    stop = draw(st.integers(start, min(len(data), start + 3)))
    return data, data[:start] + draw(st.binary(max_size=3)) + data[stop:]


def untouched(student: TokenText, teacher: TokenText) -> set[Chunk]:
    """The chunks wholly inside the common beginning of the bytes, or the common end of what is left."""
    ours, theirs = student.data, teacher.data
    shorter = min(len(ours), len(theirs))
    head = next((i for i in range(shorter) if ours[i] != theirs[i]), shorter)
    tail = next((i for i in range(shorter - head) if ours[-1 - i] != theirs[-1 - i]), shorter - head)
    s, t = student.bounds.tolist(), teacher.bounds.tolist()
    heads = [(place, place) for place in range(head + 1)]
    tails = [(len(ours) - left, len(theirs) - left) for left in range(tail, -1, -1)]
    chunks = set()
    for places in (heads, tails):
        shared = [(s.index(i), t.index(j)) for i, j in places if i in s and j in t]
        chunks |= {(s0, s1, t0, t1) for (s0, t0), (s1, t1) in pairwise(shared)}
    return chunks


@thorough
@given(edits(), st.data())
def test_one_edit_costs_only_the_chunks_it_touches(pair: tuple[bytes, bytes], data: st.DataObject) -> None:
    student, teacher = data.draw(segmented(pair[0])), data.draw(segmented(pair[1]))
    alignment = align(student, teacher)
    check_alignment(student, teacher, alignment)
    assert untouched(student, teacher) <= set(comparable_chunks(student, teacher, chunks_of(alignment)))


@thorough
@given(datas, datas, st.data())
def test_stops_at_both_ends_meet_whatever_the_bytes(ours: bytes, theirs: bytes, data: st.DataObject) -> None:
    student = with_stop(data.draw(segmented(ours)))
    teacher = with_stop(data.draw(segmented(theirs)))
    alignment = align(student, teacher)
    check_alignment(student, teacher, alignment)
    last = (len(student) - 1, len(student), len(teacher) - 1, len(teacher))
    assert chunks_of(alignment)[-1] == last
    assert kinds_of(alignment)[-1] == ChunkKind.EVENT


@st.composite
def correspondences(draw: st.DrawFn) -> tuple[TokenText, TokenText, Correspondence]:
    """Two texts of a few letters and rows of all kinds between their symbols, some symbols in no row."""
    rows: list[tuple[int, int, int, int, PairKind]] = []
    x = y = 0
    for kind in draw(st.lists(st.sampled_from(PairKind), max_size=5)):
        x, y = x + draw(st.integers(0, 1)), y + draw(st.integers(0, 1))
        least = 1 if kind <= PairKind.MARKER else 0
        a = draw(st.integers(least, 3))
        b = a if kind == PairKind.EXACT else draw(st.integers(least, 3))
        rows.append((x, x + a, y, y + b, kind))
        x, y = x + a, y + b
    sizes = x + draw(st.integers(0, 1)), y + draw(st.integers(0, 1))
    array = np.array(rows, np.int64).reshape(-1, 5)
    pairs = Correspondence(spans=array[:, :4], kind=array[:, 4].astype(np.uint8))
    return draw(of_symbols(sizes[0])), draw(of_symbols(sizes[1])), pairs


@st.composite
def of_symbols(draw: st.DrawFn, size: int) -> TokenText:
    """Tokens of `size` symbols together, bytes and events."""
    pieces: list[bytes | Event] = []
    while size:
        width = draw(st.integers(0, min(size, 3)))
        pieces.append(b"abc"[:width] if width else Event.CONTROL)
        size -= width or 1
    return token_text(pieces)


@thorough
@given(correspondences())
def test_a_given_correspondence_gives_the_naive_chunks(
    case: tuple[TokenText, TokenText, Correspondence],
) -> None:
    student, teacher, pairs = case
    alignment = align(student, teacher, pairs)
    chunks = zip(chunks_of(alignment), kinds_of(alignment), strict=True)
    assert {chunk: kind for chunk, kind in chunks if kind.comparable} == paired_chunks(*case)
    assert alignment.student_bounds[-1] == len(student) and alignment.teacher_bounds[-1] == len(teacher)
    assert np.array_equal(alignment.reasons == DropReason.NONE, alignment.comparable)


@settings(deadline=None)
@given(datas.flatmap(lambda data: segmented(data, most_events_at_a_place=2)))
def test_one_side_empty(text: TokenText) -> None:
    empty = token_text([])
    only_theirs, only_ours = align(empty, text), align(text, empty)
    check_alignment(empty, text, only_theirs)
    check_alignment(text, empty, only_ours)
    assert only_theirs.coverage == 1.0
    assert only_ours.coverage == (0.0 if len(text) else 1.0)


def test_both_sides_empty() -> None:
    alignment = align(token_text([]), token_text([]))
    assert alignment.num_chunks == 0
    assert alignment.coverage == 1.0


def test_an_event_inside_the_other_sides_token_is_impure() -> None:
    # student |ab| STOP |cd|   teacher |abcd|: the STOP stands at byte 2, where the teacher has no boundary
    student, teacher = token_text([b"ab", Event.STOP, b"cd"]), token_text([b"abcd"])
    alignment = align(student, teacher)
    assert chunks_of(alignment) == [(0, 3, 0, 1)]
    assert kinds_of(alignment) == [ChunkKind.IMPURE]
    assert alignment.coverage == 0.0


def test_a_changed_character_is_localised() -> None:
    # student |ab|c|de|   teacher |a|b|X|d|e|: chunk ab = (1 : 2), c against X, chunk de = (1 : 2)
    student, teacher = token_text([b"ab", b"c", b"de"]), token_text([b"a", b"b", b"X", b"d", b"e"])
    alignment = align(student, teacher)
    assert chunks_of(alignment) == [(0, 1, 0, 2), (1, 2, 2, 3), (2, 3, 3, 5)]
    assert kinds_of(alignment) == [ChunkKind.ONE_TO_MANY, ChunkKind.IMPURE, ChunkKind.ONE_TO_MANY]
    assert alignment.coverage == pytest.approx(2 / 3)
