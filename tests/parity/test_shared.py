"""`shared`: by hand, against its float64 twin, its gradient, and what renormalising does not see."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dragoman.config import MethodConfig
from dragoman.objective import Scored, ScoredRows, row_divergence
from dragoman.objective.reference_rows import Row
from dragoman.objective.reference_shared import shared_reference
from dragoman.objective.shared import shared

REVERSE = MethodConfig(divergence="reverse")


def scored(rows: list[Row | None], weight: list[float], logp: torch.Tensor | None = None) -> Scored:
    """Rows of candidates (T, S); what is missing to 1 is the rest. `logp` replaces the student's."""
    row_of = [n for n, row in enumerate(rows) for _ in row or ()]
    flat = [pair for row in rows for pair in row or ()]
    rest = [
        [math.log(max(1 - sum(pair[side] for pair in row or ()), 1e-30)) for row in rows] for side in (0, 1)
    ]
    own = torch.tensor([math.log(s) for _, s in flat], dtype=torch.float64) if logp is None else logp
    return Scored(
        logp=torch.zeros(len(rows), dtype=torch.float64),
        weight=torch.tensor(weight, dtype=torch.float64),
        rows=ScoredRows(
            row_of=torch.tensor(row_of, dtype=torch.long),
            teacher_logp=torch.tensor([math.log(t) for t, _ in flat], dtype=torch.float64),
            student_logp=own,
            teacher_rest=torch.tensor(rest[0], dtype=torch.float64),
            student_rest=torch.tensor(rest[1], dtype=torch.float64),
            has_row=torch.tensor([row is not None for row in rows]),
        ),
    )


def test_by_hand() -> None:
    # T(. | C) = .75, .25 and S(. | C) = .5, .5: KL(S || T) = .5 log(.5 / .75) + .5 log(.5 / .25)
    row = [(0.3, 0.1), (0.1, 0.1)]
    expected = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    found = shared(scored([row, None], [2.0, 1.0]), REVERSE)
    assert found.total.item() == pytest.approx(2.0 * expected)
    # .6 of the teacher's mass is outside the candidates
    assert found.metrics.values()["row_residual"] == pytest.approx(0.6)
    assert found.metrics.values()["row_rate"] == 0.5


def test_the_students_likeliest_candidates() -> None:
    # Of three the student gives .4 and .2 to the last two: T .2, .2 -> .5, .5; S -> 2/3, 1/3
    row = [(0.5, 0.1), (0.2, 0.4), (0.2, 0.2)]
    expected = 2 / 3 * math.log((2 / 3) / 0.5) + 1 / 3 * math.log((1 / 3) / 0.5)
    settings = MethodConfig(divergence="reverse", student_topk=2)
    assert shared(scored([row], [1.0]), settings).total.item() == pytest.approx(expected)


def test_mass_outside_the_candidates_is_not_seen() -> None:
    # The student has half of the teacher's masses, in the right ratio: no loss here, one with the residual
    case = scored([[(0.6, 0.3), (0.4, 0.2)]], [1.0])
    assert shared(case, REVERSE).total.item() == pytest.approx(0.0, abs=1e-12)
    assert row_divergence(case, REVERSE).total.item() > 0.1


masses = st.lists(st.tuples(*[st.floats(0.01, 1.0)] * 2), min_size=1, max_size=5, unique_by=lambda m: m[1])
rows = masses.map(lambda row: [(t / (len(row) + 1), s / (len(row) + 1)) for t, s in row])
configs = st.builds(
    MethodConfig,
    divergence=st.sampled_from(["forward", "reverse", "jsd", "skewed"]),
    student_topk=st.sampled_from([None, 1, 3]),
    row_coef=st.sampled_from([1.0, 0.3]),
)


@given(st.lists(st.none() | rows, min_size=1, max_size=5), configs)
def test_against_the_twin(found: list[Row | None], settings: MethodConfig) -> None:
    weight = [0.5 + n for n in range(len(found))]
    total = shared(scored(found, weight), settings).total.item()
    assert total == pytest.approx(shared_reference(found, weight, settings), rel=1e-9, abs=1e-12)
    assert total >= -1e-9


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd", "skewed"])
@pytest.mark.parametrize("topk", [None, 2])
def test_gradients(divergence: str, topk: int | None) -> None:
    settings = MethodConfig.model_validate({"divergence": divergence, "student_topk": topk})
    cases: list[Row | None] = [[(0.3, 0.2), (0.2, 0.4), (0.1, 0.1)], None, [(0.5, 0.3)]]
    logp = scored(cases, [1.0, 1.0, 0.5]).rows
    assert logp is not None
    student = logp.student_logp.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda values: shared(scored(cases, [1.0, 1.0, 0.5], values), settings).total, (student,)
    )
