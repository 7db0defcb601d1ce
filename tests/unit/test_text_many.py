"""The bytes of ids in bulk: any ids against one at a time, many sequences against each by itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny
from dragoman.errors import TokenizerError
from dragoman.text import Tokenization


@pytest.fixture(scope="module", params=["byte_level", "sentencepiece"])
def tokenization(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenization:
    folder = getattr(tiny, request.param)(tmp_path_factory.mktemp("tokenizer"))
    return Tokenization.from_pretrained(str(folder))


@given(st.data())
def test_spelled_as_token_by_token(tokenization: Tokenization, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenization.num_ids - 1), max_size=30))
    text = tokenization.spell(ids)
    pieces = [tokenization.token_bytes(index) for index in ids]
    assert text.ids.tolist() == ids
    assert [text.token_bytes(i) for i in range(len(text))] == pieces
    assert text.data == b"".join(pieces)
    assert text.event.tolist() == [tokenization.events[index] for index in ids]
    assert text.canonical.all()


def test_events_alone_spell_nothing(tokenization: Tokenization) -> None:
    events = np.flatnonzero(tokenization.events)
    text = tokenization.spell(np.tile(events, 3))
    assert (text.data, text.bounds.any(), len(text)) == (b"", False, 3 * len(events))


def test_many_sequences_are_viewed_as_one_by_one(tokenization: Tokenization) -> None:
    canonical = tokenization.encode("the 漢字 of a word".encode()).ids.tolist()
    broken = tokenization.encode("the 漢".encode()).ids.tolist()[:-1]
    stop = min(tokenization.stop_ids)
    sequences = [canonical, [], [stop], [*canonical, stop, *reversed(canonical)], broken, [stop, *broken]]
    viewed = tokenization.view_many(sequences)
    for many, ids in zip(viewed, sequences, strict=True):
        one = tokenization.view(ids)
        assert many.ids.tolist() == ids
        assert (many.data, many.bounds.tolist()) == (one.data, one.bounds.tolist())
        assert many.event.tolist() == one.event.tolist()
        assert many.canonical.tolist() == one.canonical.tolist()
    assert viewed[0].canonical.all() and not viewed[3].canonical.all()
    assert tokenization.view_many([]) == []


def test_one_wrong_id_among_many(tokenization: Tokenization) -> None:
    wrong = tokenization.num_ids
    with pytest.raises(TokenizerError, match=f"id {wrong} at token 1"):
        tokenization.view_many([[1], [2, wrong]])
    with pytest.raises(TokenizerError, match="id -1 at token 0"):
        tokenization.spell([-1, 2])
