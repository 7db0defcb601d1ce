"""Rows of every method over tiny tokenizers, random text and random teachers: mass one, equal limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import toy
from dragoman.alignment import align
from dragoman.config import MethodConfig
from dragoman.supervise.rows import bpm, escd, gkd, retok, shared
from dragoman.supervise.sampled import Build
from dragoman.text import PairTables, Tokenization
from dragoman.types import DropReason, RowLabel, Supervision, TeacherScores, TokenText
from responses import pair_names, scored, texts, tiny_sides, written

BUILDS: dict[str, Build] = {
    "shared": shared.build,
    "bpm": bpm.build,
    "retok": retok.build,
    "escd": escd.build,
}


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenization]:
    return tiny_sides(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def pairs(sides: dict[str, Tokenization]) -> dict[tuple[str, str], PairTables]:
    return {(s, t): PairTables(sides[s], sides[t]) for s in sides for t in sides}


def supervised(
    build: Build, tables: PairTables, student: TokenText, scores: TeacherScores, row_topk: int | None
) -> Supervision:
    assert scores.tokens is not None
    config = MethodConfig(row_topk=row_topk)
    return build(tables, config)(toy.rollout_of(student), scores, align(student, scores.tokens))


@pytest.mark.parametrize("name", BUILDS)
@given(
    pair=pair_names,
    data=texts,
    stopped=st.booleans(),
    topk=st.sampled_from([None, 1, 20]),
    row_topk=st.sampled_from([None, 1, 8]),
    seed=st.integers(0, 2**16),
)
def test_candidates_and_residual_have_mass_one(
    pairs: dict[tuple[str, str], PairTables],
    name: str,
    pair: tuple[str, str],
    data: bytes,
    stopped: bool,
    topk: int | None,
    row_topk: int | None,
    seed: int,
) -> None:
    tables, random = pairs[pair], np.random.default_rng(seed)
    student = written(tables.student, data, stopped, random)
    scores = scored(tables.teacher, written(tables.teacher, data, stopped, random), topk, random)
    found = supervised(BUILDS[name], tables, student, scores, row_topk)
    rows = found.rows
    assert rows is not None
    for index in range(len(rows)):
        own = slice(int(rows.bounds[index]), int(rows.bounds[index + 1]))
        mass = np.exp(rows.logp[own].astype(np.float64))
        if rows.has_row[index]:
            assert mass.sum() + rows.residual[index] == pytest.approx(1.0, abs=1e-6)
            assert len(mass) and rows.residual[index] >= 0.0
        else:
            assert not len(mass) and rows.residual[index] == 0.0
        limit = 2 * (row_topk or tables.teacher.num_ids)
        assert len(mass) <= limit if name == "escd" or row_topk is None else len(mass) <= row_topk
        if name != "escd":
            ids = rows.ids[own]
            assert len(set(ids.tolist())) == len(ids)
    stops = sorted(tables.student.stop_ids)[1:]
    assert not np.isin(rows.ids, stops).any() or name == "escd"
    # A token is trained on if it has a row, else exactly one reason says why not.
    assert ((found.weight > 0) == rows.has_row).all()
    assert ((found.reason == DropReason.NONE) == rows.has_row).all()
    if not tables.same_ids:
        assert not np.isin(rows.label, [RowLabel.EXACT, RowLabel.LOWER]).any()


@given(
    side=st.sampled_from(["byte-level", "sentencepiece"]),
    data=texts,
    stopped=st.booleans(),
    topk=st.sampled_from([None, 5]),
    row_topk=st.sampled_from([None, 4]),
    seed=st.integers(0, 2**16),
)
def test_equal_tokenizers_give_the_same_rows_under_every_method(
    pairs: dict[tuple[str, str], PairTables],
    side: str,
    data: bytes,
    stopped: bool,
    topk: int | None,
    row_topk: int | None,
    seed: int,
) -> None:
    tables, random = pairs[side, side], np.random.default_rng(seed)
    text = written(tables.student, data, stopped, random)
    scores = scored(tables.teacher, text, topk, random)
    plain = supervised(gkd.build, tables, text, scores, row_topk).rows
    assert plain is not None and (plain.label == RowLabel.EXACT).all()
    for build in BUILDS.values():
        rows = supervised(build, tables, text, scores, row_topk).rows
        assert rows is not None
        for name in ("bounds", "ids", "logp", "residual", "label"):
            np.testing.assert_array_equal(getattr(rows, name), getattr(plain, name))
    # and these are the teacher's: the sampled token has its own log-prob
    for index, target in enumerate(text.ids.tolist()):
        own = slice(int(plain.bounds[index]), int(plain.bounds[index + 1]))
        name_of = min(tables.student.stop_ids) if target in tables.student.stop_ids else target
        (place,) = np.flatnonzero(plain.ids[own] == name_of).tolist()
        assert plain.logp[own][place] == pytest.approx(float(scores.logp[index]), abs=1e-4)
