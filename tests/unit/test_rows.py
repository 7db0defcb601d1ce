"""Rows of teacher mass on student tokens, by hand: `shared`, `bpm`, `retok` and `gkd`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import toy
from dragoman.config import MethodConfig
from dragoman.errors import ConfigError, TeacherError
from dragoman.supervise.rows import bpm, canon, escd, gkd, retok, shared
from dragoman.supervise.sampled import Build
from dragoman.text import PairTables, Tokenization
from dragoman.types import Alignment, ChunkKind, DropReason, Event, HeldLogp, RowLabel, Supervision, TokenText

TEACHER = toy.bpe("teacher", "a b", "c d", "ab cd", "ab c", "b c", "b cd")
STUDENT = toy.bpe("student", "b c", "a b")
TABLES = PairTables(STUDENT, TEACHER)
# In student tokens: abcd = |a|bc|d|, abc = |a|bc|, cd = |c|d|, bcd = |bc|d|. Longest prefixes: ab, ab, c, bc.
FIRST = {"abcd": 0.4, "abc": 0.2, "ab": 0.1, "a": 0.05, "cd": 0.15, "bcd": 0.1}
ALL: list[Build] = [shared.build, bpm.build, retok.build]


def approx(row: dict[str, float]) -> object:
    return pytest.approx(row, rel=1e-6)


def rows_of(
    build: Build, words: str, teacher: str, *rows: dict[str, float], **settings: object
) -> list[dict[str, float]]:
    """The rows of a student's tokens beside a teacher's, both separated by blanks."""
    found = supervised(build, words, teacher, *rows, **settings).rows
    assert found is not None
    return [toy.row_of(found, i, STUDENT) for i in range(len(found))]


def supervised(
    build: Build, words: str, teacher: str, *rows: dict[str, float], **settings: object
) -> Supervision:
    topk = settings.pop("topk", None)
    assert topk is None or isinstance(topk, int)
    scores = toy.scores_of(TEACHER, toy.ids_of(TEACHER, *teacher.split()), rows, topk)
    return toy.supervise(build, TABLES, toy.ids_of(STUDENT, *words.split()), scores, **settings)


# --- where the teacher draws too


def test_a_root_by_equal_bytes() -> None:
    # Only a and ab are in both; abcd, abc, cd and bcd have .85
    (row,) = rows_of(shared.build, "ab", "ab", FIRST)
    assert row == approx({"a": 0.05, "ab": 0.1, "rest": 0.85})


def test_a_root_by_the_longest_prefix() -> None:
    # ab: .4 + .2 + .1; nothing is left over
    (row,) = rows_of(bpm.build, "ab", "ab", FIRST)
    assert row == approx({"a": 0.05, "ab": 0.7, "c": 0.15, "bc": 0.1})


def test_a_root_by_the_first_token_of_the_spelling() -> None:
    # a: .4 + .2 + .05, as abc is spelled |a|bc|
    (row,) = rows_of(retok.build, "ab", "ab", FIRST)
    assert row == approx({"a": 0.65, "ab": 0.1, "c": 0.15, "bc": 0.1})


# --- inside a teacher token


def test_inside_a_token_by_bytes() -> None:
    rows = rows_of(bpm.build, "a bc d", "abcd", FIRST)
    # Behind "a": abcd .4, abc .2, ab .1, a .05, of .75; bc has .6, b .1, and "a" ended: .05
    assert rows[1] == approx({"bc": 0.6 / 0.75, "b": 0.1 / 0.75, "rest": 0.05 / 0.75})
    # Behind "abc": abcd .4, abc .2
    assert rows[2] == approx({"d": 2 / 3, "rest": 1 / 3})


def test_inside_a_token_by_spellings() -> None:
    rows = rows_of(retok.build, "a bc d", "abcd", FIRST)
    # Spelled (a, ...): abcd .4, abc .2, a .05, of .65; ab is spelled otherwise
    assert rows[1] == approx({"bc": 0.6 / 0.65, "rest": 0.05 / 0.65})
    assert rows[2] == approx({"d": 2 / 3, "rest": 1 / 3})


def test_a_prefix_that_no_token_is_spelled_with_has_no_row() -> None:
    # Spelled (ab, ...) there is ab alone, which says nothing of what follows; none is spelled (ab, c, ...)
    found = supervised(retok.build, "ab c d", "abcd", FIRST)
    assert found.weight.tolist() == [1, 0, 0]
    assert found.reason.tolist() == [DropReason.NONE, DropReason.NO_ROW, DropReason.NO_ROW]


def test_shared_has_rows_at_single_tokens_alone() -> None:
    found = supervised(shared.build, "a bc d ab", "abcd ab", FIRST, FIRST)
    assert found.weight.tolist() == [0, 0, 0, 1]
    assert found.reason.tolist() == [DropReason.NO_ROW] * 3 + [DropReason.NONE]
    assert found.credit is None and found.dropped == {"no_row": 3}


# --- student tokens that reach over several of the teacher's

LONG = toy.bpe("long", "a b", "ab c")
ODD = toy.bpe("odd", "c d", "a b", "ab c")
HEAD, SECOND, THIRD = {"a": 0.6, "b": 0.4}, {"b": 0.5, "bc": 0.5}, {"cd": 0.7, "c": 0.2, "d": 0.1}


@pytest.mark.parametrize("build", [bpm.build, retok.build])
def test_a_longer_student_token(build: Build) -> None:
    scores = toy.scores_of(TEACHER, toy.ids_of(TEACHER, "a", "b", "cd"), [HEAD, SECOND, THIRD])
    found = toy.supervise(build, PairTables(LONG, TEACHER), toy.ids_of(LONG, "abc", "d"), scores)
    assert found.rows is not None
    # |abc| takes .6 * .5 * (.7 + .2) = .27 from a
    assert toy.row_of(found.rows, 0, LONG) == approx({"a": 0.33, "abc": 0.27, "b": 0.4})
    # behind "c": cd .7, c .2
    assert toy.row_of(found.rows, 1, LONG) == approx({"d": 7 / 9, "rest": 2 / 9})


def test_a_longer_student_token_takes_what_it_is_spelled_with() -> None:
    # abcd is |ab|cd| here, so of the last token only c counts: .6 * .5 * .2 = .06; bpm takes .27
    scores = toy.scores_of(TEACHER, toy.ids_of(TEACHER, "a", "b", "c"), [HEAD, SECOND, THIRD])
    tables, student = PairTables(ODD, TEACHER), toy.ids_of(ODD, "abc")
    rows = [toy.supervise(build, tables, student, scores).rows for build in (retok.build, bpm.build)]
    assert rows[0] is not None and rows[1] is not None
    assert toy.row_of(rows[0], 0, ODD) == approx({"a": 0.54, "abc": 0.06, "b": 0.4})
    assert toy.row_of(rows[1], 0, ODD) == approx({"a": 0.33, "abc": 0.27, "b": 0.4})


def test_a_longer_token_inside_a_teacher_token() -> None:
    # |a|bc| meets |ab|c|. Behind "a", abcd and abc give bc .6, a ended with .05, and ab has .1: Z = .75.
    # |bc| takes .1 * (.7 + .2) / Z = .12 from where ab went: nowhere (alone it is |ab|), or to b
    (_, row) = rows_of(retok.build, "a bc", "ab c", FIRST, THIRD)
    assert row == approx({"bc": 0.8 + 0.12, "rest": 0.2 - 0.12})
    (_, row) = rows_of(bpm.build, "a bc", "ab c", FIRST, THIRD)
    assert row == approx({"bc": 0.8 + 0.12, "b": 0.1 / 0.75 - 0.12, "rest": 0.05 / 0.75})


# --- top-k teachers


def test_the_tail_of_a_root_is_residual() -> None:
    # abcd .4 and abc .2 are known, .4 is not
    (row, *_) = rows_of(bpm.build, "a bc d", "abcd", FIRST, topk=2)
    assert row == approx({"ab": 0.6, "rest": 0.4})


def test_the_tail_inside_a_token_is_shared_out_evenly() -> None:
    # Of 11 ids 9 are not named, 2 of them (a, ab) start with "a": .4 * 2 / 9 of the tail
    rows = rows_of(bpm.build, "a bc d", "abcd", FIRST, topk=2)
    tail = 0.4 * 2 / 9
    assert rows[1] == approx({"bc": 0.6 / (0.6 + tail), "rest": tail / (0.6 + tail)})
    # both tokens that start with "abc" are named
    assert rows[2] == approx({"d": 2 / 3, "rest": 1 / 3})


def test_the_realised_token_is_known_without_being_among_the_most_likely() -> None:
    # a has .05; abcd .4
    (row,) = rows_of(bpm.build, "a", "a", FIRST, topk=1)
    assert row == approx({"ab": 0.4, "a": 0.05, "rest": 0.55})


# --- size, masks and labels


def test_the_largest_candidates_and_the_sampled_one_are_kept() -> None:
    # ab .7 and, of .05, .15 and .1, the sampled a
    (row,) = rows_of(bpm.build, "a", "a", FIRST, row_topk=2)
    assert row == approx({"ab": 0.7, "a": 0.05, "rest": 0.25})
    (row,) = rows_of(bpm.build, "c", "c", FIRST | {"ab": 0.05, "c": 0.05}, row_topk=1)
    # c: .15 + .05
    assert row == approx({"c": 0.2, "rest": 0.8})


@pytest.mark.parametrize("build", ALL)
def test_a_missing_value_is_no_row_and_never_certainty(build: Build) -> None:
    student, teacher = toy.ids_of(STUDENT, "ab", "a"), toy.ids_of(TEACHER, "ab", "a")
    scores = toy.scores_of(TEACHER, teacher, [FIRST, FIRST])
    missing = replace(
        scores,
        logp=np.array([np.nan, scores.logp[1]]),
        missing=np.array([DropReason.NON_FINITE, 0], np.uint8),
    )
    assert scores.full_logp is not None
    holes = scores.full_logp.rows(slice(None)).copy()
    holes[0, 3] = np.nan
    for bad in (missing, replace(scores, full_logp=HeldLogp(holes))):
        found = toy.supervise(build, TABLES, student, bad)
        assert found.weight.tolist() == [0, 1] and found.dropped == {"non_finite": 1}
        assert found.rows is not None and found.rows.num_candidates[0] == 0


@pytest.mark.parametrize("build", ALL)
def test_ids_of_a_padded_head_are_no_candidates(build: Build) -> None:
    # a head may be wider than the vocabulary: what it gives to such ids is left over
    student, teacher = toy.ids_of(STUDENT, "ab"), toy.ids_of(TEACHER, "ab")
    scores = toy.scores_of(TEACHER, teacher, [FIRST], topk=2)
    assert scores.topk_ids is not None and scores.topk_logp is not None
    padded = replace(
        scores,
        topk_ids=np.append(scores.topk_ids, [[TEACHER.num_ids + 3]], axis=1),
        topk_logp=np.append(scores.topk_logp, [[np.float32(np.log(0.1))]], axis=1),
    )
    plain, found = (toy.supervise(build, TABLES, student, one).rows for one in (scores, padded))
    assert plain is not None and found is not None
    assert toy.row_of(found, 0, STUDENT) == toy.row_of(plain, 0, STUDENT)
    assert found.residual.tolist() == plain.residual.tolist()


def test_a_row_that_is_no_distribution_is_refused() -> None:
    with pytest.raises(TeacherError, match=r"sums to 0\.5000, expected 1"):
        supervised(bpm.build, "ab", "ab", {"ab": 0.3, "a": 0.2})
    with pytest.raises(TeacherError, match=r"sums to 1\.2000"):
        supervised(bpm.build, "ab", "ab", {"ab": 0.9, "a": 0.3}, topk=2)


def test_blanks_are_masked_where_asked_for() -> None:
    side = toy.bpe("blanks", "Ġ Ġ", letters="abĠ")
    text = toy.ids_of(side, "ĠĠ", "a", "Ġ", "<stop>")
    row = {"ĠĠ": 0.3, "a": 0.3, "Ġ": 0.2, "<stop>": 0.2}
    scores = toy.scores_of(side, text, [row] * 4)
    masked = toy.supervise(bpm.build, PairTables(side, side), text, scores, mask_whitespace=True)
    assert masked.weight.tolist() == [0, 1, 0, 1]
    assert toy.supervise(bpm.build, PairTables(side, side), text, scores).weight.tolist() == [1] * 4


BLANKS = toy.bpe("blanks", "Ġ Ġ", "a b", "ĠĠ ab", "Ġ ab", letters="abĠ")
SPACED = toy.bpe("spaced", "Ġ Ġ", "a b", letters="abĠ")
BLANK_ROWS = (
    {"ĠĠab": 0.4, "ĠĠ": 0.3, "Ġab": 0.2, "a": 0.1},
    {"ab": 0.6, "Ġab": 0.1, "a": 0.2, "Ġ": 0.1},
    {"Ġab": 0.5, "Ġ": 0.3, "<stop>": 0.2},
    {"<stop>": 0.7, "Ġ": 0.3},
)


@pytest.mark.parametrize("build", [*ALL, escd.build, canon.build])
@pytest.mark.parametrize("words", ["ĠĠ ab Ġ <stop>", "ĠĠ a b Ġ <stop>", "Ġ Ġ ab Ġ <stop>"])
def test_masked_blanks_leave_the_rows_of_other_tokens_as_they_are(build: Build, words: str) -> None:
    tables, student = PairTables(SPACED, BLANKS), toy.ids_of(SPACED, *words.split())
    scores = toy.scores_of(BLANKS, toy.ids_of(BLANKS, "ĠĠ", "ab", "Ġ", "<stop>"), BLANK_ROWS)
    plain = toy.supervise(build, tables, student, scores)
    masked = toy.supervise(build, tables, student, scores, mask_whitespace=True)
    blank = np.array([set(word) == {"Ġ"} for word in words.split()])
    assert masked.weight.tolist() == np.where(blank, 0.0, plain.weight).tolist()
    for index in np.flatnonzero(~blank).tolist():
        first, other = (candidates_of(found, index) for found in (masked, plain))
        assert first == other


def candidates_of(found: Supervision, index: int) -> list[tuple[float, list[int]]]:
    """The candidates of a row, each with its log mass and tokens; and the residual."""
    rows = found.rows
    assert rows is not None
    bounds = np.arange(len(rows.ids) + 1) if rows.member_bounds is None else rows.member_bounds
    own = range(int(rows.bounds[index]), int(rows.bounds[index + 1]))
    tokens = [rows.ids[bounds[k] : bounds[k + 1]].tolist() for k in own]
    return [*zip(rows.logp[own.start : own.stop].tolist(), tokens, strict=True), (rows.residual[index], [])]


def test_odd_segmentations_are_masked_where_asked_for() -> None:
    # "abc" is |a|bc|
    found = supervised(bpm.build, "ab c", "abc", FIRST, guard="mask")
    assert found.dropped == {"non_canonical": 2}
    with pytest.raises(ConfigError, match="penalty"):
        supervised(bpm.build, "ab c", "abc", FIRST, guard="penalty")


def test_stop_sets_meet_as_one_candidate() -> None:
    teacher = toy.bpe("t", stops=("<end>", "<turn>"))
    student = toy.bpe("s", stops=("<x>", "<y>", "<z>"))
    row = {"<end>": 0.1, "<turn>": 0.2, "a": 0.7}
    text = toy.ids_of(teacher, "a", "<turn>")
    for build in ALL:
        for topk in (None, 2):
            scores = replace(
                toy.scores_of(teacher, text, [row, row], topk),
                stop_logp=np.log(np.array([0.3, 0.3], np.float32)),
            )
            found = toy.supervise(
                build, PairTables(student, teacher), toy.ids_of(student, "a", "<z>"), scores
            )
            assert found.rows is not None and found.weight.tolist() == [1, 1]
            for index in (0, 1):
                # .1 + .2 at the smallest of the student's stops
                assert toy.row_of(found.rows, index, student) == pytest.approx(
                    {"<x>": 0.3, "a": 0.7}, abs=1e-6
                )


# --- equal tokenizers


@pytest.mark.parametrize("build", [*ALL, gkd.build])
def test_equal_tokenizers_have_the_teachers_own_rows(build: Build) -> None:
    text = toy.ids_of(TEACHER, "abc", "d", "a", "bcd")
    scores = toy.scores_of(TEACHER, text, [FIRST, THIRD, HEAD, FIRST])
    found = toy.supervise(build, PairTables(TEACHER, TEACHER), text, scores)
    assert found.rows is not None and (found.rows.label == RowLabel.EXACT).all()
    for index, row in enumerate((FIRST, THIRD, HEAD, FIRST)):
        assert toy.row_of(found.rows, index, TEACHER) == approx(row)


def test_other_tokenizers_have_no_exact_rows() -> None:
    for build in ALL:
        found = supervised(build, "ab", "ab", FIRST)
        assert found.rows is not None and found.rows.label.tolist() == [RowLabel.HEURISTIC]


def test_equal_tokenizers_are_exact_as_long_as_both_have_read_the_same_ids() -> None:
    # |ab|c|d| meets |abc|d|: the first is the teacher's draw, the second is none, the third has another past
    scores = toy.scores_of(TEACHER, toy.ids_of(TEACHER, "abc", "d"), [FIRST, THIRD])
    student = toy.ids_of(TEACHER, "ab", "c", "d")
    found = toy.supervise(bpm.build, PairTables(TEACHER, TEACHER), student, scores)
    assert found.rows is not None
    assert found.rows.label.tolist() == [RowLabel.EXACT, RowLabel.HEURISTIC, RowLabel.HEURISTIC]


def test_a_stop_set_known_in_part_is_a_lower_bound() -> None:
    side = toy.bpe("t", stops=("<end>", "<turn>"))
    text = toy.ids_of(side, "a")
    row = {"<end>": 0.1, "<turn>": 0.2, "a": 0.7}
    scores = toy.scores_of(side, text, [row], 2)
    for stop_logp, label in ((None, RowLabel.LOWER), (np.log(np.array([0.3])), RowLabel.EXACT)):
        found = toy.supervise(gkd.build, PairTables(side, side), text, replace(scores, stop_logp=stop_logp))
        assert found.rows is not None and found.rows.label.tolist() == [label]


# --- chunks of other kinds


def supervised_as(kind: ChunkKind, student: TokenText, teacher: TokenText, side: Tokenization) -> Supervision:
    """One chunk of a kind, in which the teacher opens its thinking with .6 and else writes an a."""
    alignment = Alignment(
        student_bounds=np.array([0, len(student)]),
        teacher_bounds=np.array([0, len(teacher)]),
        kind=np.array([kind], np.uint8),
    )
    rows = [{"<open>": 0.6, "a": 0.4}] * len(teacher)
    scores = toy.scores_of(side, teacher, rows)
    build = bpm.build(PairTables(STUDENT, side), MethodConfig())
    return build(toy.rollout_of(student), scores, alignment)


MARKED = toy.bpe("marked", stops=("<stop>", "<open>")).with_stops([0]).with_markers({1: Event.THINK_OPEN})


def test_an_event_that_the_tables_do_not_know_is_what_the_alignment_says() -> None:
    # The student has no token for it; the alignment says that its "d" means the same.
    student, teacher = toy.ids_of(STUDENT, "d"), toy.ids_of(MARKED, "<open>")
    found = supervised_as(ChunkKind.EVENT, student, teacher, MARKED)
    assert found.rows is not None
    assert toy.row_of(found.rows, 0, STUDENT) == approx({"d": 0.6, "a": 0.4})


def test_an_event_of_several_tokens_has_no_row() -> None:
    student, teacher = toy.ids_of(STUDENT, "d", "a"), toy.ids_of(MARKED, "<open>")
    found = supervised_as(ChunkKind.EVENT, student, teacher, MARKED)
    assert found.dropped == {"no_row": 2} and not found.weight.any()


@pytest.mark.parametrize(("normalised", "reason"), [("use", "no_row"), ("mask", "normalised")])
def test_a_normalised_chunk_has_no_row(normalised: str, reason: str) -> None:
    # The teacher writes "b" where the student wrote "a": its rows are of other bytes.
    student, teacher = toy.ids_of(STUDENT, "a"), toy.ids_of(TEACHER, "b")
    alignment = Alignment(
        student_bounds=np.array([0, 1]),
        teacher_bounds=np.array([0, 1]),
        kind=np.array([ChunkKind.NORMALISED], np.uint8),
    )
    config = MethodConfig.model_validate({"normalised": normalised})
    scores = toy.scores_of(TEACHER, teacher, [HEAD])
    found = bpm.build(TABLES, config)(toy.rollout_of(student), scores, alignment)
    assert found.dropped == {reason: 1}


def test_a_chunk_of_different_bytes_has_its_own_reason() -> None:
    # |ab| meets |a|, then nothing
    student, teacher = toy.ids_of(STUDENT, "ab", "d"), toy.ids_of(TEACHER, "a", "d")
    found = toy.supervise(bpm.build, TABLES, student, toy.scores_of(TEACHER, teacher, [HEAD, THIRD]))
    assert found.dropped == {"bytes_differ": 1} and found.weight.tolist() == [0, 1]


def test_long_chunks_are_dropped_where_asked_for() -> None:
    found = supervised(bpm.build, "a bc d", "abcd", FIRST, max_chunk_tokens=2)
    assert found.dropped == {"chunk_too_long": 3}


def test_characters_cut_into_bytes_are_matched_by_bytes() -> None:
    # "é" is C3 A9, in the byte alphabet "Ã" and "©"; one token of the teacher, two of the student
    student = toy.bpe("s", letters="aÃ©")
    teacher = toy.bpe("t", "Ã ©", letters="aÃ©")
    scores = toy.scores_of(teacher, toy.ids_of(teacher, "Ã©"), [{"Ã©": 0.5, "Ã": 0.2, "a": 0.3}])
    for build in (bpm.build, retok.build):
        found = toy.supervise(build, PairTables(student, teacher), toy.ids_of(student, "Ã", "©"), scores)
        assert found.rows is not None
        assert toy.row_of(found.rows, 0, student) == approx({"Ã": 0.7, "a": 0.3})
        # behind C3: .5 goes on with A9, .2 ended there
        assert toy.row_of(found.rows, 1, student) == approx({"©": 0.5 / 0.7, "rest": 0.2 / 0.7})
