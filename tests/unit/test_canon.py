"""Rows of `canon` by hand: sets with exact masses, and what makes them finer, possible or partial."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import toy
from dragoman.config import MethodConfig
from dragoman.supervise.rows import ahead, canon, longer
from dragoman.supervise.rows.listed import Listed
from dragoman.supervise.rows.sets import Sets
from dragoman.text import NOWHERE, PairTables, Tokenization
from dragoman.types import Alignment, ChunkKind, DropReason, Event, HeldLogp, RowLabel, Rows, Supervision

LETTERS = toy.bpe("letters")
PAIRS = toy.bpe("pairs", "c d")
LONG = toy.bpe("long", "a b", "ab c")
Row = dict[str, float]


def supervised(
    student: Tokenization, teacher: Tokenization, words: str, others: str, *rows: Row, **settings: object
) -> Supervision:
    """Some student tokens beside some of the teacher's, both separated by blanks."""
    topk = settings.pop("topk", None)
    assert topk is None or isinstance(topk, int)
    scores = toy.scores_of(teacher, toy.ids_of(teacher, *others.split()), rows, topk)
    tables = PairTables(student, teacher)
    return toy.supervise(canon.build, tables, toy.ids_of(student, *words.split()), scores, **settings)


def sets_of(rows: Rows | None, index: int, side: Tokenization) -> Row:
    """A row by the names of each set's members; the residual as "rest", where it is more than rounding."""
    assert rows is not None
    found: Row = {}
    for k in range(int(rows.bounds[index]), int(rows.bounds[index + 1])):
        own = slice(k, k + 1)
        if rows.member_bounds is not None:
            own = slice(int(rows.member_bounds[k]), int(rows.member_bounds[k + 1]))
        found[" ".join(side.token_name(i) for i in rows.ids[own].tolist())] = float(np.exp(rows.logp[k]))
    return found | ({"rest": float(rows.residual[index])} if rows.residual[index] > 1e-6 else {})


def partial_of(found: Supervision) -> list[bool]:
    assert found.rows is not None
    return [False] * len(found.rows) if found.rows.partial is None else found.rows.partial.tolist()


def approx(row: Row) -> object:
    return pytest.approx(row, rel=1e-5)


# --- sets


def sets_with(*mass: float) -> Sets:
    return Sets(single=dict(enumerate(mass)))


def listed(sets: Sets, topk: int | None, always: int) -> tuple[dict[tuple[int, ...], float], float]:
    ids, sizes, mass, left, _ = Listed.of([sets]).candidates(topk, [always])[0]
    assert sizes is not None
    stretches = np.split(ids, np.cumsum(sizes)[:-1]) if len(sizes) else []
    return {tuple(s.tolist()): float(m) for s, m in zip(stretches, mass, strict=True)}, left


def test_sets_that_share_a_token_are_one() -> None:
    sets = sets_with(0.1, 0.2, 0.0, 0.3, 0.25, 0.15)
    sets.join([4, 2])
    sets.join([2, 1])
    sets.join([5])
    # .2 + 0 + .25
    found, left = listed(sets, None, 0)
    assert found == {(0,): 0.1, (1, 2, 4): pytest.approx(0.45), (3,): 0.3, (5,): 0.15} and left == 0.0


def test_a_set_without_mass_is_no_candidate() -> None:
    sets = sets_with(0.0, 0.0, 1.0)
    sets.join([0, 1])
    assert listed(sets, None, 1) == ({(2,): 1.0}, 0.0)
    assert listed(sets_with(0.0), None, 0) == ({}, 0.0)


def test_the_sampled_tokens_set_is_kept() -> None:
    sets = sets_with(0.3, 0.0, 0.1, 0.4, 0.2)
    sets.join([2, 1])
    found, left = listed(sets, 2, 1)  # by its member without mass
    assert found == {(1, 2): 0.1, (3,): 0.4} and left == pytest.approx(0.5)
    found, left = listed(sets, 2, 4)  # of no set
    assert found == {(3,): 0.4, (4,): 0.2} and left == pytest.approx(0.4)
    assert listed(sets, 1, 3)[0] == {(3,): 0.4}


def test_links_of_any_order_make_the_same_sets() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 40, (2, 25))
    found = []
    for _ in range(5):
        order = rng.permutation(25)
        sets = Sets(single=dict.fromkeys(range(40), 1 / 40))
        sets.link(one[order], other[order])
        found.append(listed(sets, None, 0)[0])
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            assert any(a in members and b in members for members in found[-1])
        assert sorted(i for members in found[-1] for i in members) == list(range(40))
    assert all(sorted(members) == sorted(found[0]) for members in found)


def test_no_more_is_moved_than_there_is() -> None:
    sets = sets_with(0.25, 0.75)
    assert sets.move(0.5, 0, 1) == 0.25
    assert sets.single == {0: 0.0, 1: 1.0}
    sets.give_up(1)
    assert sets.single == {0: 0.0} and sets.lost == 1.0


# --- longer tokens


def names(side: Tokenization, ids: object) -> list[str]:
    return [side.token_name(int(i)) for i in ids]  # type: ignore[attr-defined]


def test_longer_student_tokens() -> None:
    # The teacher writes ab as |a|b|, abc as |a|b|c|, cd as |cd|
    found = longer.LongerTokens(PairTables(toy.bpe("s", "a b", "ab c", "c d"), PAIRS))
    a, b, c = (toy.index_of(PAIRS, word) for word in "abc")
    first, ids = found.of(np.array([a, c]))
    assert names(LONG, first) == ["a", "a"] and names(LONG, ids) == ["ab", "abc"]
    able, counts = found.able
    assert (able.tolist(), counts.tolist()) == ([a], [2])
    assert {u: names(LONG, v) for u, v in found.after((a,)).items()} == {b: ["ab", "abc"]}
    assert {u: names(LONG, v) for u, v in found.after((a, b)).items()} == {c: ["abc"]}
    assert found.after((a, b, c)) == found.after((b,)) == {}
    assert names(LONG, found.beyond(found.after((a,)), [b], 2)) == ["abc"]
    assert found.beyond(found.after((a,)), [c], 0) == []


def test_longer_tokens_behind_one_that_began_before() -> None:
    # Behind "a" of |ab|: b goes on as bc or bcd. The teacher writes abc as |ab|c|, abcd as |ab|cd|.
    teacher, student = toy.bpe("t", "a b", "c d"), toy.bpe("s", "b c", "bc d")
    found = longer.LongerTokens(PairTables(student, teacher))
    ab, cd = toy.index_of(teacher, "ab"), toy.index_of(teacher, "cd")
    assert names(student, found.behind(b"a", b"b", ab)) == ["bc", "bcd"]
    assert found.behind(b"a", b"bcd", ab) == () and found.behind(b"a", b"b", cd) == ()


def test_what_follows_in_the_students_tokens() -> None:
    ask = longer.Continued(PairTables(LONG, PAIRS))
    a, ab = toy.index_of(LONG, "a"), toy.index_of(LONG, "ab")
    b, c, d, cd = (toy.index_of(PAIRS, word) for word in ("b", "c", "d", "cd"))
    # |a|b is |ab|; |a|c| stays; |ab|c is |abc|, and so is |ab|cd
    own = [toy.index_of(LONG, word) for word in "cd"]
    assert ask((a,), b"a", [b, c, d]).tolist() == [longer.JOINED, *own]
    assert ask((ab,), b"ab", [c, d, cd]).tolist() == [longer.JOINED, own[1], longer.JOINED]
    assert ask((), b"a", [b, c, cd]).tolist() == [ab, a, a]
    assert ask((a,), b"a", [c, b]).tolist() == [own[0], longer.JOINED]  # as known


def test_white_space_waits_for_what_comes_behind_it() -> None:
    # Two blanks are one token, so behind one there is no other; before a letter that is so too
    side = toy.bpe("blanks", "Ġ Ġ", letters="abĠ")
    blank = toy.index_of(side, "Ġ")
    ask = longer.Continued(PairTables(side, toy.bpe("t", letters="abĠ")))
    assert ask((blank,), b" ", [toy.index_of(LETTERS, "a"), blank]).tolist() == [
        toy.index_of(side, "a"),
        longer.JOINED,
    ]
    # but where blank and letter are one, |Ġ|Ġa| is what three symbols are
    word = toy.bpe("words", "Ġ a", "Ġ Ġ", letters="abĠ")
    assert longer.Continued(PairTables(word, side))((blank,), b" ", [blank]).tolist() == [NOWHERE]


# --- where the teacher draws too


def test_a_longer_student_token_makes_a_set() -> None:
    # Behind a comes ab or abc, or neither: this row cannot say; cd is |c|d|
    found = supervised(LONG, PAIRS, "b", "b", {"a": 0.6, "b": 0.3, "cd": 0.1})
    assert sets_of(found.rows, 0, LONG) == approx({"a ab abc": 0.6, "b": 0.3, "c": 0.1})
    assert partial_of(found) == [False] and found.rows is not None
    assert found.rows.label.tolist() == [RowLabel.HEURISTIC]


def test_white_space_whose_first_token_waits_for_a_letter_makes_a_set() -> None:
    # Two blanks alone are one token, before a letter |Ġ|Ġa|: the row says two blanks, not which
    teacher = toy.bpe("t", "Ġ Ġ", letters="abĠ")
    student = toy.bpe("s", "Ġ a", "Ġ Ġ", letters="abĠ")
    found = supervised(student, teacher, "a", "a", {"ĠĠ": 0.4, "a": 0.35, "b": 0.25})
    assert sets_of(found.rows, 0, student) == approx({"Ġ ĠĠ": 0.4, "a": 0.35, "b": 0.25})
    # and where they are written, what follows says it: a (.5) makes |Ġ|, b (.3) and an end (.2) make |ĠĠ|
    row = {"a": 0.5, "b": 0.3, "<stop>": 0.2}
    found = supervised(student, teacher, "ĠĠ b", "ĠĠ b", {"ĠĠ": 0.4, "a": 0.35, "b": 0.25}, row)
    assert sets_of(found.rows, 0, student) == approx({"Ġ": 0.2, "ĠĠ": 0.2, "a": 0.35, "b": 0.25})


HEAD, SECOND, THIRD = {"a": 0.6, "b": 0.4}, {"b": 0.5, "c": 0.3, "d": 0.2}, {"c": 0.25, "d": 0.75}


def test_the_next_rows_part_the_realised_tokens_set() -> None:
    # |a|b|d|: a then c or d, .6 * .5; a b then d, .3 * .75; a b c, .3 * .25
    found = supervised(LONG, LETTERS, "ab d", "a b d", HEAD, SECOND, THIRD)
    assert sets_of(found.rows, 0, LONG) == approx({"a": 0.3, "ab": 0.225, "abc": 0.075, "b": 0.4})


def test_what_is_not_written_parts_no_set() -> None:
    # Nothing is known behind a b, so ab or abc have .3
    found = supervised(LONG, LETTERS, "ab", "a b", HEAD, SECOND)
    assert sets_of(found.rows, 0, LONG) == approx({"a": 0.3, "ab abc": 0.3, "b": 0.4})


def test_a_later_token_may_shorten_the_first() -> None:
    # ab is |ab|, but abc is |a|bc|: of .6 * .5, .25 go on with c
    student = toy.bpe("s", "b c", "a b")
    found = supervised(student, LETTERS, "a bc", "a b c", HEAD, SECOND, THIRD)
    assert sets_of(found.rows, 0, student) == approx({"a": 0.3 + 0.075, "ab": 0.225, "b bc": 0.4})


def test_a_second_token_that_no_longer_token_is_spelled_with_counts_too() -> None:
    # ab is |a|b| to the teacher, but what it says next is bc, which makes |ab|c| all the same
    teacher, student = toy.bpe("t", "b c"), toy.bpe("s", "a b")
    rows = {"a": 1.0}, {"b": 0.1, "bc": 0.6, "d": 0.3}
    found = supervised(student, teacher, "a d", "a d", *rows)
    assert sets_of(found.rows, 0, student) == approx({"a": 0.3, "ab": 0.7})


def test_a_teacher_that_names_few_tokens_leaves_the_rest_unknown() -> None:
    # Behind a only d is named: b, which makes ab, is one of four that share .4
    rows = {"a": 1.0}, {"d": 0.6, "b": 0.4}
    found = supervised(toy.bpe("s", "a b"), LETTERS, "a d", "a d", *rows, topk=1)
    assert sets_of(found.rows, 0, LONG) == approx({"a": 0.9, "rest": 0.1})


def test_a_token_the_student_would_have_joined_is_impossible() -> None:
    # |a|b is |ab|, so behind |a| there is no b: c .3 and d .2 of .5
    found = supervised(LONG, LETTERS, "a c", "a c", {"a": 1.0}, {"b": 0.5, "c": 0.3, "d": 0.2})
    assert sets_of(found.rows, 1, LONG) == approx({"c": 0.6, "d": 0.4})


def test_nothing_is_joined_across_events_or_the_beginning() -> None:
    side, student = toy.bpe("t", stops=("<stop>", "<mark>")), toy.bpe("s", "a b", stops=("<stop>", "<mark>"))
    side, student = side.with_stops([0]), student.with_stops([0])
    row = {"b": 0.5, "c": 0.5}
    found = supervised(student, side, "<mark> b", "<mark> b", {"<mark>": 1.0}, row)
    assert sets_of(found.rows, 1, student) == approx(row)
    assert sets_of(supervised(student, side, "b", "b", row).rows, 0, student) == approx(row)


def test_what_was_not_the_students_own_division_forbids_nothing() -> None:
    # |ab|c| is no division of its own, as abc is one token
    row = {"c": 0.5, "d": 0.5}
    found = supervised(LONG, LETTERS, "ab c", "a b c", HEAD, SECOND, row)
    assert sets_of(found.rows, 1, LONG) == approx(row)


def test_a_teacher_token_across_a_shared_boundary() -> None:
    # At |ab|, T is at its end (1) or, with .3 / .5, inside abc, where c comes next: c .6, d .6, a .4 of 1.6
    teacher, student = toy.bpe("t", "a b", "ab c"), toy.bpe("s", "a b")
    rows = {"ab": 0.5, "abc": 0.3, "d": 0.2}, {"d": 0.6, "a": 0.4}
    found = supervised(student, teacher, "ab d", "ab d", *rows)
    assert sets_of(found.rows, 1, student) == approx({"a": 0.25, "c": 0.375, "d": 0.375})
    assert partial_of(found) == [False, False]


def test_a_token_that_began_several_tokens_ago() -> None:
    # No token begins with ab, but cabd has begun at c: .2 / (.5 * .8 * .5) = 1; so d .6 + 1 and a .4, of 2
    teacher = toy.bpe("t", "c a", "ca b", "cab d")
    rows = {"c": 0.5, "cabd": 0.2, "d": 0.3}, {"a": 0.8, "d": 0.2}, {"b": 0.5, "d": 0.5}, {"d": 0.6, "a": 0.4}
    found = supervised(LETTERS, teacher, "c a b d", "c a b d", *rows)
    assert sets_of(found.rows, 3, LETTERS) == approx({"a": 0.2, "d": 0.8})


def test_a_straddling_token_may_begin_longer_ones() -> None:
    # Inside bc behind b the student writes c, or cd, which is |bc|d| to the teacher; a .5 / (1 + .5)
    teacher, student = toy.bpe("t", "b c"), toy.bpe("s", "c d")
    found = supervised(student, teacher, "b a", "b a", {"b": 0.4, "bc": 0.2, "a": 0.4}, {"a": 1.0})
    assert sets_of(found.rows, 1, student) == approx({"a": 2 / 3, "c cd": 1 / 3})


def test_where_the_student_may_not_be_a_row_says_proportions() -> None:
    # Inside |ĠĠ| behind |Ġ| the student may be before a (|Ġ|Ġa|) and not before others (|ĠĠ|b|), and no row
    # says what comes: .3 / .5 is doubtful beside b .6 (a would have been |Ġa|)
    teacher = toy.bpe("t", "Ġ Ġ", letters="abĠ")
    student = toy.bpe("s", "Ġ a", "Ġ Ġ", letters="abĠ")
    rows = {"Ġ": 0.5, "ĠĠ": 0.3, "b": 0.2}, {"b": 0.6, "a": 0.4}
    found = supervised(student, teacher, "Ġ b", "Ġ b", *rows)
    assert sets_of(found.rows, 1, student) == approx({"b": 0.5, "rest": 0.5})
    assert partial_of(found) == [False, True]
    # a little of it is left over
    found = supervised(student, teacher, "Ġ b", "Ġ b", {"Ġ": 0.797, "ĠĠ": 0.003, "b": 0.2}, rows[1])
    assert partial_of(found) == [False, False]


# --- inside a teacher token


def test_a_row_inside_a_token_is_partial() -> None:
    # Behind ab: abc .4, abd .2, ended .1, of .7
    teacher, student = toy.bpe("t", "a b", "ab c", "ab d"), toy.bpe("s", "a b")
    found = supervised(student, teacher, "ab c", "abc", {"abc": 0.4, "abd": 0.2, "ab": 0.1, "d": 0.3})
    assert sets_of(found.rows, 1, student) == approx({"c": 4 / 7, "d": 2 / 7, "rest": 1 / 7})
    assert partial_of(found) == [False, True]


def test_tokens_spelled_otherwise_have_no_part_in_it() -> None:
    # Behind |a| the student cannot be inside ab, which it writes as one
    teacher, student = toy.bpe("t", "a b", "a c"), toy.bpe("s", "a b")
    found = supervised(student, teacher, "a c", "ac", {"ab": 0.5, "ac": 0.3, "a": 0.2})
    assert sets_of(found.rows, 1, student) == approx({"c": 0.6, "rest": 0.4})


def test_proportions_count_however_unlikely_the_stretch() -> None:
    teacher, student = toy.bpe("t", "a b", "ab c", "ab d"), toy.bpe("s", "a b")
    found = supervised(student, teacher, "ab c", "abc", {"abc": 4e-7, "abd": 2e-7, "d": 1 - 6e-7})
    assert sets_of(found.rows, 1, student) == approx({"c": 2 / 3, "d": 1 / 3})


# --- values that are missing


def test_missing_values_beside_a_token_are_not_looked_at() -> None:
    teacher, student = toy.bpe("t", "a b", "ab c"), toy.bpe("s", "a b")
    texts = toy.ids_of(student, "ab", "d"), toy.ids_of(teacher, "ab", "d")
    scores = toy.scores_of(teacher, texts[1], [{"ab": 0.5, "abc": 0.3, "d": 0.2}, {"d": 0.6, "a": 0.4}])
    for lost, row in ((0, {"a": 0.4, "d": 0.6}), (1, {"ab": 0.8, "d": 0.2})):
        assert scores.full_logp is not None
        full, missing, logp = (
            scores.full_logp.rows(slice(None)).copy(),
            np.zeros(2, np.uint8),
            scores.logp.copy(),
        )
        full[lost], missing[lost], logp[lost] = np.nan, DropReason.NON_FINITE, np.nan
        found = toy.supervise(
            canon.build,
            PairTables(student, teacher),
            texts[0],
            replace(scores, full_logp=HeldLogp(full), missing=missing, logp=logp),
        )
        assert found.dropped == {"non_finite": 1}
        assert sets_of(found.rows, 1 - lost, student) == approx(row)


# --- events


def test_stop_sets_meet_as_one_candidate() -> None:
    teacher = toy.bpe("t", stops=("<end>", "<turn>"))
    student = toy.bpe("s", "a b", stops=("<x>", "<y>", "<z>"))
    row = {"<end>": 0.1, "<turn>": 0.2, "a": 0.7}
    found = supervised(student, teacher, "a <z>", "a <turn>", row, row)
    # Behind the realised a the stop has .3, so ab has none of .7 * .3; of .7 * .7 a goes on with a
    assert sets_of(found.rows, 0, student) == approx({"<x>": 0.3, "a": 0.7})
    assert sets_of(found.rows, 1, student) == approx({"<x>": 0.3, "a ab": 0.7})


MARKED = toy.bpe("marked", stops=("<stop>", "<open>")).with_stops([0]).with_markers({1: Event.THINK_OPEN})


def test_an_event_that_the_tables_do_not_know_is_what_the_alignment_says() -> None:
    student, teacher = toy.ids_of(LETTERS, "d"), toy.ids_of(MARKED, "<open>")
    alignment = Alignment(
        student_bounds=np.array([0, 1]),
        teacher_bounds=np.array([0, 1]),
        kind=np.array([ChunkKind.EVENT], np.uint8),
    )
    scores = toy.scores_of(MARKED, teacher, [{"<open>": 0.6, "a": 0.4}])
    build = canon.build(PairTables(LETTERS, MARKED), MethodConfig())
    found = build(toy.rollout_of(student), scores, alignment)
    assert sets_of(found.rows, 0, LETTERS) == approx({"d": 0.6, "a": 0.4})


# --- size and equal tokenizers


def test_the_residual_holds_what_is_cut() -> None:
    found = supervised(LONG, PAIRS, "b", "b", {"a": 0.6, "b": 0.3, "cd": 0.1}, row_topk=1)
    assert sets_of(found.rows, 0, LONG) == approx({"b": 0.3, "rest": 0.7})


def test_sets_too_large_to_be_listed_are_residual(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (canon, ahead):
        monkeypatch.setattr(module, "MOST", 1)
    found = supervised(LONG, PAIRS, "b", "b", {"a": 0.6, "b": 0.3, "cd": 0.1})
    assert sets_of(found.rows, 0, LONG) == approx({"b": 0.3, "c": 0.1, "rest": 0.6})
    # and those of little mass stay with their first token
    found = supervised(LONG, PAIRS, "b", "b", {"a": 5e-4, "b": 1 - 5e-4})
    assert sets_of(found.rows, 0, LONG) == approx({"a": 5e-4, "b": 1 - 5e-4})


def test_equal_tokenizers_inside_a_token() -> None:
    # |a|b| beside |ab|: the first is the teacher's draw, and behind |a| its tokenizer would not write |b|
    side = toy.bpe("t", "a b")
    found = supervised(side, side, "a b", "ab", {"ab": 0.7, "a": 0.1, "d": 0.2})
    assert sets_of(found.rows, 0, side) == approx({"ab": 0.7, "a": 0.1, "d": 0.2})
    assert found.weight.tolist() == [1, 0] and found.dropped == {"no_row": 1}
