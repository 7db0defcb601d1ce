"""The teacher's log-prob of every student token, by hand and against its definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.alignment import align
from dragoman.config import MethodConfig
from dragoman.supervise import CREDITS, Marginals
from dragoman.supervise.sampled import build_marginal, build_marginal_rtg
from dragoman.text import Tokenization
from dragoman.types import HeldLogp, Prompt, Rollout, TeacherScores, TokenText
from letters import FIRST, STUDENT, TABLES, TEACHER, ids_of, scores_of

MARGINALS = Marginals(TABLES)


def steps_of(student: TokenText, scores: TeacherScores) -> np.ndarray:
    assert scores.tokens is not None
    alignment = align(student, scores.tokens)
    return MARGINALS.steps(student, scores, alignment, np.ones(alignment.num_chunks, bool))


def test_spellings_are_as_the_examples_below_take_them() -> None:
    spelled = {
        word: [STUDENT.token_name(i) for i in TABLES.spelling(int(TEACHER.token_id(word) or 0)).tolist()]
        for word in ("abcd", "abc", "bc", "bcd")
    }
    assert spelled == {"abcd": ["ab", "cd"], "abc": ["ab", "c"], "bc": ["b", "c"], "bcd": ["b", "cd"]}


def test_two_student_tokens_to_one() -> None:
    # M_1 = mass of abcd, abc and ab = .7; r = log .7, log .4 - log .7
    found = steps_of(ids_of(STUDENT, "ab", "cd"), scores_of(ids_of(TEACHER, "abcd"), [FIRST]))
    assert found == pytest.approx(np.log([0.7, 0.4 / 0.7]), rel=1e-6)


def test_top_k_counts_the_realised_token_too() -> None:
    # of abc and cd: M_1 = .2 + .4; with the realised token among them it is counted once
    student, teacher = ids_of(STUDENT, "ab", "cd"), ids_of(TEACHER, "abcd")
    for topk in (["abc", "cd"], ["abcd", "abc"]):
        found = steps_of(student, scores_of(teacher, [FIRST], topk))
        assert found == pytest.approx(np.log([0.6, 0.4 / 0.6]), rel=1e-6)


def test_likely_ids_beyond_the_vocabulary_are_no_tokens() -> None:
    # rows of padding at the end of a head: M_1 = .2 + .4 as before, whatever the row gives to id 99
    student, teacher = ids_of(STUDENT, "ab", "cd"), ids_of(TEACHER, "abcd")
    known = scores_of(teacher, [FIRST], ["abc", "cd"])
    assert known.topk_ids is not None and known.topk_logp is not None
    padded = replace(
        known,
        topk_ids=np.append(known.topk_ids, [[99]], axis=1).astype(np.int32),
        topk_logp=np.append(known.topk_logp, [[-0.5]], axis=1).astype(np.float32),
    )
    assert steps_of(student, padded) == pytest.approx(np.log([0.6, 0.4 / 0.6]), rel=1e-6)


def test_one_student_token_has_all() -> None:
    # |ab| meets |a|b|: r = log .05 + log .5
    teacher = ids_of(TEACHER, "a", "b")
    found = steps_of(ids_of(STUDENT, "ab"), scores_of(teacher, [FIRST, {"b": 0.5, "c": 0.5}]))
    assert found == pytest.approx([np.log(0.05 * 0.5)], rel=1e-6)


def test_a_prefix_within_the_first_of_several_teacher_tokens() -> None:
    # |ab|cd| meets |abc|d|: M_1 = .7 from the first row; L_T = log .2 + log .25
    teacher = ids_of(TEACHER, "abc", "d")
    found = steps_of(ids_of(STUDENT, "ab", "cd"), scores_of(teacher, [FIRST, {"d": 0.25, "a": 0.75}]))
    assert found == pytest.approx(np.log([0.7, 0.2 * 0.25 / 0.7]), rel=1e-6)


def test_a_prefix_within_the_second_of_several_teacher_tokens() -> None:
    # |ab|cd| meets |a|bcd|. Behind "a", b, bc and bcd make the student begin with |ab|; so do abcd, abc and
    # ab at once: M_1 = .7 + .05 * (.1 + .3 + .5); L_T = log .05 + log .5
    rows = [FIRST, {"bcd": 0.5, "b": 0.1, "bc": 0.3, "d": 0.1}]
    scores = scores_of(ids_of(TEACHER, "a", "bcd"), rows)
    found = steps_of(ids_of(STUDENT, "ab", "cd"), scores)
    assert found == pytest.approx(np.log([0.745, 0.05 * 0.5 / 0.745]), rel=1e-6)


def test_a_segmentation_the_trie_does_not_hold_is_unknown() -> None:
    # the student's own tokens of "abcd" are |ab|cd|, not |a|b|cd|
    scores = scores_of(ids_of(TEACHER, "abcd"), [FIRST])
    found = steps_of(ids_of(STUDENT, "a", "b", "cd"), scores)
    assert np.isnan(found).all()
    # |a|bcd|, but the student divides |a|b|cd|: behind "a", "bcd" would make it begin with |ab|
    teacher = ids_of(TEACHER, "abc", "d")
    found = steps_of(ids_of(STUDENT, "a", "b", "cd"), scores_of(teacher, [FIRST, {"d": 1.0}]))
    assert np.isnan(found).all()


def test_chunks_that_do_not_count_have_none() -> None:
    student, teacher = ids_of(STUDENT, "ab", "cd", "<stop>"), ids_of(TEACHER, "abcd", "<stop>")
    scores = scores_of(teacher, [FIRST, {"<stop>": 0.5, "a": 0.5}])
    found = MARGINALS.steps(student, scores, align(student, teacher), np.array([False, True]))
    assert np.isnan(found).tolist() == [True, True, False]
    assert found[2] == pytest.approx(np.log(0.5), rel=1e-6)


@pytest.mark.parametrize("missing", ["tokens", "full_logp"])
def test_what_is_needed_of_the_scores(missing: str) -> None:
    teacher = ids_of(TEACHER, "abcd")
    whole = scores_of(teacher, [FIRST])
    given = {"full_logp": whole.full_logp, "tokens": teacher, missing: None}
    with pytest.raises(ValueError, match="marginal credit needs; ask the teacher"):
        steps_of_any = TeacherScores(logp=whole.logp, missing=whole.missing, **given)
        MARGINALS.steps(ids_of(STUDENT, "ab", "cd"), steps_of_any, align(teacher, teacher), np.ones(1, bool))


# --- against the definition


def naive(student: TokenText, scores: TeacherScores) -> list[float] | None:
    """log M_i of the one chunk of a response, trying every teacher token behind every realised prefix."""
    teacher, rows = scores.tokens, scores.full_logp
    assert teacher is not None and rows is not None
    full = rows.rows(slice(None))
    masses = []
    for i in range(1, len(student)):
        end, mass, realised = int(student.bounds[i]), 0.0, False
        for k in range(len(teacher)):
            if teacher.bounds[k] >= end:
                break
            before = teacher.data[: teacher.bounds[k]]
            path = float(np.exp(scores.logp[:k].astype(np.float64).sum()))
            for w in range(TEACHER.num_ids):
                text = before + TEACHER.token_bytes(w)
                if len(text) < end or STUDENT.encode(text).ids[:i].tolist() != student.ids[:i].tolist():
                    continue
                mass += path * float(np.exp(np.float64(full[k, w])))
                realised |= w == teacher.ids[k] and teacher.bounds[k + 1] > end
        if not realised:
            return None
        masses.append(float(np.log(mass)))
    return masses


@st.composite
def cases(draw: st.DrawFn) -> tuple[TokenText, TeacherScores]:
    """The student's own or odd tokens and any teacher tokens of one text, with whole rows."""

    def divided(side: Tokenization, data: bytes) -> TokenText:
        known = {side.token_bytes(i): i for i in range(side.num_ids) if side.token_bytes(i)}
        ids, at = [], 0
        while at < len(data):
            fits = [data[at:stop] for stop in range(at + 1, len(data) + 1) if data[at:stop] in known]
            word = draw(st.sampled_from(fits))
            ids.append(known[word])
            at += len(word)
        return side.view(ids)

    data = draw(st.text("abcd", min_size=1, max_size=7)).encode()
    student = STUDENT.encode(data) if draw(st.booleans()) else divided(STUDENT, data)
    teacher = TEACHER.encode(data) if draw(st.booleans()) else divided(TEACHER, data)
    seed = draw(st.integers(0, 2**32 - 1))
    mass = np.random.default_rng(seed).dirichlet(np.full(TEACHER.num_ids, 0.5), len(teacher)) + 1e-6
    full = np.log(mass / mass.sum(axis=1, keepdims=True)).astype(np.float32)
    logp = full[np.arange(len(teacher)), teacher.ids]
    missing = np.zeros(len(teacher), np.uint8)
    return student, TeacherScores(logp=logp, missing=missing, full_logp=HeldLogp(full), tokens=teacher)


@given(cases())
@settings(max_examples=200, deadline=None)
def test_steps_by_their_definition(case: tuple[TokenText, TeacherScores]) -> None:
    student, scores = case
    assert scores.tokens is not None
    alignment = align(student, scores.tokens)
    found = steps_of(student, scores)
    for c in range(alignment.num_chunks):
        s = slice(*alignment.student_bounds[c : c + 2].tolist())
        t = slice(*alignment.teacher_bounds[c : c + 2].tolist())
        part = TeacherScores(
            logp=scores.logp[t],
            missing=scores.missing[t],
            full_logp=HeldLogp(scores.full_logp.rows(t)),  # type: ignore[union-attr]
            tokens=TEACHER.view(scores.tokens.ids[t]),
        )
        whole = float(scores.logp[t].astype(np.float64).sum())
        masses = naive(STUDENT.view(student.ids[s]), part)
        if t.stop - t.start == 1 and masses is not None:
            # one teacher token has to be spelled by just these student tokens
            own = STUDENT.encode(student.data[student.bounds[s.start] : student.bounds[s.stop]])
            masses = masses if own.ids.tolist() == student.ids[s].tolist() else None
        if masses is None:
            assert np.isnan(found[s]).all()
        else:
            assert found[s] == pytest.approx(np.diff([0.0, *masses, whole]), rel=1e-5, abs=1e-5)
            assert found[s].sum() == pytest.approx(whole, rel=1e-12)
            assert (found[s] <= 1e-6).all()


# --- as supervision


@pytest.mark.parametrize("canonical", [True, False])
def test_marginal_credit_of_a_response(canonical: bool) -> None:
    words = ("ab", "cd") if canonical else ("a", "b", "cd")
    student, teacher = ids_of(STUDENT, *words), ids_of(TEACHER, "abcd")
    ours = np.log(np.full(len(words), 0.5, np.float32))
    rollout = Rollout(
        prompt=Prompt(key="p", text="x"),
        sample=0,
        context_ids=np.array([1]),
        completion=student,
        behaviour_logp=ours,
    )
    scores, alignment = scores_of(teacher, [FIRST]), align(student, teacher)
    config = MethodConfig(guard="off")
    found = build_marginal(TABLES, config)(rollout, scores, alignment).credit
    behind = build_marginal_rtg(TABLES, config)(rollout, scores, alignment).credit
    total = np.log(0.4) - len(words) * np.log(0.5)
    if canonical:
        # r - p = log(.7 / .5), log(.4 / .7 / .5)
        assert found == pytest.approx(np.log([1.4, 0.8 / 0.7]), rel=1e-5)
        assert behind == pytest.approx([total, np.log(0.8 / 0.7)], rel=1e-5)
    else:
        assert found == pytest.approx([total / 3] * 3, rel=1e-5)
        assert behind == pytest.approx([total] * 3, rel=1e-5)
    assert set(CREDITS) >= {"marginal", "marginal_rtg"}
