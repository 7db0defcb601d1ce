"""Rows of a top-k teacher as intervals: what the whole teacher says lies in them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import toy
from dragoman.alignment import align
from dragoman.config import MethodConfig
from dragoman.supervise.rows import bpm, gkd, retok
from dragoman.text import PairTables, Tokenization
from dragoman.types import Rows, TeacherScores, TokenText
from responses import pair_names, scored, texts, tiny_sides, written

ROUNDING = 1e-6


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], PairTables]:
    sides: dict[str, Tokenization] = tiny_sides(tmp_path_factory.mktemp("intervals"))
    return {(s, t): PairTables(sides[s], sides[t]) for s in sides for t in sides}


def masses(rows: Rows, index: int) -> dict[int, float]:
    own = slice(int(rows.bounds[index]), int(rows.bounds[index + 1]))
    return dict(zip(rows.ids[own].tolist(), np.exp(rows.logp[own].astype(np.float64)).tolist(), strict=True))


@pytest.mark.parametrize("name", ["bpm", "retok", "gkd"])
@given(
    pair=pair_names,
    data=texts,
    stopped=st.booleans(),
    topk=st.sampled_from([1, 5, 40]),
    seed=st.integers(0, 2**16),
)
def test_what_is_not_among_the_likely_tokens_is_in_the_residual(
    pairs: dict[tuple[str, str], PairTables],
    name: str,
    pair: tuple[str, str],
    data: bytes,
    stopped: bool,
    topk: int,
    seed: int,
) -> None:
    """Where the teacher draws a token that covers the sampled one, each mass is the known one or more, by no
    more than the residual."""
    tables = pairs[pair if name != "gkd" else (pair[0], pair[0])]
    student = written(tables.student, data, stopped, np.random.default_rng(seed))
    teacher = written(tables.teacher, data, stopped, np.random.default_rng(seed + 1))
    alignment = align(student, teacher)

    def rows_of(topk: int | None) -> Rows:
        scores: TeacherScores = scored(tables.teacher, teacher, topk, np.random.default_rng(seed + 2))
        build = {"bpm": bpm.build, "retok": retok.build, "gkd": gkd.build}[name]
        text: TokenText = student
        found = build(tables, MethodConfig(row_topk=None))(toy.rollout_of(text), scores, alignment).rows
        assert found is not None
        return found

    known, whole = rows_of(topk), rows_of(None)
    firsts = zip(alignment.student_bounds[:-1].tolist(), alignment.teacher_bounds[:-1].tolist(), strict=True)
    for index, place in firsts:
        if not (known.has_row[index] and whole.has_row[index]):
            continue
        if len(student.token_bytes(index)) > len(teacher.token_bytes(place)):
            continue  # mass is taken out of a beginning's, as much as is known of what follows it
        least, true = masses(known, index), masses(whole, index)
        width = float(known.residual[index])
        for token, mass in true.items():
            low = least.get(token, 0.0)
            assert low - ROUNDING <= mass <= low + width + ROUNDING
        assert sum(least.values()) <= sum(true.values()) + ROUNDING
