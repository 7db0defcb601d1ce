"""Tables and rows of the largest real pair: Gemma 3's 262 thousand ids for SmolLM2's 49 thousand."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import toy
from dragoman.alignment import align
from dragoman.config import MethodConfig
from dragoman.supervise.rows import bpm, escd, retok, shared
from dragoman.supervise.sampled import Build
from dragoman.text import NOWHERE, PairTables, Tokenization
from dragoman.types import HeldLogp, RowLabel, TeacherScores

TEXT = "The interpreter's unbelievable café — naïve 数学 🙂\n    return x[123456]  # ok\n".encode()


@pytest.fixture(scope="module")
def tables(asset: Callable[[str], Path]) -> PairTables:
    student = Tokenization.from_pretrained(str(asset("smollm2-135m-instruct")))
    return PairTables(student, Tokenization.from_pretrained(str(asset("gemma-3-270m"))))


def test_tables_take_seconds(tables: PairTables) -> None:
    start = time.perf_counter()
    sizes = {
        "same": (tables.student_of_teacher != NOWHERE).sum(),
        "prefix": (tables.longest_prefix != NOWHERE).sum(),
        "first": (tables.first_token != NOWHERE).sum(),
        "order": len(tables.teacher_bytes.ids),
        "trie": len(tables.spelling_order.ids),
    }
    # about 4 s on two cores
    assert time.perf_counter() - start < 60
    assert (tables.student.num_ids, tables.teacher.num_ids) == (49152, 262144)
    # SmolLM2 has 24 bytes less than all
    assert sizes["prefix"] == sizes["first"] == sizes["trie"] and sizes["order"] - sizes["first"] < 30
    assert 45_000 < sizes["same"] < 50_000
    assert (
        tables.longest_prefix[tables.teacher.encode(b" the").ids[0]] == tables.student.encode(b" the").ids[0]
    )


def test_spellings_are_the_tokenizers_own(tables: PairTables) -> None:
    random = np.random.default_rng(0)
    vocabulary = tables.teacher.vocabulary_bytes()
    for w in random.choice(tables.teacher_bytes.ids, 500).tolist():
        own = tables.student.encode(vocabulary[w])
        assert tables.spelling(w).tolist() == (own.ids.tolist() if own.data == vocabulary[w] else [])
        assert vocabulary[w].startswith(tables.student.token_bytes(int(tables.longest_prefix[w])))


@pytest.mark.parametrize("build", [shared.build, bpm.build, retok.build, escd.build])
@pytest.mark.parametrize("full", [True, False])
def test_rows_of_a_real_pair(tables: PairTables, build: Build, full: bool) -> None:
    student, teacher = tables.student.encode(TEXT), tables.teacher.encode(TEXT)
    random = np.random.default_rng(1)
    logits = random.normal(scale=3.0, size=(len(teacher), tables.teacher.num_ids))
    logits[np.arange(len(teacher)), teacher.ids] += 14.0
    logp = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
    ids = np.argsort(-logp, axis=1)[:, :128]
    rows_known = (
        {"full_logp": HeldLogp(logp)}
        if full
        else {
            "topk_ids": ids.astype(np.int32),
            "topk_logp": np.take_along_axis(logp, ids, axis=1),
        }
    )
    scores = TeacherScores(
        logp=logp[np.arange(len(teacher)), teacher.ids],
        missing=np.zeros(len(teacher), np.uint8),
        tokens=teacher,
        **rows_known,
    )
    alignment = align(student, teacher)
    found = build(tables, MethodConfig())(toy.rollout_of(student), scores, alignment)
    rows = found.rows
    assert rows is not None and alignment.coverage == 1.0
    single = np.flatnonzero(
        (np.diff(alignment.student_bounds) == 1) & (np.diff(alignment.teacher_bounds) == 1)
    )
    assert rows.has_row[alignment.student_bounds[single]].all()
    if build not in (shared.build, escd.build):
        assert rows.has_row.all()
    assert set(rows.label.tolist()) <= {RowLabel.NONE, RowLabel.HEURISTIC}
    for index in np.flatnonzero(rows.has_row).tolist():
        mass = np.exp(rows.logp[rows.bounds[index] : rows.bounds[index + 1]].astype(np.float64))
        assert mass.sum() + rows.residual[index] == pytest.approx(1.0, abs=1e-5)
