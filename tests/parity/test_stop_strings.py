"""Stop strings: found in the bytes of a row, however they are cut into tokens, and really ending it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

import tiny
from dragoman.config import StudentConfig
from dragoman.errors import UsageError
from dragoman.models import load_model
from dragoman.render import Renderer
from dragoman.rollout import Request, Sampler, Sampling
from dragoman.rollout.chooser import Chooser, StringStops
from dragoman.types import Prompt, Rollout, StopReason

PROMPTS = [Prompt(key="short", text="Hi"), Prompt(key="long", text="The interpreter stood between two")]
REQUESTS = [Request(prompt=prompt, sample=sample) for prompt in PROMPTS for sample in range(8)]
PLAIN = Sampling(max_new_tokens=24, batch_size=5)
STOPPED = replace(PLAIN, stop_strings=("e", "an", " t"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.byte_level_model(tmp_path_factory.mktemp("model"), seed=1)


@pytest.fixture(scope="module")
def renderer(folder: Path) -> Renderer:
    return Renderer.from_config(StudentConfig(model=str(folder)))


@pytest.fixture(scope="module")
def model(folder: Path) -> PreTrainedModel:
    return load_model(StudentConfig(model=str(folder)))


def sample(
    model: PreTrainedModel, renderer: Renderer, sampling: Sampling, requests: Sequence[Request] = REQUESTS
) -> list[Rollout]:
    return Sampler(model, renderer, sampling).rollouts(requests, seed=7, step=3)


def watched(strings: Sequence[str], pieces: Sequence[bytes]) -> int | None:
    watch = StringStops(strings, 1, pieces.__getitem__)
    for index in range(len(pieces)):
        watch.add([index])
    return watch.ends[0]


@pytest.mark.parametrize(
    ("strings", "pieces", "end"),
    [
        (["END"], [b"the END", b"more"], 1),
        # Begins inside a token, spans three, ends inside one
        (["END"], [b"an E", b"N", b"D.", b"more"], 3),
        # A control token has no bytes
        (["END"], [b"E", b"", b"ND"], 3),
        # A character in pieces
        (["é"], [b"\xc3", b"\xa9"], 2),
        (["\n\n", "abc"], [b"a\n", b"b\nab", b"c"], 3),
        (["aab"], [b"a", b"a", b"a", b"b"], 4),
        (["END"], [b"E", b"N", b"d"], None),
        ([], [b"a"], None),
        (["a"], [], None),
    ],
)
def test_where_a_text_is_found(strings: list[str], pieces: list[bytes], end: int | None) -> None:
    assert watched(strings, pieces) == end


@given(
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.text("ab", max_size=3).map(str.encode), max_size=8),
)
def test_the_same_as_a_search_of_everything_so_far(strings: list[str], pieces: list[bytes]) -> None:
    wanted = [string.encode() for string in strings]
    ends = (n for n in range(1, len(pieces) + 1) if any(string in b"".join(pieces[:n]) for string in wanted))
    assert watched(strings, pieces) == next(ends, None)


def test_rows_are_watched_apart() -> None:
    watch = StringStops(["ab"], 2, {0: b"a", 1: b"b"}.__getitem__)
    for ids in ([0, 1], [0, 0], [1, 0], [1, 1]):
        watch.add(ids)
    assert watch.ends == [3, 4]


def chosen(ids: Sequence[int], strings: tuple[str, ...], limit: int) -> tuple[list[int], StopReason | None]:
    """What is kept of a row of one batch in which these ids are all but certain; 9 is the stop."""
    spelled = [b"a", b"b", b"c", b"", b"", b"", b"", b"", b"", b""]
    sampling = Sampling(max_new_tokens=9, batch_size=1, stop_strings=strings)
    chooser = Chooser([0], torch.device("cpu"), [9], sampling, spelled.__getitem__)
    for index in ids:
        chooser(
            torch.zeros(1, 1, dtype=torch.long),
            torch.full((1, 10), -1e4).index_fill(1, torch.tensor([index]), 0.0),
        )
    draws = chooser.response(0, limit)
    assert len(draws.ids) == len(draws.logp) == len(draws.entropy) == len(draws.stop_logp)
    return draws.ids.tolist(), draws.stop


def test_the_first_ending_counts() -> None:
    assert chosen([0, 1, 2], (), 9) == ([0, 1, 2], None)
    assert chosen([0, 1, 2], ("b",), 9) == ([0, 1], StopReason.STRING)
    assert chosen([0, 9, 1], ("b",), 9) == ([0, 9], StopReason.STOP)
    assert chosen([0, 1, 9], ("b",), 9) == ([0, 1], StopReason.STRING)
    # Text after a stop cannot complete what stands before it
    assert chosen([0, 9, 1], ("ab",), 9) == ([0, 9], StopReason.STOP)
    assert chosen([0, 1, 2], ("c",), 2) == ([0, 1], None)
    # A text and the length limit at the same token: the text
    assert chosen([0, 1], ("b",), 2) == ([0, 1], StopReason.STRING)


def test_a_response_is_the_plain_one_up_to_the_text(model: PreTrainedModel, renderer: Renderer) -> None:
    plain = sample(model, renderer, PLAIN)
    stopped = sample(model, renderer, STOPPED)
    assert sum(rollout.stop is StopReason.STRING for rollout in stopped) > 5
    wanted = [string.encode() for string in STOPPED.stop_strings]
    for whole, cut in zip(plain, stopped, strict=True):
        size = len(cut.completion)
        assert cut.completion.ids.tolist() == whole.completion.ids[:size].tolist()
        for name in ("behaviour_logp", "entropy", "stop_logp"):
            np.testing.assert_allclose(getattr(cut, name), getattr(whole, name)[:size], atol=1e-5)
        data, before = cut.completion.data, cut.completion.data[: cut.completion.bounds[-2]]
        assert not any(string in before for string in wanted)
        assert any(string in data for string in wanted) == (cut.stop is StopReason.STRING)
        if cut.stop is StopReason.STRING:
            assert cut.completion.num_stops == 0
        else:
            assert (cut.stop, size) == (whole.stop, len(whole.completion))


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_response_does_not_depend_on_its_batch(
    model: PreTrainedModel, renderer: Renderer, batch_size: int
) -> None:
    expected = sample(model, renderer, STOPPED)
    found = sample(model, renderer, replace(STOPPED, batch_size=batch_size))
    for one, other in zip(expected, found, strict=True):
        assert one.completion.ids.tolist() == other.completion.ids.tolist()
        assert one.stop is other.stop


def test_generation_ends_with_the_last_text(
    model: PreTrainedModel, renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[int] = []
    monkeypatch.setattr("dragoman.rollout.sampler.can_decode", lambda model, longest: False)
    generate = model.generate

    def recording(**kwargs: torch.Tensor) -> torch.Tensor:
        put_out: torch.Tensor = generate(**kwargs)
        widths.append(put_out.shape[1] - kwargs["input_ids"].shape[1])
        return put_out

    monkeypatch.setattr(model, "generate", recording)
    every_letter = tuple(chr(code) for code in range(32, 127))
    rollouts = sample(model, renderer, replace(STOPPED, stop_strings=every_letter, batch_size=64))
    assert widths == [max(len(rollout.completion) for rollout in rollouts)]
    assert widths[0] < STOPPED.max_new_tokens


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(UsageError, match="stop_strings holds an empty text"):
        replace(PLAIN, stop_strings=("a", ""))
