"""Partial rows, of which only the proportions of the candidates are known: values, gradients, batches."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from dragoman.config import MethodConfig
from dragoman.objective import row_divergence
from dragoman.objective.conditional import log_softmax, on_candidates
from dragoman.objective.reference_rows import divergence_reference, row_divergence_reference
from dragoman.objective.scored import Scored, ScoredRows
from dragoman.train.ragged import joined_rows
from dragoman.types import RowLabel, Rows

CANDIDATES = ((0, 2), (1,), (3,))
"""Of 6 ids; 4 and 5 are in no candidate."""
TEACHER = (0.4, 0.2, 0.1)
RESIDUAL = 0.3
WEIGHT = (0.5, 0.25, 0.75)
DIVERGENCES = ("forward", "reverse", "jsd", "skewed")


def settings(divergence: str, **more: object) -> MethodConfig:
    return MethodConfig.model_validate({"divergence": divergence, "beta": 0.3, **more})


def scored(logits: Tensor, partial: list[bool] | None, teacher: tuple[float, ...] = TEACHER) -> Scored:
    """The same row for each of three tokens with logits of their own; the third token has none."""
    logp = logits.log_softmax(-1)
    student = [logp[n, list(ids)].logsumexp(0) for n in (0, 1) for ids in CANDIDATES]
    rest = logp[:, [4, 5]].logsumexp(-1)
    residual = max(1.0 - sum(teacher), 0.0)
    rows = ScoredRows(
        row_of=torch.tensor([0, 0, 0, 1, 1, 1]),
        teacher_logp=torch.tensor([math.log(t) for t in teacher] * 2, dtype=logits.dtype),
        student_logp=torch.stack(student),
        teacher_rest=torch.tensor([residual, residual, 0.0], dtype=logits.dtype).log(),
        student_rest=rest,
        has_row=torch.tensor([True, True, False]),
        partial=None if partial is None else torch.tensor(partial),
    )
    nothing = torch.zeros(3, dtype=logits.dtype)
    return Scored(logp=nothing, weight=torch.tensor(WEIGHT, dtype=logits.dtype), rows=rows)


def random_logits(seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(3, 6))).requires_grad_()


@pytest.mark.parametrize("reliability", ["off", "mass"])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_value_by_definition(divergence: str, reliability: str) -> None:
    logits, config = random_logits(), settings(divergence, reliability=reliability, row_coef=2.0)
    loss = row_divergence(scored(logits, [True, False, False]), config)
    law = logits.detach().softmax(-1).numpy()
    total = 0.0
    for n, partial in ((0, True), (1, False)):
        student = [float(law[n, list(ids)].sum()) for ids in CANDIDATES]
        bins = list(zip(TEACHER, student, strict=True))
        weight = 2.0 * WEIGHT[n]
        if partial:
            # Both sides given that it is a candidate, and the teacher's .7 of that as a weight, once
            bins = [(t / 0.7, s / sum(student)) for t, s in bins]
            weight *= 0.7
        else:
            bins.append((RESIDUAL, 1.0 - sum(student)))
            weight *= 1.0 - RESIDUAL if reliability == "mass" else 1.0
        total += weight * divergence_reference(bins, config)
    assert float(loss.total.detach()) == pytest.approx(total, rel=1e-12)
    candidates = [
        [(t, float(law[n, list(ids)].sum())) for t, ids in zip(TEACHER, CANDIDATES, strict=True)]
        for n in (0, 1)
    ]
    rows = [[*bins, (RESIDUAL, 1.0 - sum(s for _, s in bins))] for bins in candidates]
    twin = row_divergence_reference([*rows, None], WEIGHT, config, [True, False, False])
    assert twin == pytest.approx(total, rel=1e-12)
    # what is left out is reported all the same
    assert loss.metrics.ratios["row_residual"].value == pytest.approx(RESIDUAL)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_gradients(divergence: str) -> None:
    config = settings(divergence)
    assert torch.autograd.gradcheck(
        lambda logits: row_divergence(scored(logits, [True, False, False]), config).total, random_logits()
    )


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_at_the_right_proportions_nothing_is_pushed(divergence: str) -> None:
    # .4, .2 and .1 times anything, ids 0 and 2 of the first set in any proportion, and anything elsewhere
    law = np.array([[0.1, 0.1, 0.1, 0.05, 0.5, 0.15], [0.2, 0.2, 0.2, 0.1, 0.05, 0.25], [1 / 6] * 6])
    logits = torch.from_numpy(np.log(law)).requires_grad_()
    loss = row_divergence(scored(logits, [True, True, False]), settings(divergence))
    torch.autograd.backward(loss.total)
    assert float(loss.total.detach()) == pytest.approx(0.0, abs=1e-12)
    assert logits.grad is not None and float(logits.grad.abs().max()) < 1e-12
    # the same student is pushed by a row that is not partial, as it should have .7 there
    logits.grad = None
    torch.autograd.backward(row_divergence(scored(logits, None), settings(divergence)).total)
    assert float(logits.grad[0].abs().max()) > 1e-2


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_nothing_outside_the_candidates_is_pushed(divergence: str) -> None:
    logits = random_logits(1)
    torch.autograd.backward(row_divergence(scored(logits, [True, False, False]), settings(divergence)).total)
    grad = logits.grad
    assert grad is not None
    assert float(grad[0, 4:].abs().max()) < 1e-15 and float(grad[0, :4].abs().max()) > 1e-3
    assert float(grad[1, 4:].abs().max()) > 1e-3 and not grad[2].any()


def test_no_row_is_partial_unless_it_says_so() -> None:
    plain, none = (
        row_divergence(scored(random_logits(), partial), settings("forward"))
        for partial in (None, [False, False, False])
    )
    assert float(plain.total.detach()) == float(none.total.detach())


def test_a_partial_row_without_residual_is_a_whole_one_given_the_candidates() -> None:
    logits = random_logits(2)
    rows = scored(logits, [True, True, False], (0.5, 0.3, 0.2)).rows
    assert rows is not None
    given = on_candidates(rows, rows.partial)
    torch.testing.assert_close(given.teacher_logp, rows.teacher_logp)
    assert torch.isneginf(given.teacher_rest[:2]).all() and torch.isneginf(given.student_rest[:2]).all()
    # the other token's fields are as they were
    assert given.student_rest[2] == rows.student_rest[2]
    torch.testing.assert_close(given.student_logp[:3].exp().sum(), torch.tensor(1.0, dtype=torch.float64))


def test_a_row_without_mass_gives_no_nan() -> None:
    logp = torch.tensor([-torch.inf, -torch.inf, -1.0, -2.0], dtype=torch.float64, requires_grad=True)
    found = log_softmax(logp, torch.tensor([0, 0, 1, 1]), 2)
    assert torch.isneginf(found[:2]).all()
    assert float(found[2:].detach().exp().sum()) == pytest.approx(1.0)
    torch.autograd.backward(torch.where(torch.tensor([False, False, True, True]), found, logp.detach()).sum())
    assert logp.grad is not None and torch.isfinite(logp.grad).all()


# --- joined in a batch


def rows_of(partial: list[bool] | None, sets: bool) -> Rows:
    """Tokens 0 and 2 have a row of two candidates, token 1 has none."""
    return Rows(
        bounds=np.array([0, 2, 2, 4]),
        ids=np.array([1, 2, 3, 4, 5, 6]) if sets else np.array([1, 2, 3, 4]),
        logp=np.log(np.array([0.5, 0.25, 0.5, 0.125], np.float32)),
        residual=np.array([0.25, 0.0, 0.375], np.float32),
        label=np.array([RowLabel.HEURISTIC, RowLabel.NONE, RowLabel.HEURISTIC], np.uint8),
        member_bounds=np.array([0, 2, 3, 4, 6]) if sets else None,
        partial=None if partial is None else np.array(partial),
    )


def test_partial_rows_are_joined() -> None:
    parts = [
        rows_of([False, False, True], True),
        None,
        rows_of(None, False),
        rows_of([True, False, False], False),
    ]
    kept = [np.array([1, 2]), np.array([0]), np.array([0, 2]), np.array([0])]
    joined = joined_rows(parts, kept)
    assert joined is not None and joined.partial is not None
    assert joined.partial.tolist() == [False, True, False, False, False, True]
    assert joined.bounds.tolist() == [0, 0, 2, 2, 4, 6, 8]
    assert joined.member_bounds is not None
    # of the first response the sets 4 | 5 6, then single tokens
    assert joined.ids.tolist() == [4, 5, 6, 1, 2, 3, 4, 1, 2]
    assert joined.member_bounds.tolist() == [0, 1, 3, 4, 5, 6, 7, 8, 9]


def test_rows_of_which_none_is_partial_say_nothing_of_it() -> None:
    joined = joined_rows([rows_of(None, False), None], [np.array([0]), np.array([0, 1])])
    assert joined is not None and joined.partial is None
    picked = joined_rows([replace(rows_of(None, True), partial=np.zeros(3, bool))], [np.array([2])])
    assert picked is not None and picked.partial is not None and not picked.partial.any()
