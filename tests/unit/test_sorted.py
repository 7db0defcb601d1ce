"""Supervision of `uld`, `gold` and X-Token: ranks and rows at the starts of chunks, on small vocabularies."""

from __future__ import annotations

import numpy as np
import pytest

from dragoman.alignment import align
from dragoman.config import MethodConfig
from dragoman.errors import ConfigError
from dragoman.supervise.sorted import adaptive_row_coef, build_gold, build_uld, largest_first, padded
from dragoman.supervise.xtoken import Projection, build_hkl, build_pkl, projection, top_map
from dragoman.text import NOWHERE, PairTables, Tokenization
from dragoman.types import (
    Alignment,
    DropReason,
    HeldLogp,
    Prompt,
    Rollout,
    RowLabel,
    Rows,
    StopReason,
    Supervision,
    TeacherScores,
)
from tiny import byte_level, sentencepiece

TEXT = b"The interpreter said every sentence twice, byte by byte."
Case = tuple[Rollout, TeacherScores, Alignment]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> PairTables:
    """Two spellings of bytes; either side has tokens that the other divides."""
    folder = tmp_path_factory.mktemp("pair")
    student = Tokenization.from_pretrained(str(byte_level(folder / "student", vocab_size=420)))
    teacher = Tokenization.from_pretrained(str(sentencepiece(folder / "teacher")))
    return PairTables(student, teacher)


@pytest.fixture(scope="module")
def equal(tmp_path_factory: pytest.TempPathFactory) -> PairTables:
    folder = byte_level(tmp_path_factory.mktemp("equal") / "both", vocab_size=320)
    both = Tokenization.from_pretrained(str(folder))
    return PairTables(both, both)


def config(**values: object) -> MethodConfig:
    return MethodConfig.model_validate({"row_topk": None, **values})


def response(tables: PairTables, *, topk: int | None = None, seed: int = 0) -> Case:
    """TEXT and a stop, with random rows of the teacher: whole ones, or the `topk` most likely tokens."""
    student = tables.student.view([*tables.student.encode(TEXT), min(tables.student.stop_ids)])
    tokens = tables.teacher.view([*tables.teacher.encode(TEXT), min(tables.teacher.stop_ids)])
    rng = np.random.default_rng(seed)
    full = np.log(rng.dirichlet(np.full(tables.teacher.num_ids, 0.1), len(tokens))).clip(-60.0)
    full -= np.log(np.exp(full).sum(axis=1, keepdims=True))
    best = np.argsort(-full, axis=1)[:, : topk or 0]
    stops = sorted(tables.teacher.stop_ids)
    logp = full[np.arange(len(tokens)), tokens.ids]
    logp[-1] = np.logaddexp.reduce(full[-1, stops])
    scores = TeacherScores(
        logp=logp.astype(np.float32),
        missing=np.zeros(len(tokens), np.uint8),
        full_logp=None if topk else HeldLogp(full.astype(np.float32)),
        topk_ids=best.astype(np.int32) if topk else None,
        topk_logp=np.take_along_axis(full, best, axis=1).astype(np.float32) if topk else None,
        tokens=tokens,
    )
    rollout = Rollout(
        prompt=Prompt(key="p", text="x"),
        sample=0,
        context_ids=np.array([7]),
        completion=student,
        behaviour_logp=np.full(len(student), -1.0, np.float32),
        stop=StopReason.STOP,
    )
    return rollout, scores, align(student, tokens)


def starts(alignment: Alignment) -> list[tuple[int, int]]:
    """First student and first teacher token of every chunk."""
    bounds = alignment.student_bounds[:-1], alignment.teacher_bounds[:-1]
    return list(zip(*(side.tolist() for side in bounds), strict=True))


def teacher_mass(tables: PairTables, scores: TeacherScores, place: int) -> np.ndarray:
    """A whole row, its stops at the smallest of them."""
    assert scores.full_logp is not None
    mass = np.exp(scores.full_logp.rows(slice(place, place + 1))[0].astype(np.float64))
    stops = sorted(tables.teacher.stop_ids)
    whole = float(mass[stops].sum())
    mass[stops] = 0.0
    mass[stops[0]] = whole
    mass /= mass.sum()
    return mass


def row(rows: Rows, index: int) -> dict[tuple[int, ...], float]:
    """Probability by the member ids of each candidate."""
    found = {}
    for k in range(int(rows.bounds[index]), int(rows.bounds[index + 1])):
        span = (k, k + 1) if rows.member_bounds is None else rows.member_bounds[k : k + 2].tolist()
        found[tuple(rows.ids[slice(*span)].tolist())] = float(np.exp(rows.logp[k]))
    return found


def check_coverage(found: Supervision, alignment: Alignment) -> None:
    """Trained on are the first tokens of chunks, all others say that they have no row."""
    first = {s for s, _ in starts(alignment)}
    assert len(first) < len(found.weight), "some chunk has several tokens"
    for index, (weight, reason) in enumerate(zip(found.weight, found.reason, strict=True)):
        assert weight == (index in first)
        assert reason == (DropReason.NONE if index in first else DropReason.NO_ROW)
    assert found.credit is None


# --- uld


def test_uld_lists_all_probabilities_by_rank(tables: PairTables) -> None:
    case = rollout, scores, alignment = response(tables)
    supervise = build_uld(tables, config())
    found = supervise(*case)
    check_coverage(found, alignment)
    assert supervise.sorted_ids is None and found.rows is None and found.sorted_logp is not None
    for s, t in starts(alignment):
        expected = np.sort(teacher_mass(tables, scores, t))[::-1]
        expected = expected[expected > 0]
        assert np.exp(found.sorted_logp[s][: len(expected)]) == pytest.approx(expected, rel=1e-5)
        assert (found.sorted_logp[s][len(expected) :] == -np.inf).all()
    short = build_uld(tables, config(row_topk=5))(*case)
    assert short.sorted_logp is not None and short.sorted_logp.shape == (len(rollout.completion), 5)
    assert (short.sorted_logp == found.sorted_logp[:, :5]).all()


def test_ranks() -> None:
    assert largest_first(np.array([0.1, 0.0, 0.6, 0.3]), None).tolist() == [0.6, 0.3, 0.1]
    assert largest_first(np.array([0.1, 0.0, 0.6, 0.3]), 2).tolist() == [0.6, 0.3]
    assert padded({}, 2).tolist() == [[-np.inf], [-np.inf]]
    assert np.exp(padded({1: np.array([0.6, 0.3])}, 2)) == pytest.approx(np.array([[0, 0], [0.6, 0.3]]))


# --- gold


def test_gold_divides_the_teachers_mass(tables: PairTables) -> None:
    _, scores, alignment = case = response(tables)
    supervise = build_gold(tables, config())
    found = supervise(*case)
    check_coverage(found, alignment)
    assert found.rows is not None and found.sorted_logp is not None
    common = tables.student_of_teacher
    assert supervise.sorted_ids is not None
    assert set(supervise.sorted_ids.tolist()) == set(range(tables.student.num_ids)) - set(common.tolist())
    for s, t in starts(alignment):
        mass = teacher_mass(tables, scores, t)
        got = row(found.rows, s)
        expected = {(int(u),): 0.0 for u in common if u != NOWHERE}
        for w, u in enumerate(common.tolist()):
            if u != NOWHERE:
                expected[(u,)] += mass[w]
        assert got == pytest.approx({u: p for u, p in expected.items() if p > 0}, rel=1e-5)
        # What is common and what is not are all there is
        assert np.exp(found.sorted_logp[s]).sum() == pytest.approx(found.rows.residual[s], rel=1e-5)
        assert sum(got.values()) + found.rows.residual[s] == pytest.approx(1.0, abs=1e-6)


def test_gold_of_the_most_likely_tokens(tables: PairTables) -> None:
    _, _, alignment = case = response(tables, topk=6)
    found = build_gold(tables, config(row_topk=3))(*case)
    assert found.rows is not None and found.sorted_logp is not None
    assert (found.rows.num_candidates <= 3).all() and found.sorted_logp.shape[1] <= 3
    for s, _ in starts(alignment):
        # Ranks are part of the residual, which also has the tail
        assert np.exp(found.sorted_logp[s]).sum() <= found.rows.residual[s] + 1e-6


def test_adaptive_weights(tables: PairTables, equal: PairTables) -> None:
    share = (tables.student_of_teacher != NOWHERE).sum() / tables.teacher.num_ids
    assert adaptive_row_coef(tables) == pytest.approx(share / (1 - share))
    assert 0.0 < share < 1.0
    assert adaptive_row_coef(equal) == 1.0


# --- X-Token


def dense_projection(tables: PairTables) -> np.ndarray:
    """W by its definition, one student token at a time."""
    whole = np.zeros((tables.student.num_ids, tables.teacher.num_ids))
    same = dict(zip(tables.shared.student_ids.tolist(), tables.shared.teacher_ids.tolist(), strict=True))
    for u, data in enumerate(tables.student.vocabulary_bytes()):
        if u in same:
            whole[u, same[u]] = 1.0
        elif data:
            for i, w in enumerate(list(tables.teacher.encode(data))[:4]):
                whole[u, w] += 0.9 * 0.1**i
    whole[min(tables.student.stop_ids), min(tables.teacher.stop_ids)] = 1.0
    whole /= np.maximum(whole.sum(axis=1, keepdims=True), 1e-30)
    return whole


def as_dense(columns: Projection, num_student: int) -> np.ndarray:
    whole = np.zeros((num_student, len(columns.sizes)))
    whole[columns.ids, np.repeat(np.arange(len(columns.sizes)), columns.sizes)] = columns.weight
    return whole


def test_the_projection_by_its_definition(tables: PairTables) -> None:
    got = as_dense(projection(tables), tables.student.num_ids)
    np.testing.assert_allclose(got, dense_projection(tables), atol=1e-12)
    assert ((got > 0.0) & (got < 1.0)).any(), "some student token is several of the teacher's"


def test_the_projection_has_four_weights_at_most(
    tables: PairTables, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # A teacher of little more than bytes
    folder = byte_level(tmp_path_factory.mktemp("bytes") / "teacher", vocab_size=262)
    pair = PairTables(tables.student, Tokenization.from_pretrained(str(folder)))
    assert any(len(pair.teacher.encode(data)) > 4 for data in pair.student.vocabulary_bytes())
    got = as_dense(projection(pair), pair.student.num_ids)
    np.testing.assert_allclose(got, dense_projection(pair), atol=1e-12)
    assert (got > 0).sum(axis=1).max() == 4


def test_weights_by_hand(tables: PairTables) -> None:
    # A student token of two teacher tokens: .9 / .99 and .09 / .99
    spelled = PairTables(tables.teacher, tables.student)
    two = next(
        u
        for u in np.flatnonzero(np.diff(spelled.spelling_bounds) == 2).tolist()
        if u not in tables.shared.student_ids and len(set(spelled.spelling(u).tolist())) == 2
    )
    got = as_dense(projection(tables), tables.student.num_ids)[two, spelled.spelling(two)]
    assert got == pytest.approx([0.9 / 0.99, 0.09 / 0.99])


def test_pkl_is_the_kl_to_the_projected_student(tables: PairTables) -> None:
    _, scores, alignment = case = response(tables)
    found = build_pkl(tables, config())(*case)
    check_coverage(found, alignment)
    rows = found.rows
    assert rows is not None and rows.member_bounds is not None and rows.log_weight is not None
    student = np.random.default_rng(5).dirichlet(np.ones(tables.student.num_ids))
    projected = student @ dense_projection(tables)
    members = np.exp(rows.log_weight) * student[rows.ids]
    got = np.add.reduceat(members, rows.member_bounds[:-1])
    for s, t in starts(alignment):
        span = slice(int(rows.bounds[s]), int(rows.bounds[s + 1]))
        mass = teacher_mass(tables, scores, t)
        # Teacher tokens in order of their ids, all on which something projects and that have mass
        kept = (projected > 0) & (mass > 0)
        assert np.exp(rows.logp[span]) == pytest.approx(mass[kept], rel=1e-5)
        assert got[span] == pytest.approx(projected[kept], rel=1e-5)
        assert rows.residual[s] == pytest.approx(mass[~kept].sum(), abs=1e-6)
        assert rows.label[s] == RowLabel.HEURISTIC


@pytest.mark.parametrize("topk", [None, 8])
def test_pkl_keeps_the_realised_token(tables: PairTables, topk: int | None) -> None:
    _, scores, alignment = case = response(tables, topk=topk)
    found = build_pkl(tables, config(row_topk=1))(*case)
    columns = projection(tables)
    assert found.rows is not None and scores.tokens is not None
    for s, t in starts(alignment):
        token = int(scores.tokens.ids[t])
        if columns.sizes[token]:
            members = columns.ids[columns.bounds[token] : columns.bounds[token + 1]]
            expected = float(np.exp(scores.logp[t]))
            assert row(found.rows, s) == pytest.approx({tuple(members.tolist()): expected}, rel=1e-5)
            assert found.rows.residual[s] == pytest.approx(1.0 - expected, abs=1e-5)


def test_equal_tokenizers_have_the_teachers_own_rows(equal: PairTables) -> None:
    _, scores, alignment = case = response(equal)
    assert alignment.num_chunks == len(scores.logp)
    for build in (build_gold, build_pkl, build_hkl):
        found = build(equal, config())(*case)
        rows = found.rows
        assert rows is not None and (found.weight == 1.0).all() and (rows.label == RowLabel.EXACT).all()
        assert rows.log_weight is None or (rows.log_weight == 0.0).all()
        for s, t in starts(alignment):
            mass = teacher_mass(equal, scores, t)
            expected = {(int(u),): mass[u] for u in np.flatnonzero(mass)}
            assert row(rows, s) == pytest.approx(expected, rel=1e-5)
            assert rows.residual[s] == pytest.approx(0.0, abs=1e-6)
        if found.sorted_logp is not None:
            assert (found.sorted_logp == -np.inf).all()


def test_hkl_compares_by_rank_what_nothing_goes_to(tables: PairTables) -> None:
    _, scores, alignment = case = response(tables)
    supervise = build_hkl(tables, config())
    found = supervise(*case)
    check_coverage(found, alignment)
    columns = top_map(projection(tables))
    assert supervise.sorted_ids is not None
    assert (np.bincount(columns.ids) <= 1).all() and (columns.weight == 1.0).all()
    assert set(supervise.sorted_ids.tolist()) == set(range(tables.student.num_ids)) - set(
        columns.ids.tolist()
    )
    assert found.rows is not None and found.sorted_logp is not None
    for s, t in starts(alignment):
        mass = teacher_mass(tables, scores, t)
        expected = np.sort(mass[(columns.sizes == 0) & (mass > 0)])[::-1]
        assert np.exp(found.sorted_logp[s][: len(expected)]) == pytest.approx(expected, rel=1e-5)
        assert found.rows.residual[s] == pytest.approx(expected.sum(), abs=1e-6)


def test_the_top_map_by_hand() -> None:
    # Student 0 goes to teacher 1 (.7), student 1 nowhere (.5 each), student 2 to 0
    whole = Projection(
        bounds=np.array([0, 3, 5]), ids=np.array([0, 1, 2, 0, 1]), weight=np.array([0.3, 0.5, 1.0, 0.7, 0.5])
    )
    found = top_map(whole)
    assert (found.bounds.tolist(), found.ids.tolist(), found.weight.tolist()) == (
        [0, 1, 2],
        [2, 0],
        [1.0, 1.0],
    )


# --- all


@pytest.mark.parametrize("build", [build_uld, build_gold, build_pkl, build_hkl])
def test_a_missing_value_drops_its_chunk(tables: PairTables, build: object) -> None:
    rollout, scores, alignment = response(tables)
    chunk = alignment.num_chunks // 2
    place = int(alignment.teacher_bounds[chunk + 1]) - 1
    logp, missing = scores.logp.copy(), scores.missing.copy()
    logp[place], missing[place] = np.nan, DropReason.NON_FINITE
    holed = TeacherScores(logp=logp, missing=missing, full_logp=scores.full_logp, tokens=scores.tokens)
    assert callable(build)
    found = build(tables, config())(rollout, holed, alignment)
    own = alignment.chunk_of == chunk
    assert (found.reason[own] == DropReason.NON_FINITE).all() and not found.weight[own].any()
    assert found.weight.sum() == alignment.num_chunks - 1


@pytest.mark.parametrize("build", [build_uld, build_gold, build_pkl, build_hkl])
def test_a_penalty_is_refused_before_the_run(tables: PairTables, build: object) -> None:
    assert callable(build)
    with pytest.raises(ConfigError, match="penalty"):
        build(tables, config(guard="penalty"))
