"""Spans: words with what belongs to them, as far as budgets are known; the guard and credit over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

import toy
from dragoman.alignment import align
from dragoman.config import MethodConfig
from dragoman.supervise import CREDITS, Boundaries, Guard, SampledSettings, supervise_sampled
from dragoman.supervise.boundaries import SPAN_CHUNKS
from dragoman.supervise.guard import spread
from dragoman.supervise.sampled import build_span
from dragoman.supervise.settle import settle
from dragoman.text import PairTables
from dragoman.types import DropReason, Event, Prompt, Rollout, Supervision, TeacherScores
from naive import token_text

STOP, CONTROL = Event.STOP, Event.CONTROL
BYTES = [bytes([b]) for b in range(256)]
Pieces = Sequence[bytes | Event]


def span_of(words: Pieces, *tokens: bytes, unknown: Sequence[int] = ()) -> list[int]:
    """Spans where both sides write the same words and have `tokens` besides single bytes."""
    text = token_text(words)
    alignment = align(text, text)
    known = ~np.isin(np.arange(alignment.num_chunks), unknown)
    return Boundaries([*BYTES, *tokens]).span_of(text, alignment, known).tolist()


def test_a_span_starts_at_white_space_that_nothing_crosses() -> None:
    # |un|do| it|!: all places between them are hard
    assert span_of([b"un", b"do", b" it", b"!"], b"un", b"do", b" it") == [0, 0, 1, 1]
    assert span_of([b"a", b"\n", b"\t", b"b"]) == [0, 1, 2, 2]


def test_no_span_starts_at_white_space_that_a_token_crosses() -> None:
    # "o i" crosses the blank before "it", and "\n " the one behind the line break
    assert span_of([b"do", b" it"], b"do", b" it", b"o i") == [0, 0]
    assert span_of([b"a", b"\n", b" ", b"b"], b"\n ") == [0, 1, 1, 1]


def test_events_are_spans_of_their_own() -> None:
    assert span_of([b"a", CONTROL, b"b", b"c", STOP]) == [0, 1, 2, 2, 3]
    assert span_of([CONTROL, CONTROL, b"a"]) == [0, 1, 2]


def test_long_spans_end_at_the_next_hard_boundary() -> None:
    assert SPAN_CHUNKS == 8
    # twenty letters: 8, 8 and 4
    assert span_of([b"x"] * 20) == [0] * 8 + [1] * 8 + [2] * 4
    # "yy" crosses place 8, so the first span ends at 9
    words = [b"x"] * 7 + [b"y"] * 2 + [b"x"] * 9
    assert span_of(words, b"yy") == [0] * 9 + [1] * 8 + [2]


def test_what_is_not_known_stands_alone_in_a_gap() -> None:
    words = [b"a", b"b", b"c", b"d", b" e"]
    # a | b | c d | e: 0, then no neighbour on either side of b
    assert span_of(words, b" e", unknown=[1]) == [0, 2, 4, 4, 5]
    assert span_of(words, b" e", unknown=[0]) == [0, 2, 2, 2, 3]
    assert span_of(words, b" e", unknown=[1, 2]) == [0, 2, 4, 6, 7]
    assert span_of(words, b" e", unknown=range(5)) == [0, 2, 4, 6, 8]


def test_of_nothing_there_are_no_spans() -> None:
    assert span_of([]) == []


def test_with_one_tokenizer_every_chunk_stands_alone() -> None:
    text = token_text([b"a", b" b", STOP])
    known = np.array([True, False, True])
    assert Boundaries(None).span_of(text, align(text, text), known).tolist() == [0, 2, 4]


def test_spread() -> None:
    odd = np.array([False, True, False, False, True])
    assert spread(odd, np.array([0, 0, 0, 1, 3])).tolist() == [True, True, True, False, True]
    assert spread(np.zeros(0, bool), np.zeros(0, np.int64)).tolist() == []


# --- credit

# |un|do| it|!|stop|, D = 1, -2, 4, -8, 16; spans un do, it !, stop with sums -1, -4, 16
WORDS = (b"un", b"do", b" it", b"!", STOP)
STUDENT = (-2.0, -1.0, -5.0, -9.0, -17.0)
TEACHER = (-1.0, -3.0, -1.0, -17.0, -1.0)


def supervise(
    teacher: Sequence[float] = TEACHER, *, odd: Sequence[int] = (), **settings: object
) -> Supervision:
    text = token_text(WORDS)
    rollout = Rollout(
        prompt=Prompt(key="p", text="x"),
        sample=0,
        context_ids=np.array([7]),
        completion=replace(text, canonical=~np.isin(np.arange(5), odd)),
        behaviour_logp=np.array(STUDENT, np.float32),
    )
    values = np.array(teacher, np.float32)
    missing = np.where(np.isnan(values), DropReason.NON_FINITE, DropReason.NONE).astype(np.uint8)
    given = {
        "credit": CREDITS["span"],
        "boundaries": Boundaries([*BYTES, b"un", b"do", b" it"]),
    }
    scores = TeacherScores(logp=values, missing=missing)
    return supervise_sampled(rollout, scores, align(text, text), SampledSettings(**{**given, **settings}))


def credits(found: Supervision) -> list[float]:
    assert found.credit is not None
    return found.credit.tolist()


def neighbours(found: Supervision) -> list[float]:
    assert found.account is not None
    return found.account.neighbours.tolist()


def test_a_token_has_its_spans_budget_and_an_account_with_the_neighbours() -> None:
    found = supervise()
    assert credits(found) == [-1.0, -1.0, -4.0, -4.0, 16.0]
    # next span's first chunk: 4, 4 | 16, 16 | -; and in a span's first chunk the span before: -1 | -4
    assert neighbours(found) == [4.0, 4.0, 15.0, 16.0, -4.0]


def test_the_clamp_waits_for_the_account_to_be_settled() -> None:
    found = supervise(clamp=10.0)
    assert credits(found) == [-1.0, -1.0, -4.0, -4.0, 16.0] and found.num_clamped == 0
    (settled,) = settle([found])
    assert credits(settled)[-1] == 10.0 and settled.num_clamped == 1


def test_one_odd_chunk_makes_its_span_odd() -> None:
    masked = supervise(odd=[1], guard=Guard.MASK)
    assert credits(masked) == [0.0, 0.0, -4.0, -4.0, 16.0]
    assert masked.dropped == {"non_canonical": 2}
    penalised = supervise(odd=[1], guard=Guard.PENALTY, guard_penalty=3.0)
    assert credits(penalised) == [-3.0, -3.0, -4.0, -4.0, 16.0]
    assert penalised.weight.tolist() == [1] * 5
    # and its budgets are in no account
    for found in (masked, penalised):
        assert neighbours(found)[2:] == [16.0, 16.0, -4.0]


def test_a_chunk_without_value_divides_its_span() -> None:
    found = supervise((-1.0, float("nan"), -1.0, -17.0, -1.0))
    assert credits(found) == [1.0, 0.0, -4.0, -4.0, 16.0]
    assert found.dropped == {"non_finite": 1}
    assert neighbours(found) == [0.0, 0.0, 16.0, 16.0, -4.0]
    # an odd chunk beyond the gap is none of its business
    assert credits(supervise((-1.0, float("nan"), -1.0, -17.0, -1.0), odd=[3], guard=Guard.MASK))[0] == 1.0


@pytest.mark.parametrize("guard", ["off", "mask", "penalty"])
def test_one_tokenizer_is_plain_distillation_bit_for_bit(guard: str) -> None:
    side = toy.bpe("t", "a b", "ab c")
    text = toy.ids_of(side, "abc", "d", "ab", "a", "<stop>")
    rng = np.random.default_rng(0)
    ours, theirs = -rng.exponential(size=(2, len(text))).astype(np.float32)
    scores = TeacherScores(logp=theirs, missing=np.zeros(len(text), np.uint8), tokens=text)
    rollout = replace(toy.rollout_of(text), behaviour_logp=ours)
    found = build_span(PairTables(side, side), MethodConfig(guard=guard, clamp=None))(  # type: ignore[arg-type]
        rollout, scores, align(text, text)
    )
    assert found.credit is not None and found.credit.tobytes() == (theirs - ours).tobytes()
    assert neighbours(found) == [0.0] * len(text)
