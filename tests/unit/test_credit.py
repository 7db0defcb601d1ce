"""Credit rules on chunks small enough to reckon by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.supervise import CREDITS, Chunks
from dragoman.supervise.credit import NEAR_CERTAIN

RULES = sorted(CREDITS)
SHARING = ["semantic_prior", "uniform"]

# Log-probs as a model gives them: float32, from near certainty to next to impossible.
logps = st.floats(-50.0, -(2.0**-40), width=32)
responses = st.lists(
    st.tuples(st.lists(logps, min_size=1, max_size=6), st.lists(logps, min_size=1, max_size=6)),
    min_size=1,
    max_size=5,
)


def chunks_of(*parts: tuple[Sequence[float], Sequence[float]]) -> Chunks:
    """Chunks from the log-probs of their student and their teacher tokens."""
    student = [np.array(logp, np.float64) for logp, _ in parts]
    return Chunks(
        logp=np.concatenate(student),
        chunk_of=np.repeat(np.arange(len(parts)), [len(logp) for logp in student]),
        num_student=np.array([len(logp) for logp in student]),
        student_sum=np.array([logp.sum() for logp in student]),
        teacher_sum=np.array([np.sum(logp, dtype=np.float64) for _, logp in parts]),
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


@pytest.mark.parametrize("rule", SHARING)
@given(parts=responses)
def test_sharing_rules_conserve_the_budget(rule: str, parts: list[tuple[list[float], list[float]]]) -> None:
    chunks = chunks_of(*parts)
    shared = np.bincount(chunks.chunk_of, CREDITS[rule](chunks))
    scale = np.abs(chunks.student_sum) + np.abs(chunks.teacher_sum)
    assert np.all(np.abs(shared - chunks.budget) <= 1e-14 * 6 * scale)


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
