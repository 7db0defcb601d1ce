"""Added tokens that are events: what opens and closes thinking and tool calls."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer

import tiny
from dragoman.errors import TokenizerError
from dragoman.text import Tokenization
from dragoman.types import Event

NAMES = ("<think>", "</think>", "<tool_call>", "</tool_call>")
EVENTS = (Event.THINK_OPEN, Event.THINK_CLOSE, Event.TOOL_OPEN, Event.TOOL_CLOSE)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Tokenization:
    """A byte-level tokenizer of 400 ids, then the four markers as added tokens that are not special."""
    folder = tiny.byte_level(tmp_path_factory.mktemp("markers"))
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.add_tokens([AddedToken(name, special=False, normalized=False) for name in NAMES])
    backend.save(str(folder / "tokenizer.json"))
    return Tokenization.from_pretrained(str(folder))


@pytest.fixture(scope="module")
def marked(plain: Tokenization) -> Tokenization:
    return plain.with_markers({400 + i: event for i, event in enumerate(EVENTS)})


def test_without_markers_they_are_text(plain: Tokenization) -> None:
    assert plain.markers == {}
    text = plain.encode(b"<think>a</think>")
    assert text.ids.tolist()[0] == 400 and not text.event.any()


def test_a_marker_is_an_event_without_bytes(marked: Tokenization) -> None:
    assert dict(marked.markers) == dict(zip(range(400, 404), EVENTS, strict=True))
    word = marked.token_id("The")
    assert word is not None
    text = marked.view([400, word, 401, 402, 403, 0])
    assert text.event.tolist() == [Event.THINK_OPEN, Event.NONE, *EVENTS[1:], Event.STOP]
    assert text.data == b"The"
    assert text.canonical.all()
    assert marked.token_bytes(400) == b"" and marked.is_event(400)
    assert marked.token_name(400) == "<think>"


@pytest.mark.parametrize("name", NAMES)
def test_text_that_spells_a_marker_is_text(marked: Tokenization, name: str) -> None:
    data = f"a {name}{name} b".encode()
    text = marked.encode(data)
    assert text.data == data and not text.event.any()
    assert marked.place(data).correspondence is None
    assert marked.view(text).canonical.all()


def test_losses_do_not_change(plain: Tokenization, marked: Tokenization) -> None:
    assert plain.lossless and marked.lossless


def test_stops_and_markers_are_kept_apart(marked: Tokenization) -> None:
    stopped = marked.with_stops([2])
    assert (stopped.stop_ids, dict(stopped.markers)) == ({2}, dict(marked.markers))
    assert stopped.view([400, 2, 0]).event.tolist() == [Event.THINK_OPEN, Event.STOP, Event.CONTROL]
    fewer = stopped.with_markers({400: Event.THINK_OPEN})
    assert (fewer.stop_ids, dict(fewer.markers)) == ({2}, {400: Event.THINK_OPEN})
    assert fewer.view([401]).data == b"</think>"
    assert marked.with_markers(dict(marked.markers)) is marked
    assert marked.with_stops(marked.stop_ids) is marked


def test_a_marker_that_is_a_stop_ends_the_response(marked: Tokenization) -> None:
    assert marked.with_stops([403]).view([402, 403]).event.tolist() == [Event.TOOL_OPEN, Event.STOP]


def test_a_special_token_as_a_marker(plain: Tokenization) -> None:
    assert plain.with_markers({1: Event.TOOL_OPEN}).view([1, 2]).event.tolist() == [
        Event.TOOL_OPEN, Event.CONTROL
    ]  # fmt: skip


def test_tokenizers_with_other_markers_differ(plain: Tokenization, marked: Tokenization) -> None:
    assert not plain.same_ids_as(marked)
    assert not marked.same_ids_as(marked.with_markers({400: Event.THINK_CLOSE}))
    again = plain.with_markers(dict(marked.markers))
    assert again is not marked and marked.same_ids_as(again)


@pytest.mark.parametrize("event", [Event.NONE, Event.STOP])
def test_no_event_to_be_a_marker(plain: Tokenization, event: Event) -> None:
    with pytest.raises(TokenizerError, match=rf"marker 400 \('<think>'\).* is given as {event.name}"):
        plain.with_markers({400: event})


@pytest.mark.parametrize("index", [-1, 300, 10**6])
def test_no_added_token(plain: Tokenization, index: int) -> None:
    with pytest.raises(TokenizerError, match=rf"marker {index} .* is not one of its 8 added tokens"):
        plain.with_markers({index: Event.THINK_OPEN})


def test_markers_of_a_vocabulary_with_padding(tmp_path: Path) -> None:
    folder = tiny.byte_level(tmp_path)
    (folder / "config.json").write_text(json.dumps({"vocab_size": 448}))
    with pytest.raises(TokenizerError, match=r"marker 440 \(None\)"):
        Tokenization.from_pretrained(str(folder)).with_markers({440: Event.THINK_OPEN})
