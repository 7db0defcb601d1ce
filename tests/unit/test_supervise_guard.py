"""What supervision by rows costs, by counts that no busy machine changes: calls of functions and of the
student's tokenizer, and arrays of the size of a vocabulary."""

from __future__ import annotations

import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import dragoman
import tiny
import toy
from dragoman.alignment import align
from dragoman.config import MethodConfig
from dragoman.supervise.rows import bpm, canon, escd, retok, shared
from dragoman.supervise.sampled import Build
from dragoman.supervise.xtoken import build_pkl
from dragoman.text import PairTables, Tokenization
from dragoman.text.encoding import Encoder
from dragoman.types import Alignment, Rollout, TeacherScores

SOURCE = str(Path(dragoman.__file__).parent)
TEXT = b"the quick brown fox jumps over the lazy dog, and then the other thing there\n"
PADDED = 1 << 20
"""Ids of both embeddings, most of them without a token."""
METHODS: dict[str, tuple[Build, int, float, int]] = {
    # For a student token, calls of dragoman's functions, of the tokenizer (for ten tokens), and its strings.
    "shared": (shared.build, 16, 0, 0),
    "bpm": (bpm.build, 19, 0, 0),
    "retok": (retok.build, 18, 0, 0),
    "escd": (escd.build, 32, 0, 0),
    "xtoken": (build_pkl, 12, 0, 0),
    "canon": (canon.build, 150, 0.1, 20),
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> PairTables:
    folder = tmp_path_factory.mktemp("pair")
    sides = []
    for make, name in ((tiny.byte_level, "s"), (tiny.sentencepiece, "t")):
        place = make(folder / name)
        (place / "config.json").write_text(json.dumps({"vocab_size": PADDED}))
        sides.append(Tokenization.from_pretrained(str(place)))
    return PairTables(*sides)


def response(tables: PairTables, seed: int) -> tuple[Rollout, TeacherScores, Alignment]:
    """A response of about 200 tokens, with rows of 16 teacher tokens."""
    rng = np.random.default_rng(seed)
    words = TEXT.split()
    data = b" ".join(words[n] for n in rng.integers(0, len(words), 80))
    student, teacher = tables.student.encode(data), tables.teacher.encode(data)
    others = rng.permuted(np.tile(tables.teacher_bytes.ids, (len(teacher), 1)), axis=1)[:, :15]
    others = np.where(others == teacher.ids[:, None], tables.teacher_bytes.ids[0], others)
    logp = np.tile(np.log(np.array([0.5, *[0.03] * 15], np.float32)), (len(teacher), 1))
    scores = TeacherScores(
        logp=logp[:, 0],
        missing=np.zeros(len(teacher), np.uint8),
        tokens=teacher,
        topk_ids=np.concatenate([teacher.ids[:, None], others], axis=1).astype(np.int32),
        topk_logp=logp,
    )
    return toy.rollout_of(student), scores, align(student, teacher)


def work(tables: PairTables, build: Build) -> tuple[Callable[[], Any], int]:
    """The supervision of a response, and its tokens; all tables are made, as it is not the first."""
    supervise = build(tables, MethodConfig())
    supervise(*response(tables, 0))
    rollout, scores, alignment = response(tables, 1)
    return lambda: supervise(rollout, scores, alignment), len(rollout.completion)


def calls(job: Callable[[], Any]) -> int:
    """How many functions of dragoman a job calls, comprehensions apart."""
    found = 0

    def count(frame: FrameType, what: str, _: Any) -> None:
        nonlocal found
        code = frame.f_code
        found += what == "call" and code.co_filename.startswith(SOURCE) and code.co_name[0] != "<"

    sys.setprofile(count)
    try:
        job()
    finally:
        sys.setprofile(None)
    return found


@pytest.mark.parametrize("name", METHODS)
def test_a_token_takes_few_calls(tables: PairTables, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build, most, most_questions, most_strings = METHODS[name]
    job, num_tokens = work(tables, build)
    questions = strings = 0
    plain = Encoder.many

    def many(self: Encoder, data: Any) -> Any:
        nonlocal questions, strings
        questions += 1
        strings += len(data)
        return plain(self, data)

    monkeypatch.setattr(Encoder, "many", many)
    found = calls(job) / num_tokens
    assert found <= most
    assert 10 * questions / num_tokens <= most_questions
    assert strings / num_tokens <= most_strings


@pytest.mark.parametrize("name", METHODS)
def test_no_array_is_as_long_as_a_vocabulary(tables: PairTables, name: str) -> None:
    job, _ = work(tables, METHODS[name][0])
    tracemalloc.start()
    try:
        job()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # One row of float64 alone
    assert peak < 8 * PADDED
