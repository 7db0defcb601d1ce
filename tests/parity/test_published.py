"""`alm`, `simct`, `uld` and `gold` against hand arithmetic, float64 twins and numerical gradients, and what
each gets wrong by its nature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from dragoman.config import MethodConfig
from dragoman.errors import TrainingError
from dragoman.objective import Objective, Scored, ScoredRows, ScoredUnits
from dragoman.objective.alm import LEAST, alm, log1mexp
from dragoman.objective.reference_published import (
    alm_reference,
    gold_reference,
    simct_reference,
    uld_reference,
)
from dragoman.objective.simct import simct
from dragoman.objective.sorted import gold, gold_normalised, uld

INF = math.inf
DIVERGENCES = ("forward", "reverse", "jsd", "skewed")


def config(**values: object) -> MethodConfig:
    return MethodConfig.model_validate({"row_floor": 1e-9, **values})


def logs(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).log()


def tokens(logp: Tensor, weight: Sequence[float] | None = None) -> Scored:
    """Supervised tokens without anything to compare with."""
    return Scored(
        logp=logp,
        weight=torch.ones_like(logp) if weight is None else torch.tensor(weight, dtype=logp.dtype),
    )


def total(objective: Objective, scored: Scored, settings: MethodConfig) -> float:
    return objective(scored, settings).total.item()


def units(unit_of: Sequence[int], teacher_logp: Sequence[float], num_teacher: Sequence[int]) -> ScoredUnits:
    return ScoredUnits(
        unit_of=torch.tensor(unit_of),
        teacher_logp=torch.tensor(teacher_logp, dtype=torch.float64),
        num_teacher=torch.tensor(num_teacher),
    )


# --- alm


def matched(student: Sequence[float], teacher: float, **values: object) -> float:
    """The loss of one unit, from probabilities."""
    scored = replace(tokens(logs(student)), units=units([0] * len(student), [math.log(teacher)], [1]))
    return total(alm, scored, config(**values))


def test_alm_by_hand() -> None:
    # tau = 1, S = .5 · .5 = .25, T = .5: .5 log(.5 / .25) + .5 log(.5 / .75), times two tokens
    expected = 2 * 0.5 * (math.log(2.0) + math.log(2.0 / 3.0))
    assert matched([0.5, 0.5], 0.5, tau=1.0) == pytest.approx(expected, rel=1e-12)
    # Reverse: .25 log(.25 / .5) + .75 log(.75 / .5)
    expected = 2 * (0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert matched([0.5, 0.5], 0.5, tau=1.0, divergence="reverse") == pytest.approx(expected, rel=1e-12)
    # tau = 2, S = .0625, T = .25: the roots are .25 and .5, as in the first case
    expected = 0.5 * (math.log(2.0) + math.log(2.0 / 3.0))
    assert matched([0.0625], 0.25, tau=2.0) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_alm_is_its_definition(divergence: str) -> None:
    rng = np.random.default_rng(1)
    logp, weight = -rng.exponential(2.0, 9), rng.uniform(0.1, 1.0, 9)
    of, teacher = [0, 0, -1, 1, 2, 2, 2, 3, 3], (-rng.exponential(3.0, 4)).tolist()
    settings = config(divergence=divergence, beta=0.3)
    scored = replace(tokens(torch.tensor(logp), weight.tolist()), units=units(of, teacher, [1] * 4))
    expected = alm_reference(logp.tolist(), weight.tolist(), of, teacher, settings)
    assert total(alm, scored, settings) == pytest.approx(expected, rel=1e-9)
    single = replace(scored, logp=scored.logp.float(), weight=scored.weight.float())
    assert total(alm, single, settings) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_alm_gradient(divergence: str) -> None:
    settings, of = config(divergence=divergence, tau=7.0), units([0, 0, 1, -1], [-2.0, -0.1], [1, 1])
    logp = torch.tensor([-1.0, -0.2, -3.0, -1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: alm(replace(tokens(x, [1.0, 0.5, 0.2, 1.0]), units=of), settings).total, logp
    )


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_alm_is_least_where_units_agree(divergence: str) -> None:
    logp = torch.tensor([-1.0, -2.0], dtype=torch.float64, requires_grad=True)
    scored = replace(tokens(logp), units=units([0, 0], [-3.0], [2]))
    loss = alm(scored, config(divergence=divergence)).total
    torch.autograd.backward(loss)
    assert loss.item() == pytest.approx(0.0, abs=1e-15)
    assert logp.grad is not None and logp.grad.abs().max() < 1e-12


def test_log1mexp_keeps_its_digits() -> None:
    x = [-1e-7, -1e-3, -0.5, -0.7, -5.0, -40.0, -80.0]
    # -40: 1 - exp(-40) is 1 in float64, and log1p(-exp(-40)) = -exp(-40) still has all digits
    expected = [math.log(-math.expm1(v)) if v > -0.6 else math.log1p(-math.exp(v)) for v in x]
    got = log1mexp(torch.tensor(x, dtype=torch.float32, requires_grad=True))
    assert got.tolist() == pytest.approx(expected, rel=3e-7)
    torch.autograd.backward(got.sum())


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_alm_of_certain_and_of_impossible_units_is_finite(divergence: str) -> None:
    logp = torch.tensor([0.0, -1e-7, -300.0], requires_grad=True)
    scored = replace(tokens(logp), units=units([0, 1, 2], [-400.0, 1e-4, 0.0], [1, 1, 1]))
    loss = alm(scored, config(divergence=divergence)).total
    torch.autograd.backward(loss)
    assert math.isfinite(loss.item()) and logp.grad is not None and torch.isfinite(logp.grad).all()


def test_a_unit_outside_the_batch_is_not_counted() -> None:
    logp = logs([0.5, 0.5])
    with_absent = replace(tokens(logp), units=units([1, 1], [-9.0, -0.1], [1, 1]))
    alone = replace(tokens(logp), units=units([0, 0], [-0.1], [1]))
    got, expected = (alm(scored, config()) for scored in (with_absent, alone))
    assert got.total.item() == expected.total.item()
    assert got.metrics.values() == expected.metrics.values()


def test_alm_counts_a_unit_as_often_as_it_has_tokens() -> None:
    # One probability, once in one token and once in two: twice the loss
    assert matched([0.2, 0.5], 0.3) == pytest.approx(2 * matched([0.1], 0.3), rel=1e-9)
    assert LEAST == 2.0**-24


# --- simct: tokens a and b are shared; the teacher writes "cd" as one token, the student as two


def simct_case(student: Tensor, second: Tensor) -> Scored:
    """At token 0 a row of a and b, and the realised unit in tokens 0 and 1. T is (.5, .3, .2)."""
    rows = ScoredRows(
        row_of=torch.tensor([0, 0]),
        teacher_logp=logs([0.5, 0.3]),
        student_logp=student[:2],
        teacher_rest=logs([0.2, 1.0]),
        student_rest=torch.stack([student[2], second]),
        has_row=torch.tensor([True, False]),
    )
    logp = torch.stack([student[2], second])
    return replace(tokens(logp, [0.5, 0.25]), rows=rows, units=units([0, 0], [math.log(0.2)], [1]))


def test_simct_by_hand() -> None:
    # S = (.5, .3, .2) at token 0 and 1 at token 1: the unit scores sqrt(.2 · 1)
    scored = simct_case(logs([0.5, 0.3, 0.2]), logs([1.0])[0])
    s = np.array([0.5, 0.3, math.sqrt(0.2)])
    s, t = s / s.sum(), np.array([0.5, 0.3, 0.2])
    expected = 0.5 * float((s * np.log(s / t)).sum())
    assert total(simct, scored, config()) == pytest.approx(expected, rel=1e-12)
    assert simct(scored, config()).metrics.values()["unit_rate"] == 1.0


def test_simct_is_its_definition() -> None:
    rng = np.random.default_rng(2)
    logp, weight = -rng.exponential(2.0, 7), rng.uniform(0.1, 1.0, 7)
    # Units: two tokens, one of one teacher token (the row has it), one of two teacher tokens; no row at 6
    of, teacher, num = [0, 0, 1, 2, -1, 3, 3], (-rng.exponential(3.0, 4)).tolist(), [3, 1, 2, 1]
    rows = [
        [(-rng.exponential(2.0), -rng.exponential(2.0)) for _ in range(k)] if k else None
        for k in (3, 0, 2, 1, 2, 4, 0)
    ]
    flat = [(n, t, s) for n, row in enumerate(rows) if row for t, s in row]
    scored = replace(
        tokens(torch.tensor(logp), weight.tolist()),
        rows=ScoredRows(
            row_of=torch.tensor([n for n, _, _ in flat]),
            teacher_logp=torch.tensor([t for _, t, _ in flat], dtype=torch.float64),
            student_logp=torch.tensor([s for _, _, s in flat], dtype=torch.float64),
            teacher_rest=torch.zeros(7),
            student_rest=torch.zeros(7),
            has_row=torch.tensor([row is not None for row in rows]),
        ),
        units=units(of, teacher, num),
    )
    expected = simct_reference(logp.tolist(), weight.tolist(), rows, of, teacher, num)
    assert total(simct, scored, config()) == pytest.approx(expected, rel=1e-12)
    # Of the five rows, those at tokens 0, 3 and 5 begin a unit of several tokens on a side
    assert simct(scored, config()).metrics.values()["unit_rate"] == 3 / 5


def test_simct_gradient() -> None:
    logits = torch.tensor([0.3, -0.5, 0.1, 1.2], dtype=torch.float64, requires_grad=True)

    def loss(x: Tensor) -> Tensor:
        return simct(simct_case(x[:3].log_softmax(0), -torch.exp(-x[3])), config()).total

    assert torch.autograd.gradcheck(loss, logits)


def test_simct_pushes_a_student_that_is_already_right() -> None:
    # The published form's failure: the student follows the teacher's text exactly, S = q*, and yet
    logits = logs([0.5, 0.3, 0.2]).requires_grad_()
    loss = simct(simct_case(logits.log_softmax(0), torch.zeros((), dtype=torch.float64)), config()).total
    torch.autograd.backward(loss)
    assert loss.item() > 0.01
    # ... the realised unit is held to be too likely: its first token is pushed down.
    assert logits.grad is not None and logits.grad[2] > 0.01


# --- uld and gold


def sorted_case(
    teacher: Sequence[float], student: Tensor, ranks: int, row: tuple[Sequence[float], Tensor] | None = None
) -> Scored:
    """One token: probabilities without a counterpart, and common ones as a row."""
    common = (logs([]), student[:0]) if row is None else (logs(row[0]), row[1])
    t = logs(sorted(teacher, reverse=True))[:ranks]
    s = student.sort(descending=True).values[:ranks]
    pad = [torch.full((ranks - len(x),), -INF, dtype=torch.float64) for x in (t, s)]
    rows = ScoredRows(
        row_of=torch.zeros(len(common[0]), dtype=torch.long),
        teacher_logp=common[0],
        student_logp=common[1],
        teacher_rest=torch.tensor([math.fsum(teacher)], dtype=torch.float64).log(),
        student_rest=student.exp().sum()[None].log(),
        has_row=torch.tensor([True]),
    )
    return replace(
        tokens(torch.zeros(1, dtype=torch.float64), [0.5]),
        rows=None if row is None else rows,
        teacher_sorted=torch.cat([t, pad[0]])[None],
        student_sorted=torch.cat([s, pad[1]])[None],
    )


def test_uld_by_hand() -> None:
    # Sorted (.6, .3, .1) and (.5, .5, 0): .1 + .2 + .1, times the weight
    scored = sorted_case([0.1, 0.6, 0.3], logs([0.5, 0.5]), ranks=3)
    assert total(uld, scored, config()) == pytest.approx(0.5 * 0.4, rel=1e-12)
    # Two ranks, then one bin of .1 against 0
    assert total(uld, sorted_case([0.1, 0.6, 0.3], logs([0.5, 0.5]), 2), config()) == pytest.approx(0.2)


def test_ranks_the_teacher_does_not_list_are_in_its_last_bin() -> None:
    # The teacher says .6 and nothing of the other .4: |.5 - .6| + |.5 - .4|
    scored = sorted_case([0.6, 0.4], logs([0.5, 0.5]), ranks=2)
    assert scored.teacher_sorted is not None
    scored.teacher_sorted[0, 1] = -INF
    assert total(uld, scored, config()) == pytest.approx(0.5 * 0.2, rel=1e-12)


@pytest.mark.parametrize("ranks", [1, 3, 6, 9])
@pytest.mark.parametrize(("num_t", "num_s"), [(6, 9), (9, 6), (9, 9)])
def test_uld_is_its_definition(ranks: int, num_t: int, num_s: int) -> None:
    rng = np.random.default_rng(3)
    t, s = rng.dirichlet(np.ones(num_t)), rng.dirichlet(np.ones(num_s))
    got = total(uld, sorted_case(t.tolist(), logs(s.tolist()), ranks), config())
    # Ranks that the teacher does not list are in its bin; beyond its vocabulary that is the same
    expected = uld_reference(t.tolist(), s.tolist(), ranks=min(ranks, num_t))
    assert got == pytest.approx(0.5 * expected, rel=1e-9)
    if ranks >= max(num_t, num_s):
        assert got == pytest.approx(0.5 * uld_reference(t.tolist(), s.tolist()), rel=1e-9)


def hybrid(logits: Tensor, teacher: Sequence[float], num_common: int, ranks: int) -> Scored:
    """One token of which the first `num_common` ids have a counterpart."""
    logp = logits.log_softmax(0)
    row = teacher[:num_common], logp[:num_common]
    return sorted_case(teacher[num_common:], logp[num_common:], ranks, row)


@pytest.mark.parametrize("objective", [gold, gold_normalised])
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("ranks", [2, 4])
def test_gold_is_its_definition(objective: Objective, divergence: str, ranks: int) -> None:
    rng = np.random.default_rng(4)
    teacher, student = rng.dirichlet(np.ones(7)).tolist(), rng.dirichlet(np.ones(6)).tolist()
    settings = config(divergence=divergence, beta=0.3, row_coef=0.7)
    row = [(math.log(t), math.log(s)) for t, s in zip(teacher[:3], student[:3], strict=True)]
    with_rest = objective is gold_normalised
    expected = gold_reference(row, teacher[3:], student[3:], settings, with_rest=with_rest, ranks=ranks)
    scored = hybrid(logs(student), teacher, 3, ranks)
    assert total(objective, scored, settings) == pytest.approx(0.5 * expected, rel=1e-9)


def test_gold_by_hand() -> None:
    # Common .5 against .25; of the rest (.3, .2) against (.75): .45 + .2
    scored = hybrid(logs([0.25, 0.75]), [0.5, 0.2, 0.3], 1, 2)
    expected = 0.5 * math.log(2.0) + 0.65
    assert total(gold, scored, config()) == pytest.approx(0.5 * expected, rel=1e-12)
    # The bin of the rest adds .5 log(.5 / .75)
    expected += 0.5 * math.log(2.0 / 3.0)
    assert total(gold_normalised, scored, config()) == pytest.approx(0.5 * expected, rel=1e-12)


@pytest.mark.parametrize("objective", [uld, gold, gold_normalised])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_gradient_of_sorted_objectives(objective: Objective, divergence: str) -> None:
    logits = torch.tensor([0.3, -0.5, 0.1, 1.2, -2.0], dtype=torch.float64, requires_grad=True)
    settings = config(divergence=divergence)
    assert torch.autograd.gradcheck(
        lambda x: objective(hybrid(x, [0.3, 0.1, 0.2, 0.15, 0.2, 0.05], 2, 2), settings).total, logits
    )


@pytest.mark.parametrize("objective", [uld, gold, gold_normalised])
def test_tokens_without_a_counterpart_have_no_identity(objective: Objective) -> None:
    # The published forms' failure: .4 and .1 change places on one side alone, and nothing is noticed
    teacher = [0.3, 0.2, 0.4, 0.1]
    right = hybrid(logs([0.3, 0.2, 0.4, 0.1]), teacher, 2, 2)
    wrong = hybrid(logs([0.3, 0.2, 0.1, 0.4]), teacher, 2, 2)
    assert total(objective, wrong, config()) == total(objective, right, config())
    assert total(objective, right, config(divergence="jsd")) == pytest.approx(0.0, abs=1e-15)


def test_gold_as_published_can_be_negative_and_pushes_at_the_optimum() -> None:
    # All the student has is in the row, and twice what the teacher has there: .5 log(.5 / .99) < 0
    low = total(gold, hybrid(logs([0.99, 0.01]), [0.5, 0.5], 1, 1), config(row_coef=10.0))
    assert low < 0
    # d/d logit_j of -sum_c T_c log S_c is T(common) S_j - T_j: outside the common tokens, down at S = T
    for objective, pushed in ((gold, 0.6 * 0.4), (gold_normalised, 0.0)):
        logits = logs([0.4, 0.2, 0.4]).requires_grad_()
        scored = hybrid(logits, [0.4, 0.2, 0.4], 2, 1)
        torch.autograd.backward(objective(scored, config(row_coef=1e6)).total / 1e6)
        assert logits.grad is not None
        assert logits.grad[2].item() == pytest.approx(0.5 * pushed, abs=1e-5)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_gold_normalised_is_least_where_both_agree(divergence: str) -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        teacher = rng.dirichlet(np.ones(5)).tolist()
        scored = hybrid(torch.tensor(rng.normal(size=5)), teacher, 3, 2)
        assert total(gold_normalised, scored, config(divergence=divergence)) > 0
    scored = hybrid(logs(teacher), teacher, 3, 2)
    assert total(gold_normalised, scored, config(divergence=divergence)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("objective", [gold, gold_normalised])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_gold_of_equal_vocabularies_is_the_divergence(objective: Objective, divergence: str) -> None:
    # All tokens are common, so nothing is left to sort
    rng = np.random.default_rng(6)
    t, s = rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(5))
    m = 0.3 * t + 0.7 * s
    expected = {
        "forward": (t * np.log(t / s)).sum(),
        "reverse": (s * np.log(s / t)).sum(),
        "jsd": (0.3 * t * np.log(t / m) + 0.7 * s * np.log(s / m)).sum(),
        "skewed": (t * np.log(t / m)).sum(),
    }[divergence]
    scored = hybrid(logs(s.tolist()), t.tolist(), 5, 0)
    assert scored.rows is not None
    nothing = torch.full((1,), -INF, dtype=torch.float64)
    scored = replace(scored, rows=replace(scored.rows, teacher_rest=nothing, student_rest=nothing))
    settings = config(divergence=divergence, beta=0.3)
    assert total(objective, scored, settings) == pytest.approx(0.5 * expected, rel=1e-10)


def test_gold_leaves_tokens_without_a_row_alone() -> None:
    logits = logs([0.25, 0.75]).requires_grad_()
    scored = hybrid(logits, [0.5, 0.2, 0.3], 1, 2)
    assert scored.rows is not None
    scored = replace(
        scored,
        rows=replace(
            scored.rows,
            row_of=scored.rows.row_of[:0],
            teacher_logp=scored.rows.teacher_logp[:0],
            student_logp=scored.rows.student_logp[:0],
            has_row=torch.tensor([False]),
        ),
    )
    for objective in (gold, gold_normalised):
        loss = objective(scored, config()).total
        assert loss.item() == 0.0
        assert torch.autograd.grad(loss, logits, retain_graph=True)[0].abs().max() == 0.0


@pytest.mark.parametrize(
    ("objective", "missing"),
    [(alm, "units"), (simct, "rows"), (uld, "teacher_sorted"), (gold, "rows")],
)
def test_what_is_missing_is_named(objective: Objective, missing: str) -> None:
    with pytest.raises(TrainingError, match=missing):
        objective(tokens(torch.zeros(2)), config())
