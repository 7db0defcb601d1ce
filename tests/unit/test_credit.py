"""Credit rules on chunks small enough to reckon by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.supervise import CREDITS, Chunks
from dragoman.supervise.credit import NEAR_CERTAIN
from dragoman.supervise.credit.span import accounts, coupling

RULES = sorted(CREDITS)
SHARING = ["marginal", "semantic_prior", "uniform"]
NAN = float("nan")

# Log-probs as a model gives them: float32, from near certainty to next to impossible.
logps = st.floats(-50.0, -(2.0**-40), width=32)
responses = st.lists(
    st.tuples(st.lists(logps, min_size=1, max_size=6), st.lists(logps, min_size=1, max_size=6)),
    min_size=1,
    max_size=5,
)


def chunks_of(
    *parts: tuple[Sequence[float], Sequence[float]],
    segments: Sequence[int] | None = None,
    steps: Sequence[float] | None = None,
    counts: Sequence[bool] | None = None,
) -> Chunks:
    """Chunks from the log-probs of their student and their teacher tokens; every chunk counts and is a
    segment without neighbours, and no r is known, unless given."""
    student = [np.array(logp, np.float64) for logp, _ in parts]
    size = sum(map(len, student))
    return Chunks(
        logp=np.concatenate(student),
        chunk_of=np.repeat(np.arange(len(parts)), [len(logp) for logp in student]),
        num_student=np.array([len(logp) for logp in student]),
        student_sum=np.array([logp.sum() for logp in student]),
        teacher_sum=np.array([np.sum(logp, dtype=np.float64) for _, logp in parts]),
        counts=np.array([True] * len(parts) if counts is None else counts),
        segment_of=2 * np.arange(len(parts)) if segments is None else np.array(segments),
        step_logp=np.full(size, NAN) if steps is None else np.array(steps, np.float64),
    )


@pytest.mark.parametrize("rule", RULES)
def test_one_to_one(rule: str) -> None:
    # D = -0.5 - (-2) = 1.5, whole
    assert CREDITS[rule](chunks_of(([-2.0], [-0.5]))).tolist() == [1.5]


@pytest.mark.parametrize("rule", RULES)
def test_one_to_many(rule: str) -> None:
    # D = (-0.25 - 0.5) - (-2) = 1.25; one student token takes it whole however many the teacher's are
    assert CREDITS[rule](chunks_of(([-2.0], [-0.25, -0.5]))).tolist() == [1.25]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # L_S = -1 - 3 = -4, L_T = -2, D = 2
        ("chunk", [2.0, 2.0]),
        ("uniform", [1.0, 1.0]),
        # L_T / L_S - 1 = -0.5, times p = (-1, -3)
        ("semantic_prior", [0.5, 1.5]),
        # r is not known: as uniform, as chunk
        ("marginal", [1.0, 1.0]),
        ("marginal_rtg", [2.0, 2.0]),
        ("segment", [2.0, 2.0]),
    ],
)
def test_two_to_one(rule: str, expected: list[float]) -> None:
    assert CREDITS[rule](chunks_of(([-1.0, -3.0], [-2.0]))).tolist() == expected


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # L_S = -0.5 - 1 - 0.5 = -2, L_T = -2 - 3 = -5, D = -3
        ("chunk", [-3.0, -3.0, -3.0]),
        ("uniform", [-1.0, -1.0, -1.0]),
        # L_T / L_S - 1 = 1.5, times p = (-0.5, -1, -0.5)
        ("semantic_prior", [-0.75, -1.5, -0.75]),
    ],
)
def test_three_to_two(rule: str, expected: list[float]) -> None:
    assert CREDITS[rule](chunks_of(([-0.5, -1.0, -0.5], [-2.0, -3.0]))).tolist() == expected


@pytest.mark.parametrize("rule", RULES)
def test_chunks_do_not_touch_each_other(rule: str) -> None:
    parts = [([-1.0, -3.0], [-2.0]), ([-2.0], [-0.5]), ([-0.5, -1.0, -0.5], [-2.0, -3.0])]
    alone = [CREDITS[rule](chunks_of(part)) for part in parts]
    assert CREDITS[rule](chunks_of(*parts)).tolist() == np.concatenate(alone).tolist()


def test_span_accounts() -> None:
    # D = 1, 2 | -4, 8 | 16 with sums 3, 4, 16. Beside the first span: -4; the second: 16, and 3 in its first
    # chunk; the third: 4
    parts = [([-2.0], [-1.0]), ([-3.0], [-1.0]), ([-5.0], [-9.0]), ([-9.0], [-1.0]), ([-17.0], [-1.0])]
    found = accounts(chunks_of(*parts, segments=[0, 0, 1, 1, 2]))
    assert found.own.tolist() == [3.0, 3.0, 4.0, 4.0, 16.0]
    assert found.neighbours.tolist() == [-4.0, -4.0, 19.0, 16.0, 4.0]
    assert found.pairs.tolist() == [[1.0, 2.0], [2.0, -4.0], [-4.0, 8.0], [8.0, 16.0]]


def test_span_does_not_look_across_a_gap() -> None:
    # The numbers 1 and 3 do not follow each other: D = 1 | 2 || 4
    parts = [([-2.0], [-1.0]), ([-3.0], [-1.0]), ([-5.0], [-1.0])]
    found = accounts(chunks_of(*parts, segments=[0, 1, 3]))
    assert found.neighbours.tolist() == [2.0, 1.0, 0.0]
    assert found.pairs.tolist() == [[1.0, 2.0]]


def test_coupling_says_how_far_neighbours_repay_each_other() -> None:
    rng = np.random.default_rng(0)
    potential = rng.normal(size=4001)
    repaid = np.diff(potential)  # correlation -1/2
    pairs = np.stack([repaid[:-1], repaid[1:]], axis=1)
    assert coupling(pairs) > 0.9
    assert (
        0.4 < coupling(pairs + rng.normal(size=pairs.shape) * 2**0.5) < 0.6
    )  # half of the variance is noise
    assert coupling(np.stack([potential[:-1], potential[1:]], axis=1)) < 0.1
    assert coupling(np.stack([potential, potential], axis=1)) == 0.0  # together, not against each other
    assert coupling(pairs[:8]) == 0.0  # too few to say


def test_span_pairs_are_of_chunks_that_count() -> None:
    # what both sides are certain of has zeros on both, as what does not count has
    parts = [([-1.0], [-2.0]), ([0.0], [0.0]), ([-1.0], [-3.0])]
    found = accounts(chunks_of(*parts, segments=[0, 0, 1]))
    assert found.pairs.tolist() == [[-1.0, 0.0], [0.0, -2.0]]
    assert not len(accounts(chunks_of(*parts, segments=[0, 0, 1], counts=[True, False, True])).pairs)


def test_span_adds_neighbours_as_far_as_accounts_are_open() -> None:
    # Budgets +1, -1, +1, ...: correlation -1, so lambda is 1 and each span has its neighbours' in full
    parts = [([-2.0], [-1.0]), ([-1.0], [-2.0])] * 20
    credit = CREDITS["span"](chunks_of(*parts, segments=list(range(40))))
    assert credit.tolist() == [0.0, *[1.0, -1.0] * 19, 0.0]


def test_segment_is_the_return_to_go_up_to_a_hard_boundary() -> None:
    # D = 1, 2, -4 | 8: sums -1, -2, -4 | 8; the first chunk has two tokens
    parts = [([-1.0, -1.0], [-1.0]), ([-3.0], [-1.0]), ([-1.0], [-5.0]), ([-9.0], [-1.0])]
    credit = CREDITS["segment"](chunks_of(*parts, segments=[0, 0, 0, 1]))
    assert credit.tolist() == [-1.0, -1.0, -2.0, -4.0, 8.0]


def test_marginal_takes_the_teachers_own_steps() -> None:
    # L_T = -2 = -1.5 - 0.5; p = (-1, -3): r - p = (-0.5, 2.5), D = 2
    chunks = chunks_of(([-1.0, -3.0], [-2.0]), steps=[-1.5, -0.5])
    assert CREDITS["marginal"](chunks).tolist() == [-0.5, 2.5]
    assert CREDITS["marginal_rtg"](chunks).tolist() == [2.0, 2.5]


def test_unknown_steps_do_not_touch_other_chunks() -> None:
    parts = [([-1.0, -3.0], [-2.0]), ([-1.0, -3.0], [-2.0])]
    chunks = chunks_of(*parts, steps=[NAN, NAN, -1.5, -0.5])
    assert CREDITS["marginal"](chunks).tolist() == [1.0, 1.0, -0.5, 2.5]
    assert CREDITS["marginal_rtg"](chunks).tolist() == [2.0, 2.0, 2.0, 2.5]


@pytest.mark.parametrize(("rule", "field"), [("segment", "segment_of"), ("marginal", "step_logp")])
def test_what_a_rule_needs_is_asked_for(rule: str, field: str) -> None:
    with pytest.raises(ValueError, match=f"needs Chunks.{field}"):
        CREDITS[rule](replace(chunks_of(([-1.0], [-2.0])), **{field: None}))


def test_semantic_prior_near_certainty() -> None:
    # L_S = -4e-9 is under 1e-8: L_T / m - p = -3 / 2 - p
    credit = CREDITS["semantic_prior"](chunks_of(([-1e-9, -3e-9], [-3.0])))
    assert credit.tolist() == [-1.5 + 1e-9, -1.5 + 3e-9]
    # L_S = -2e-8 is not: L_T / L_S - 1 = 1.5e8 - 1, times p = -1e-8, which is -1.5 + 1e-8
    assert CREDITS["semantic_prior"](chunks_of(([-1e-8, -1e-8], [-3.0]))) == pytest.approx([-1.5 + 1e-8] * 2)


def test_semantic_prior_at_certainty() -> None:
    # L_S = 0: no division; -3 / 2 to each
    assert CREDITS["semantic_prior"](chunks_of(([0.0, 0.0], [-3.0]))).tolist() == [-1.5, -1.5]


def test_near_certain_is_the_papers() -> None:
    assert NEAR_CERTAIN == 1e-8


def test_semantic_prior_explodes_where_uniform_does_not() -> None:
    # L_S = -0.02, L_T = -4: (200 - 1) * -0.0199 = -3.9601 on the second token, -0.0199 on the first
    credit = CREDITS["semantic_prior"](chunks_of(([-0.0001, -0.0199], [-4.0])))
    assert credit == pytest.approx([-0.0199, -3.9601])
    assert CREDITS["uniform"](chunks_of(([-0.0001, -0.0199], [-4.0]))) == pytest.approx([-1.99, -1.99])


Parts = list[tuple[list[float], list[float]]]


def drawn(draw: st.DrawFn) -> Chunks:
    """Chunks with segments, and in some of them steps that sum to L_T."""
    parts: Parts = draw(responses)
    segments = np.cumsum(draw(st.lists(st.integers(0, 1), min_size=len(parts), max_size=len(parts))))
    steps: list[float] = []
    for student, teacher in parts:
        first = [draw(logps) for _ in student[1:]] if draw(st.booleans()) else [NAN] * (len(student) - 1)
        steps += [*first, sum(teacher) - sum(first)]
    known = chunks_of(*parts, segments=segments.tolist(), steps=steps)
    holes = np.isnan(np.bincount(known.chunk_of, known.step_logp))[known.chunk_of]
    return replace(known, step_logp=np.where(holes, NAN, known.step_logp))


any_chunks = st.composite(drawn)()


@pytest.mark.parametrize("rule", SHARING)
@given(chunks=any_chunks)
def test_sharing_rules_conserve_the_budget(rule: str, chunks: Chunks) -> None:
    shared = np.bincount(chunks.chunk_of, CREDITS[rule](chunks))
    steps = np.bincount(chunks.chunk_of, np.nan_to_num(np.abs(chunks.step_logp)))
    scale = np.abs(chunks.student_sum) + np.abs(chunks.teacher_sum) + steps
    assert np.all(np.abs(shared - chunks.budget) <= 1e-14 * 6 * scale)


@pytest.mark.parametrize("rule", RULES)
@given(one=any_chunks, other=any_chunks)
def test_responses_one_behind_the_other_have_the_credits_they_have_alone(
    rule: str, one: Chunks, other: Chunks
) -> None:
    behind = replace(
        other,
        chunk_of=other.chunk_of + len(one.num_student),
        segment_of=other.segment_of + int(one.segment_of[-1]) + 2,
    )
    both = Chunks(
        **{
            field.name: np.concatenate([getattr(one, field.name), getattr(behind, field.name)])
            for field in fields(Chunks)
        }
    )
    alone = np.concatenate([CREDITS[rule](one), CREDITS[rule](other)])
    assert CREDITS[rule](both).tobytes() == alone.tobytes()


@pytest.mark.parametrize("rule", RULES)
@given(parts=responses, known=st.booleans())
def test_a_student_that_is_the_teacher_has_no_credit(rule: str, parts: Parts, known: bool) -> None:
    same = [(student, [sum(np.array(student))]) for student, _ in parts]
    chunks = chunks_of(*same, segments=[0] * len(same), steps=[p for s, _ in same for p in s])
    chunks = replace(chunks, teacher_sum=chunks.student_sum)
    if not known:
        chunks = replace(chunks, step_logp=np.full(len(chunks.logp), NAN))
    assert not CREDITS[rule](chunks).any()


@given(chunks=any_chunks)
def test_segment_by_its_definition(chunks: Chunks) -> None:
    segments = chunks.segment_of.tolist()
    budget = chunks.budget
    for token, chunk in enumerate(chunks.chunk_of.tolist()):
        behind = [d for d, s in zip(budget[chunk:], segments[chunk:], strict=True) if s == segments[chunk]]
        assert CREDITS["segment"](chunks)[token] == pytest.approx(sum(behind), rel=1e-12, abs=1e-12)


@given(chunks=any_chunks)
def test_marginal_rtg_by_its_definition(chunks: Chunks) -> None:
    for token, (chunk, step) in enumerate(zip(chunks.chunk_of.tolist(), chunks.step_logp, strict=True)):
        inside = np.flatnonzero(chunks.chunk_of == chunk)
        rest = inside[inside >= token]
        if np.isnan(step):
            wanted = chunks.budget[chunk]
        else:
            wanted = float((chunks.step_logp[rest] - chunks.logp[rest]).sum())
        assert CREDITS["marginal_rtg"](chunks)[token] == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@given(parts=responses)
def test_chunk_gives_the_budget_to_every_token(parts: list[tuple[list[float], list[float]]]) -> None:
    chunks = chunks_of(*parts)
    assert np.array_equal(CREDITS["chunk"](chunks), np.repeat(chunks.budget, chunks.num_student))


@pytest.mark.parametrize("rule", RULES)
@given(pairs=st.lists(st.tuples(logps, logps), min_size=1, max_size=20))
def test_equal_tokenizers_give_plain_distillation_bit_for_bit(
    rule: str, pairs: list[tuple[float, float]]
) -> None:
    credit = CREDITS[rule](chunks_of(*(([p], [t]) for p, t in pairs))).astype(np.float32)
    student, teacher = np.array(pairs, np.float32).T
    assert np.array_equal(credit.view(np.int32), (teacher - student).view(np.int32))


@pytest.mark.parametrize("rule", RULES)
def test_chunk_without_student_tokens(rule: str) -> None:
    # A teacher-only chunk between two others owns no token and gives none
    credit = CREDITS[rule](chunks_of(([-1.0], [-3.0]), ([], [-5.0]), ([-2.0], [-0.5])))
    assert credit.tolist() == [-2.0, 1.5]
