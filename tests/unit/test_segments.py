"""Hard boundaries, the segments between them, and what the guard lets a segment's sum hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny
from dragoman.alignment import align
from dragoman.config import MethodConfig
from dragoman.supervise import CREDITS, Boundaries, Guard, SampledSettings, supervise_sampled
from dragoman.supervise.guard import guarded
from dragoman.supervise.sampled import build_chunk, build_segment
from dragoman.text import Tokenization
from dragoman.text.pair import PairTables
from dragoman.text.prefixes import ByteTrie
from dragoman.types import DropReason, Event, Prompt, Rollout, Supervision, TeacherScores
from naive import token_text

STOP, CONTROL = Event.STOP, Event.CONTROL
NAN = float("nan")
Pieces = Sequence[bytes | Event]

# |un|do| it|!|stop| on both sides: "nd" crosses un|do and "t!" crosses it|!; nothing crosses do| it.
WORDS = (b"un", b"do", b" it", b"!", STOP)
VOCABULARY = [bytes([b]) for b in range(256)] + [b"un", b"do", b" it", b"nd", b"t!", b"!?"]


# --- boundaries


def test_a_place_is_hard_where_no_token_crosses() -> None:
    hard = Boundaries(VOCABULARY).hard(token_text(WORDS))
    # u n d o _ i t ! stop: un, nd and do cross 1 to 3; " it" crosses 5 and 6, "t!" 7; the stop is its own
    assert hard.tolist() == [True, False, False, False, True, False, False, False, True, True]


def test_no_token_crosses_an_event() -> None:
    # "nd" would cross between "n" and "d", but a control token stands there
    hard = Boundaries(VOCABULARY).hard(token_text([b"un", CONTROL, b"do"]))
    assert hard.tolist() == [True, False, True, True, False, True]


def test_only_the_text_at_hand_decides() -> None:
    # "!?" is a token, but no "?" follows here
    assert Boundaries(VOCABULARY).hard(token_text([b"!", b"!"])).tolist() == [True, True, True]
    assert Boundaries(VOCABULARY).hard(token_text([b"!", b"?"])).tolist() == [True, False, True]


def test_texts_without_bytes() -> None:
    boundaries = Boundaries(VOCABULARY)
    assert boundaries.hard(token_text([])).tolist() == [True]
    assert boundaries.hard(token_text([STOP])).tolist() == [True, True]
    assert Boundaries([]).hard(token_text([b"ab"])).tolist() == [True, True, True]


letters = st.binary(max_size=12).map(lambda data: bytes(b"abc"[x % 3] for x in data))


@given(vocabulary=st.lists(letters, max_size=12), data=letters)
def test_hard_boundaries_by_their_definition(vocabulary: list[bytes], data: bytes) -> None:
    spans = [(a, b) for a in range(len(data)) for b in range(a + 1, len(data) + 1) if data[a:b] in vocabulary]
    wanted = [not any(a < k < b for a, b in spans) for k in range(len(data) + 1)]
    pieces = [data] if data else []
    assert Boundaries(vocabulary).hard(token_text(pieces)).tolist() == wanted
    longest = [max((b - a for a, b in spans if a == k), default=0) for k in range(len(data))]
    assert (
        ByteTrie.of(vocabulary).longest(np.frombuffer(data, np.uint8).astype(np.uint16)).tolist() == longest
    )


# --- segments


def supervise(
    student_logp: Sequence[float],
    teacher_logp: Sequence[float],
    *,
    odd: Sequence[int] = (),
    words: Pieces = WORDS,
    **settings: object,
) -> Supervision:
    """Segment credit where both sides write the same tokens, those in `odd` not canonical."""
    text = token_text(words)
    canonical = ~np.isin(np.arange(len(text)), odd)
    rollout = Rollout(
        prompt=Prompt(key="p", text="x"),
        sample=0,
        context_ids=np.array([7]),
        completion=replace(text, canonical=canonical),
        behaviour_logp=np.array(student_logp, np.float32),
    )
    values = np.array(teacher_logp, np.float32)
    missing = np.where(np.isnan(values), DropReason.NON_FINITE, DropReason.NONE).astype(np.uint8)
    given = {"credit": CREDITS["segment"], "boundaries": Boundaries(VOCABULARY), **settings}
    scores = TeacherScores(logp=values, missing=missing)
    return supervise_sampled(rollout, scores, align(text, text), SampledSettings(**given))


def credits(supervision: Supervision) -> list[float]:
    assert supervision.credit is not None
    return [float(a) for a in supervision.credit]


# D = 1, -2, 4, -8, 16
STUDENT = (-2.0, -1.0, -5.0, -1.0, -17.0)
TEACHER = (-1.0, -3.0, -1.0, -9.0, -1.0)


def test_budgets_are_summed_to_the_next_hard_boundary() -> None:
    # |un do| it !|stop|: 1 - 2, -2 | 4 - 8, -8 | 16
    assert credits(supervise(STUDENT, TEACHER)) == [-1.0, -2.0, -4.0, -8.0, 16.0]


def test_a_dropped_chunk_ends_its_segment() -> None:
    # "do" has no value: "un" keeps its own D, and nothing of "do" is known
    found = supervise(STUDENT, (-1.0, NAN, -1.0, -9.0, -1.0))
    assert credits(found) == [1.0, 0.0, -4.0, -8.0, 16.0]
    assert found.dropped == {"non_finite": 1}
    # a dropped first chunk does not reach into what follows: "do" is judged as ever
    assert credits(supervise(STUDENT, (NAN, -3.0, -1.0, -9.0, -1.0))) == [0.0, -2.0, -4.0, -8.0, 16.0]


def test_what_lies_behind_a_chunk_without_signal_is_not_summed() -> None:
    # |un|n|d| is one segment, since "nn" and "nd" cross; without "n" it falls apart
    words, vocabulary = (b"un", b"n", b"d"), [b"nn", b"nd"]
    whole = supervise((-2.0,) * 3, (-1.0, -3.0, -6.0), words=words, boundaries=Boundaries(vocabulary))
    assert credits(whole) == [-4.0, -5.0, -4.0]
    broken = supervise((-2.0,) * 3, (-1.0, NAN, -6.0), words=words, boundaries=Boundaries(vocabulary))
    assert credits(broken) == [1.0, 0.0, -4.0]


def test_segment_without_boundaries() -> None:
    with pytest.raises(ValueError, match=r"segment credit needs Chunks.segment_of"):
        supervise(STUDENT, TEACHER, boundaries=None)


# --- guard


def test_guards_take_an_odd_chunk_out_of_the_sums() -> None:
    # without a guard "un" is paid with the odd chunk's -2; with one it is not
    assert credits(supervise(STUDENT, TEACHER, odd=[1]))[:2] == [-1.0, -2.0]
    masked = supervise(STUDENT, TEACHER, odd=[1], guard=Guard.MASK)
    assert credits(masked) == [1.0, 0.0, -4.0, -8.0, 16.0]
    assert masked.dropped == {"non_canonical": 1}
    penalised = supervise(STUDENT, TEACHER, odd=[1], guard=Guard.PENALTY, guard_penalty=3.0)
    assert credits(penalised) == [1.0, -3.0, -4.0, -8.0, 16.0]
    assert penalised.dropped == {}


def test_the_clamp_leaves_the_penalty() -> None:
    found = supervise(STUDENT, TEACHER, odd=[1], guard=Guard.PENALTY, guard_penalty=3.0, clamp=2.0)
    assert credits(found) == [1.0, -3.0, -2.0, -2.0, 2.0]
    assert found.num_clamped == 3


def test_the_guard_alone() -> None:
    reason = np.array([DropReason.NONE, DropReason.NONE, DropReason.NON_FINITE], np.uint8)
    odd = np.array([False, True, True])
    found = {guard: guarded(guard, reason, odd) for guard in Guard}
    assert [v.counts.tolist() for v in found.values()] == [[True, True, False]] + [[True, False, False]] * 2
    assert [v.penalised.tolist() for v in found.values()] == [[False] * 3] * 2 + [[False, True, False]]
    assert found[Guard.MASK].reason.tolist() == [
        DropReason.NONE,
        DropReason.NON_CANONICAL,
        DropReason.NON_FINITE,
    ]
    assert found[Guard.OFF].reason.tolist() == found[Guard.PENALTY].reason.tolist() == reason.tolist()


logps = st.floats(-30.0, 0.0, width=32)
five = st.tuples(*[logps] * 5)


@pytest.mark.parametrize("rule", ["chunk", "uniform", "semantic_prior", "segment"])
@pytest.mark.parametrize("guard", [Guard.MASK, Guard.PENALTY])
@given(student=five, teacher=five, other=five, odd=st.sets(st.integers(0, 4)))
def test_no_reward_for_odd_segmentations(
    rule: str,
    guard: Guard,
    student: tuple[float, ...],
    teacher: tuple[float, ...],
    other: tuple[float, ...],
    odd: set[int],
) -> None:
    # Whatever the teacher says of odd chunks, they earn nothing, and neither do those around them.
    changed = [other[i] if i in odd else teacher[i] for i in range(5)]
    options = {"odd": sorted(odd), "guard": guard, "credit": CREDITS[rule]}
    found = [credits(supervise(student, scores, **options)) for scores in (teacher, changed)]
    assert found[0] == found[1]
    assert all(found[0][i] == (-3.0 if guard is Guard.PENALTY else 0.0) for i in odd)


# --- equal tokenizers


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("segments")
    return [str(tiny.byte_level(path / str(size), vocab_size=size)) for size in (300, 400)]


def test_equal_tokenizers_give_plain_distillation_bit_for_bit(folders: list[str]) -> None:
    student, teacher = (Tokenization.from_pretrained(folders[1]) for _ in range(2))
    tables = PairTables(student, teacher)
    # odd ids: bytes throughout
    text = student.view([*(int(student.encode(bytes([b])).ids[0]) for b in b"the answer"), 0])
    rng = np.random.default_rng(0)
    ours, theirs = -rng.exponential(size=(2, len(text))).astype(np.float32)
    rollout = Rollout(
        prompt=Prompt(key="p", text="x"),
        sample=0,
        context_ids=np.array([7]),
        completion=text,
        behaviour_logp=ours,
    )
    scores = TeacherScores(logp=theirs, missing=np.zeros(len(text), np.uint8), tokens=text)
    for build in (build_segment, build_chunk):
        found = build(tables, MethodConfig(guard="off"))(rollout, scores, align(text, text)).credit
        assert found is not None
        assert found.tobytes() == (theirs - ours).tobytes()


def test_of_a_pair_tokens_of_both_sides_count(folders: list[str]) -> None:
    student, teacher = map(Tokenization.from_pretrained, folders)
    text = student.encode(b"The other tokenizer splits this text.")
    hard = Boundaries.of_pair(PairTables(student, teacher)).hard(text)
    borders = set(np.flatnonzero(hard).tolist())
    for side in (student, teacher):
        own = side.encode(text.data)
        for a, b in pairwise(own.bounds.tolist()):
            assert borders.isdisjoint(range(a + 1, b))
        assert borders <= set(own.bounds.tolist())
    assert {3, 9, 19} <= borders  # blanks before words
