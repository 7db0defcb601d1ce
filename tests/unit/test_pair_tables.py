"""Tables of a pair of vocabularies: by hand, and against loops over the definition on tiny tokenizers."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers

import tiny
import toy
from dragoman.text import NOWHERE, PairTables, Tokenization
from dragoman.text.pair import first_of
from dragoman.types import Event

STUDENT = toy.bpe("student", "b c", "a b")
TEACHER = toy.bpe("teacher", "a b", "c d", "ab cd", "ab c", "b c", "b cd", letters="abcde")
TABLES = PairTables(STUDENT, TEACHER)


def by_name(tables: PairTables, table: np.ndarray) -> dict[str, str | None]:
    """A table on the teacher's ids by the names of both sides."""
    names = {NOWHERE: None}
    return {
        tables.teacher.token_name(w): names[u] if u == NOWHERE else tables.student.token_name(u)
        for w, u in enumerate(table.tolist())
    }


def test_by_hand() -> None:
    same = by_name(TABLES, TABLES.student_of_teacher)
    alone = dict.fromkeys(("e", "cd", "abcd", "abc", "bcd"))
    assert same == {name: name for name in ("<stop>", *"abcd", "ab", "bc")} | alone
    prefix = by_name(TABLES, TABLES.longest_prefix)
    assert [prefix[w] for w in ("abcd", "abc", "cd", "bcd", "e", "ab")] == ["ab", "ab", "c", "bc", None, "ab"]
    first = by_name(TABLES, TABLES.first_token)
    # |a|bc|d|, |a|bc|, |c|d|, |bc|d|
    assert [first[w] for w in ("abcd", "abc", "cd", "bcd", "e", "ab")] == ["a", "a", "c", "bc", None, "ab"]
    spelled = TABLES.spelling(toy.index_of(TEACHER, "abcd")).tolist()
    assert [STUDENT.token_name(i) for i in spelled] == ["a", "bc", "d"]
    assert len(TABLES.spelling(toy.index_of(TEACHER, "e"))) == 0


def test_prefix_ranges() -> None:
    order = TABLES.teacher_bytes.ids
    low, high = TABLES.teacher_bytes.range(b"ab")
    assert [TEACHER.token_name(i) for i in order[low:high].tolist()] == ["ab", "abc", "abcd"]
    low, high = TABLES.student_bytes.range(b"b")
    assert [STUDENT.token_name(i) for i in TABLES.student_bytes.ids[low:high].tolist()] == ["b", "bc"]
    low, high = TABLES.spelling_prefix_range(toy.ids_of(STUDENT, "a", "bc").ids)
    found = TABLES.spelling_order.ids[low:high].tolist()
    assert {TEACHER.token_name(i) for i in found} == {"abc", "abcd"}


def test_first_of_some_stretches() -> None:
    bounds, ids = np.array([0, 2, 2, 3]), np.array([5, 6, 7])
    assert first_of(bounds, ids).tolist() == [5, NOWHERE, 7]
    assert first_of(bounds, ids, 1).tolist() == [6, NOWHERE, NOWHERE]
    assert first_of(np.array([0, 0]), np.zeros(0, np.int64)).tolist() == [NOWHERE]


# --- stops and markers


def test_all_stops_go_to_the_smallest() -> None:
    student = toy.bpe("s", stops=("<x>", "<y>"))
    teacher = toy.bpe("t", stops=("<end>", "<turn>", "<eot>"))
    tables = PairTables(student, teacher)
    assert tables.student_stop == 0
    for table in (tables.student_of_teacher, tables.longest_prefix, tables.first_token):
        assert table[:3].tolist() == [0, 0, 0]
    assert tables.spelling(2).tolist() == [0]
    # one set of stops on either side of the same vocabulary
    assert PairTables(teacher, teacher).student_of_teacher.tolist() == [0, 0, 0, 3, 4, 5, 6]


def test_without_a_stop_there_is_no_place_for_one() -> None:
    tables = PairTables(toy.bpe("s", stops=()), toy.bpe("t"))
    assert tables.student_stop is None
    assert tables.student_of_teacher.tolist() == [NOWHERE, 0, 1, 2, 3]


def test_markers_meet_and_control_tokens_do_not(tmp_path: Path) -> None:
    student = Tokenization.from_pretrained(str(tiny.sentencepiece(tmp_path / "s", extra=("<in>", "<out>"))))
    teacher = Tokenization.from_pretrained(
        str(tiny.sentencepiece(tmp_path / "t", extra=("<think>", "</think>")))
    )
    opening, closing = (toy.index_of(student, name) for name in ("<in>", "<out>"))
    student = student.with_markers({opening: Event.THINK_OPEN, closing: Event.THINK_CLOSE})
    theirs = {
        toy.index_of(teacher, "<think>"): Event.THINK_OPEN,
        toy.index_of(teacher, "</think>"): Event.TOOL_CLOSE,
    }
    tables = PairTables(student, teacher.with_markers(theirs))
    for table in (tables.student_of_teacher, tables.longest_prefix, tables.first_token):
        assert table[list(theirs)].tolist() == [opening, NOWHERE]
        assert table[toy.index_of(teacher, "<start_of_turn>")] == NOWHERE


# --- loops over the definition


@pytest.fixture(scope="module", params=["byte-level student", "byte-level teacher", "lossy", "equal"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PairTables:
    folder = tmp_path_factory.mktemp("pair")
    byte_level = Tokenization.from_pretrained(str(tiny.byte_level(folder / "b")))
    sentencepiece = Tokenization.from_pretrained(str(tiny.sentencepiece(folder / "s")))
    lower = tiny.byte_level(folder / "l", normalizer=normalizers.Lowercase())
    return {
        "lossy": PairTables(Tokenization.from_pretrained(str(lower)), byte_level),
        "byte-level student": PairTables(byte_level, sentencepiece),
        "byte-level teacher": PairTables(sentencepiece, byte_level),
        "equal": PairTables(sentencepiece, sentencepiece.with_stops(sentencepiece.stop_ids)),
    }[str(request.param)]


def ids_by_bytes(side: Tokenization) -> dict[bytes, int]:
    """The id for some bytes: of several the one that the tokenizer itself would use, else the first."""
    found: dict[bytes, int] = {}
    for index, data in enumerate(side.vocabulary_bytes()):
        own = side.encode(data).ids.tolist()
        if data and (data not in found or own == [index]):
            found[data] = index
    return found


def test_tables_against_loops(pair: PairTables) -> None:
    known = ids_by_bytes(pair.student)
    if pair.same_ids:
        own = np.arange(pair.teacher.num_ids)
        own[sorted(pair.teacher.stop_ids)] = min(pair.student.stop_ids)
        for table in (pair.student_of_teacher, pair.longest_prefix, pair.first_token):
            assert table.tolist() == own.tolist()
        return
    for w, data in enumerate(pair.teacher.vocabulary_bytes()):
        if not data:
            continue
        assert pair.student_of_teacher[w] == known.get(data, NOWHERE)
        prefixes = [data[:n] for n in range(1, len(data) + 1) if data[:n] in known]
        assert pair.longest_prefix[w] == (known[prefixes[-1]] if prefixes else NOWHERE)
        own_text = pair.student.encode(data)
        spelled = own_text.ids.tolist() if own_text.data == data else []
        assert pair.spelling(w).tolist() == spelled
        assert pair.first_token[w] == (spelled[0] if spelled else NOWHERE)
    shared = pair.shared
    assert (pair.student_of_teacher[shared.teacher_ids] == shared.student_ids).all()


def test_what_a_lossy_student_would_spell_otherwise_has_no_spelling(tmp_path: Path) -> None:
    lower = tiny.byte_level(tmp_path / "l", normalizer=normalizers.Lowercase())
    teacher = Tokenization.from_pretrained(str(tiny.byte_level(tmp_path / "b")))
    tables = PairTables(Tokenization.from_pretrained(str(lower)), teacher)
    (upper,) = teacher.encode(b"H").ids.tolist()
    assert tables.first_token[upper] == NOWHERE and tables.student_of_teacher[upper] != NOWHERE


def test_spellings_of_a_space_meet_by_bytes(pair: PairTables) -> None:
    # "Ġthe" and "▁the"
    (theirs,) = pair.teacher.encode(b" the").ids.tolist()
    (ours,) = pair.student.encode(b" the").ids.tolist()
    assert pair.student_of_teacher[theirs] == pair.first_token[theirs] == pair.longest_prefix[theirs] == ours


def test_the_trie_against_a_loop(pair: PairTables) -> None:
    spelled = {w: tuple(pair.spelling(w).tolist()) for w in range(pair.teacher.num_ids)}
    for w in range(0, pair.teacher.num_ids, 7):
        for size in range(1, len(spelled[w]) + 1):
            start = spelled[w][:size]
            low, high = pair.spelling_prefix_range(np.array(start))
            found = set(pair.spelling_order.ids[low:high].tolist())
            assert found == {v for v, ids in spelled.items() if ids[:size] == start}


@given(data=st.lists(st.binary(max_size=6), max_size=8))
def test_many_strings_at_once(data: list[bytes]) -> None:
    side = TEACHER
    data = [*data, b"abcd", "é".encode()[:1]]
    bounds, ids = side.encode_many(data)
    assert [ids[a:b].tolist() for a, b in pairwise(bounds.tolist())] == [
        side.encode(piece).ids.tolist() for piece in data
    ]


def test_bytes_that_a_tokenizer_has_no_token_for_are_dropped_alone() -> None:
    # of these bytes only the letters are tokens, |a|bc|
    text = STUDENT.encode(b"\x80abc\xff")
    assert [STUDENT.token_name(i) for i in text.ids.tolist()] == ["a", "bc"] and text.data == b"abc"
    placed = STUDENT.place(b"\x80abc\xff").correspondence
    # bytes 2 to 4, "bc", are bytes 1 to 3 of what was made
    assert placed is not None and placed.spans.tolist()[-1] == [2, 4, 1, 3]
