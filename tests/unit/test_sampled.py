"""Sampled supervision: a credit for every student token, or the one reason why it has none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.alignment import align
from dragoman.supervise import (
    CREDITS,
    Boundaries,
    Guard,
    SampledSettings,
    supervise_answer,
    supervise_sampled,
)
from dragoman.supervise.credit.chunks import chunk_sums
from dragoman.supervise.settle import settle
from dragoman.types import (
    ChunkKind,
    Correspondence,
    DropReason,
    Event,
    PairKind,
    Prompt,
    Rollout,
    StopReason,
    Supervision,
    TeacherScores,
)
from naive import token_text

Pieces = Sequence[bytes | Event]

STOP, CONTROL = Event.STOP, Event.CONTROL
CHUNK = SampledSettings(credit=CREDITS["chunk"])
RULES = sorted(CREDITS.keys() - {"marginal", "marginal_rtg"})
"""Rules that need no tables of a pair."""
ALL_HARD = Boundaries(None)
NAN = float("nan")

# |Hel|lo| wor|ld|stop| meets |Hello| world|stop|: chunks 2:1, 2:1, event.
STUDENT = (b"Hel", b"lo", b" wor", b"ld", STOP)
TEACHER = (b"Hello", b" world", STOP)
STUDENT_LOGP = (-1.0, -2.0, -0.5, -0.25, -4.0)
TEACHER_LOGP = (-2.0, -1.0, -1.5)
# D = -2 + 3 = 1; -1 + 0.75 = -0.25; -1.5 + 4 = 2.5
CREDIT = [1.0, 1.0, -0.25, -0.25, 2.5]


def rollout_of(
    pieces: Pieces, logp: Sequence[float] | None, canonical: Sequence[bool] | None = None
) -> Rollout:
    text = token_text(pieces)
    flags = text.canonical if canonical is None else np.array(canonical, bool)
    return Rollout(
        prompt=Prompt(key="p", text="x"),
        sample=0,
        context_ids=np.array([7]),
        completion=replace(text, canonical=flags),
        behaviour_logp=None if logp is None else np.array(logp, np.float32),
        stop=StopReason.STOP if text.num_stops else StopReason.LENGTH,
    )


def scores_of(logp: Sequence[float], missing: DropReason = DropReason.NON_FINITE) -> TeacherScores:
    """Scores in which NaN stands for a value missing for one reason."""
    values = np.array(logp, np.float32)
    return TeacherScores(
        logp=values, missing=np.where(np.isnan(values), missing, DropReason.NONE).astype(np.uint8)
    )


def supervise(
    student: Pieces = STUDENT,
    student_logp: Sequence[float] = STUDENT_LOGP,
    teacher: Pieces = TEACHER,
    teacher_logp: Sequence[float] = TEACHER_LOGP,
    *,
    settings: SampledSettings = CHUNK,
    canonical: Sequence[bool] | None = None,
    missing: DropReason = DropReason.NON_FINITE,
    pairs: Correspondence | None = None,
) -> Supervision:
    rollout = rollout_of(student, student_logp, canonical)
    alignment = align(rollout.completion, token_text(teacher), pairs)
    return supervise_sampled(rollout, scores_of(teacher_logp, missing), alignment, settings)


def paired(first: PairKind, *, teacher: int) -> Correspondence:
    """The student's first symbol meets `teacher` symbols in some way, its second the next one exactly."""
    spans = np.array([[0, 1, 0, teacher], [1, 2, teacher, teacher + 1]])
    return Correspondence(spans=spans, kind=np.array([first, PairKind.EXACT], np.uint8))


def credit_of(supervision: Supervision) -> list[float]:
    assert supervision.credit is not None
    credit: list[float] = supervision.credit.tolist()
    return credit


def assert_consistent(supervision: Supervision) -> None:
    """A token has signal or exactly one reason, and without signal no credit."""
    trained = supervision.weight > 0
    assert np.array_equal(trained, supervision.reason == DropReason.NONE)
    assert set(np.unique(supervision.weight)) <= {0.0, 1.0}
    assert sum(supervision.dropped.values()) == int((~trained).sum())
    assert supervision.credit is not None
    assert np.isfinite(supervision.credit).all()
    assert not supervision.credit[~trained].any()


# --- credits


def test_every_token_has_its_credit() -> None:
    supervision = supervise()
    assert credit_of(supervision) == CREDIT
    assert supervision.weight.tolist() == [1.0] * 5
    assert supervision.chunk_of.tolist() == [0, 0, 1, 1, 2]
    assert (supervision.dropped, supervision.num_clamped) == ({}, 0)
    assert supervision.credit is not None
    assert supervision.credit.dtype == supervision.weight.dtype == np.float32


def test_the_stop_is_a_chunk_of_its_own() -> None:
    # D of the stop is -1.5 + 4 = 2.5 and of the text before it -0.25: neither pays for the other
    assert align(token_text(STUDENT), token_text(TEACHER)).kind[-1] == ChunkKind.EVENT
    louder = supervise(teacher_logp=(-2.0, -1.0, -30.0))
    assert credit_of(louder) == [*CREDIT[:4], -26.0]


def test_a_response_that_is_only_a_stop() -> None:
    # D = -0.5 + 2
    supervision = supervise([STOP], [-2.0], [STOP], [-0.5])
    assert (credit_of(supervision), supervision.dropped) == ([1.5], {})


@pytest.mark.parametrize("guard", list(Guard))
@pytest.mark.parametrize("rule", RULES)
def test_a_response_without_tokens(rule: str, guard: Guard) -> None:
    settings = SampledSettings(
        credit=CREDITS[rule], guard=guard, clamp=1.0, max_chunk_tokens=1, boundaries=ALL_HARD
    )
    supervision = supervise([], [], [], [], settings=settings)
    assert (credit_of(supervision), supervision.weight.tolist(), supervision.dropped) == ([], [], {})
    assert supervision.num_clamped == 0


# --- reasons


BAD_CHUNKS: list[tuple[DropReason, Callable[[], Supervision]]] = [
    # The teacher spells "b" another way: the chunk around it is impure.
    (DropReason.BYTES_DIFFER, lambda: supervise([b"a", b"b", b"c"], [-1] * 3, [b"a", b"x", b"c"], [-3] * 3)),
    # A control token that the teacher does not have.
    (DropReason.STUDENT_ONLY, lambda: supervise([b"a", CONTROL, b"c"], [-1] * 3, [b"a", b"c"], [-3] * 2)),
    (DropReason.TEACHER_CONTEXT, lambda: supervise(
        [b"c", b"b"], [-1] * 2, [b"c", b"b"], [-3, NAN], missing=DropReason.TEACHER_CONTEXT)),
    (DropReason.NON_FINITE, lambda: supervise([b"b", b"c"], [-1] * 2, [b"b", b"c"], [NAN, -3])),
    (DropReason.NON_FINITE, lambda: supervise([b"b", b"c"], [NAN, -1], [b"b", b"c"], [-3, -3])),
    (DropReason.NON_FINITE, lambda: supervise([b"b", b"c"], [-np.inf, -1], [b"b", b"c"], [-3, -3])),
    # One student token meets three of the teacher's where two are allowed.
    (DropReason.CHUNK_TOO_LONG, lambda: supervise(
        [b"xyz", b"c"], [-1] * 2, [b"x", b"y", b"z", b"c"], [-3] * 4,
        settings=replace(CHUNK, max_chunk_tokens=2))),
    (DropReason.NON_CANONICAL, lambda: supervise(
        [b"b", b"c"], [-1] * 2, [b"b", b"c"], [-3] * 2, canonical=[False, True],
        settings=replace(CHUNK, guard=Guard.MASK))),
    # "B" is "b" to the teacher's tokenizer, and such chunks are masked.
    (DropReason.NORMALISED, lambda: supervise(
        [b"B", b"c"], [-1] * 2, [b"b", b"c"], [-3] * 2,
        settings=replace(CHUNK, mask_normalised=True), pairs=paired(PairKind.NORMALISED, teacher=1))),
    # The teacher writes "{" another way, and is not shown the thought "t".
    (DropReason.TOOL_SYNTAX, lambda: supervise(
        [b"{", b"c"], [-1] * 2, [b"<", b"c"], [-3] * 2, pairs=paired(PairKind.TOOL_SYNTAX, teacher=1))),
    (DropReason.THINKING, lambda: supervise(
        [b"t", b"c"], [-1] * 2, [b"c"], [-3], pairs=paired(PairKind.THINKING, teacher=0))),
]  # fmt: skip
"""Responses in which one token has no signal, and all others D = -3 + 1."""


@pytest.mark.parametrize(
    ("expected", "supervision"),
    BAD_CHUNKS,
    ids=lambda value: value.label if isinstance(value, DropReason) else "",
)
def test_one_bad_chunk_of_each_kind(expected: DropReason, supervision: Callable[[], Supervision]) -> None:
    found = supervision()
    assert_consistent(found)
    assert found.dropped == {expected.label: 1}
    assert found.credit is not None
    assert set(found.credit[found.weight > 0].tolist()) == {-2.0}


def test_every_reason_has_a_case() -> None:
    # A refused conversation has no chunks (test_pipeline).
    elsewhere = {DropReason.NONE, DropReason.REFUSED, DropReason.NO_ROW}
    assert {reason for reason, _ in BAD_CHUNKS} == set(DropReason) - elsewhere


def test_normalised_chunks_have_signal_unless_masked() -> None:
    # D = -2 + 1 and -3 + 1
    found = supervise(
        [b"B", b"c"], [-1] * 2, [b"b", b"c"], [-2, -3], pairs=paired(PairKind.NORMALISED, teacher=1)
    )
    assert (credit_of(found), found.dropped) == ([-1.0, -2.0], {})


def test_a_missing_value_costs_its_whole_chunk_and_no_other() -> None:
    supervision = supervise(teacher_logp=(NAN, -1.0, -1.5))
    assert_consistent(supervision)
    assert supervision.dropped == {"non_finite": 2}
    assert credit_of(supervision) == [0.0, 0.0, *CREDIT[2:]]
    assert supervision.weight.tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("rule", RULES)
def test_a_missing_value_in_a_longer_chunk_is_never_zero(rule: str) -> None:
    # Were NaN read as 0, the chunk would look more certain than it is: D = -1 + 0 - (-2) = 1
    supervision = supervise(
        [b"ab", b"c"], [-2.0, -2.0], [b"a", b"b", b"c"], [-1.0, NAN, -0.5],
        settings=SampledSettings(credit=CREDITS[rule], boundaries=ALL_HARD),
    )  # fmt: skip
    assert supervision.weight.tolist() == [0.0, 1.0]
    assert credit_of(supervision) == [0.0, 1.5]


def test_the_first_reason_that_applies_is_the_one_given() -> None:
    # The chunk is too long, not canonical and beyond the teacher's context at once
    settings = replace(CHUNK, guard=Guard.MASK, max_chunk_tokens=1)
    supervision = supervise(
        [b"a", b"b"], [-1, NAN], [b"ab"], [NAN],
        settings=settings, canonical=[False, False], missing=DropReason.TEACHER_CONTEXT,
    )  # fmt: skip
    assert_consistent(supervision)
    assert supervision.dropped == {"teacher_context": 2}


@pytest.mark.parametrize(("limit", "kept"), [(1, 1), (2, 5), (6, 5), (None, 5)])
def test_longest_chunk(limit: int | None, kept: int) -> None:
    # Both chunks of text have two student tokens, the stop has one
    supervision = supervise(settings=replace(CHUNK, max_chunk_tokens=limit))
    assert supervision.weight.sum() == kept


# --- guard


ODD = [True, False, True, True, True]


def test_guard_off_ignores_odd_segmentations() -> None:
    assert credit_of(supervise(canonical=ODD)) == CREDIT


def test_guard_mask_drops_the_chunk() -> None:
    supervision = supervise(canonical=ODD, settings=replace(CHUNK, guard=Guard.MASK))
    assert_consistent(supervision)
    assert supervision.dropped == {"non_canonical": 2}
    assert credit_of(supervision) == [0.0, 0.0, *CREDIT[2:]]


def test_guard_penalty_replaces_the_credit_of_the_chunk() -> None:
    settings = replace(CHUNK, guard=Guard.PENALTY, guard_penalty=3.0)
    supervision = supervise(canonical=ODD, settings=settings)
    assert credit_of(supervision) == [-3.0, -3.0, *CREDIT[2:]]
    assert supervision.dropped == {}


def test_guard_penalty_needs_a_comparison() -> None:
    settings = replace(CHUNK, guard=Guard.PENALTY)
    supervision = supervise(canonical=ODD, teacher_logp=(NAN, -1.0, -1.5), settings=settings)
    assert_consistent(supervision)
    assert supervision.dropped == {"non_finite": 2}


# --- clamp


def test_clamp_is_counted() -> None:
    # Of (1, 1, -0.25, -0.25, 2.5) only the stop's is beyond 1; a credit of just 1 is not cut
    supervision = supervise(settings=replace(CHUNK, clamp=1.0))
    assert credit_of(supervision) == [1.0, 1.0, -0.25, -0.25, 1.0]
    assert supervision.num_clamped == 1
    supervision = supervise(settings=replace(CHUNK, clamp=0.125))
    assert credit_of(supervision) == [0.125, 0.125, -0.125, -0.125, 0.125]
    assert supervision.num_clamped == 5


def test_clamp_does_not_count_dropped_tokens() -> None:
    # The odd chunk would be cut from -3 to -2, but its value is missing; the stop's 2.5 is cut
    settings = replace(CHUNK, clamp=2.0, guard=Guard.PENALTY, guard_penalty=3.0)
    supervision = supervise(canonical=ODD, teacher_logp=(NAN, -1.0, -1.5), settings=settings)
    assert credit_of(supervision) == [0.0, 0.0, -0.25, -0.25, 2.0]
    assert supervision.num_clamped == 1


# --- what cannot be supervised


def test_no_behaviour_log_probs() -> None:
    rollout = rollout_of(STUDENT, None)
    alignment = align(rollout.completion, token_text(TEACHER))
    with pytest.raises(ValueError, match=r"rollout p/0 has no behaviour log-probs"):
        supervise_sampled(rollout, scores_of(TEACHER_LOGP), alignment, CHUNK)


def test_axes_that_do_not_fit() -> None:
    rollout = rollout_of(STUDENT, STUDENT_LOGP)
    alignment = align(rollout.completion, token_text(TEACHER))
    message = r"p/0 has 5 student and 2 teacher tokens, but its alignment covers 5 and 3"
    with pytest.raises(ValueError, match=message):
        supervise_sampled(rollout, scores_of(TEACHER_LOGP[:2]), alignment, CHUNK)
    shorter = rollout_of(STUDENT[:4], STUDENT_LOGP[:4])
    message = r"4 student and 3 teacher tokens, but its alignment covers 5 and 3"
    with pytest.raises(ValueError, match=message):
        supervise_sampled(shorter, scores_of(TEACHER_LOGP), alignment, CHUNK)


# --- any response


logps = st.one_of(st.floats(-30.0, 0.0, width=32), st.just(NAN))


@st.composite
def supervisions(draw: st.DrawFn) -> tuple[Supervision, SampledSettings]:
    """Supervision of two segmentations of some text, with values missing on either side."""
    data = b"abcdefgh"[: draw(st.integers(0, 8))]

    def side() -> list[bytes | Event]:
        inner = sorted(draw(st.sets(st.integers(1, len(data) - 1)))) if len(data) > 1 else []
        bounds = [0, *inner, len(data)]
        words = [data[a:b] for a, b in pairwise(bounds) if b > a]
        return [*words, *([CONTROL] if draw(st.booleans()) else []), STOP]

    student, teacher = side(), side()
    settings = SampledSettings(
        credit=CREDITS[draw(st.sampled_from(RULES))],
        boundaries=Boundaries([b"a", b"b", b"abc", b"ef"]),
        guard=draw(st.sampled_from(list(Guard))),
        clamp=draw(st.sampled_from([None, 2.0])),
        max_chunk_tokens=draw(st.sampled_from([None, 2])),
    )

    def some(values: st.SearchStrategy[float] | st.SearchStrategy[bool], pieces: Pieces) -> list[float]:
        return draw(st.lists(values, min_size=len(pieces), max_size=len(pieces)))

    found = supervise(
        student,
        some(logps, student),
        teacher,
        some(logps, teacher),
        settings=settings,
        canonical=[bool(flag) for flag in some(st.booleans(), student)],
        missing=draw(st.sampled_from([DropReason.NON_FINITE, DropReason.TEACHER_CONTEXT])),
    )
    return found, settings


@given(supervisions())
def test_each_token_has_signal_or_one_reason(case: tuple[Supervision, SampledSettings]) -> None:
    supervision, settings = case
    assert_consistent(supervision)
    (settled,) = settle([supervision])  # what open accounts share is clamped when it is known
    assert settled.credit is not None
    if settings.clamp is not None:
        penalty = settings.guard_penalty if settings.guard is Guard.PENALTY else 0.0
        below = settings.clamp if settled.account is not None else 0.0
        assert (np.abs(settled.credit) <= max(settings.clamp, below + penalty)).all()
        kept = settled.credit[settled.account.is_open] if settled.account is not None else settled.credit[:0]
        assert (np.abs(kept) <= settings.clamp).all()
    if settings.guard is not Guard.MASK:
        assert "non_canonical" not in supervision.dropped
    # A chunk is kept or dropped as a whole.
    for chunk in np.unique(supervision.chunk_of):
        assert len(set(supervision.reason[supervision.chunk_of == chunk].tolist())) == 1


def test_chunk_sums() -> None:
    values = np.array([-1.0, -2.0, -4.0], np.float32)
    assert chunk_sums(values, np.array([0, 2, 2, 3, 3])).tolist() == [-3.0, 0.0, -4.0, 0.0]
    assert chunk_sums(values[:0], np.array([0])).tolist() == []
    assert chunk_sums(values[:0], np.array([0, 0])).tolist() == [0.0]


def test_an_answer_counts_every_token() -> None:
    supervision = supervise_answer(rollout_of(STUDENT, None))
    assert supervision.weight.tolist() == [1.0] * 5
    assert supervision.credit is None
    assert (supervision.chunk_of.tolist(), supervision.dropped) == ([0, 1, 2, 3, 4], {})
