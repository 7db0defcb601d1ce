"""What the student's tokenizer makes of a text and a teacher token, where the text alone is asked about."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.supervise.rows import longer
from dragoman.supervise.rows.longer import Continued
from dragoman.text import PairTables, Tokenization
from responses import NAMES, pair_names, texts, tiny_sides


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenization]:
    return tiny_sides(tmp_path_factory.mktemp("continued"))


Asked = dict[tuple[str, str], tuple[Continued, Continued]]


@pytest.fixture(scope="module")
def asked(sides: dict[str, Tokenization]) -> Asked:
    """The answers, and those of a tokenizer that is asked about every string as a whole."""
    pairs = [PairTables(sides[s], sides[t]) for s in NAMES for t in NAMES]
    quick = [Continued(pair) for pair in pairs]
    known = [sum(own._divided) for own in quick]
    assert all((many > 40) != pair.same_ids for many, pair in zip(known, pairs, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(longer, "divided_before_space", lambda side: np.zeros(256, bool))
        plain = [Continued(pair) for pair in pairs]
        assert not any(sum(own._divided) for own in plain)
    names = [(s, t) for s in NAMES for t in NAMES]
    return dict(zip(names, zip(quick, plain, strict=True), strict=True))


@given(pair_names, texts, st.integers(1, 8), st.integers(0, 3), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_the_answers_are_those_of_whole_strings(
    sides: dict[str, Tokenization],
    asked: Asked,
    names: tuple[str, str],
    text: bytes,
    num_last: int,
    num_written: int,
    seed: int,
) -> None:
    """The last tokens of a text, its own and now and then others, before tokens of any kind."""
    student, teacher = (sides[name] for name in names)
    random = np.random.default_rng(seed)
    ids = student.encode(text).ids[-num_last:]
    if random.random() < 0.2:
        ids = random.choice(student.words.order.ids, num_last)
    data = student.spell(ids).data
    following = np.sort(random.choice(teacher.num_ids, 40, replace=False))
    quick, plain = asked[names]
    written = tuple(ids[:num_written].tolist())
    assert quick(written, data, following).tolist() == plain(written, data, following).tolist()
