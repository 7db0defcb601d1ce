"""Divergences over bins and the losses on rows: hand arithmetic, float64 twins, gradients, invariances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dragoman.config import MethodConfig
from dragoman.errors import TrainingError
from dragoman.models import Candidates
from dragoman.models.candidates import candidate_masses
from dragoman.objective import Scored, ScoredRows, mixed, modified, policy_gradient, row_divergence
from dragoman.objective.divergence import divergence, reverse_kl, row_bins, teacher_entropy
from dragoman.objective.reference_rows import (
    Row,
    divergence_reference,
    reference_kl_reference,
    row_divergence_reference,
)

KINDS = ("forward", "reverse", "jsd", "skewed")
LOG2 = math.log(2)


def config(**keys: Any) -> MethodConfig:
    return MethodConfig.model_validate(keys)


def scored_rows(rows: Sequence[Row | None], dtype: torch.dtype = torch.float64) -> ScoredRows:
    """Rows as lists of (T, S), the last bin being the residual; None is a token without a row."""
    bins = [(n, t, s) for n, row in enumerate(rows) if row is not None for t, s in row[:-1]]
    rest = [(0.0, 1.0) if row is None else row[-1] for row in rows]
    return ScoredRows(
        row_of=torch.tensor([n for n, _, _ in bins], dtype=torch.long),
        teacher_logp=torch.tensor([t for _, t, _ in bins], dtype=dtype).log(),
        student_logp=torch.tensor([s for _, _, s in bins], dtype=dtype).log(),
        teacher_rest=torch.tensor([t for t, _ in rest], dtype=dtype).log(),
        student_rest=torch.tensor([s for _, s in rest], dtype=dtype).log(),
        has_row=torch.tensor([row is not None for row in rows]),
    )


def scored(rows: ScoredRows | None, weight: Sequence[float], **more: Any) -> Scored:
    size = torch.tensor(weight, dtype=torch.float64)
    return Scored(**{"logp": torch.zeros_like(size), "weight": size, "rows": rows} | more)


@st.composite
def laws(draw: st.DrawFn) -> tuple[list[Row | None], list[float]]:
    """Rows of one to five bins with masses that sum to 1 on either side, zeros of the teacher among them."""

    def law(size: int, least: int) -> list[float]:
        parts = draw(st.lists(st.integers(least, 1000), min_size=size, max_size=size).filter(any))
        return [part / sum(parts) for part in parts]

    rows: list[Row | None] = []
    for _ in range(draw(st.integers(1, 4))):
        size = draw(st.integers(1, 5))
        row = list(zip(law(size, 0), law(size, 1), strict=True))
        rows.append(row if draw(st.booleans()) or not rows else None)
    return rows, draw(st.lists(st.floats(0, 1), min_size=len(rows), max_size=len(rows)))


# --- hand arithmetic


@pytest.mark.parametrize(
    ("kind", "keys", "expected"),
    [
        # T = (1/2, 1/2), S = (1/4, 3/4)
        ("forward", {}, 0.5 * math.log(2) + 0.5 * math.log(2 / 3)),
        ("reverse", {}, 0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2)),
        # M = (3/8, 5/8)
        (
            "jsd",
            {"beta": 0.5},
            0.25 * (math.log(4 / 3) + math.log(4 / 5))
            + 0.5 * (0.25 * math.log(2 / 3) + 0.75 * math.log(6 / 5)),
        ),
        # M = 1/5 T + 4/5 S = (0.3, 0.7)
        ("skewed", {"beta": 0.2}, 0.5 * math.log(5 / 3) + 0.5 * math.log(5 / 7)),
    ],
)
def test_by_hand(kind: str, keys: dict[str, float], expected: float) -> None:
    bins = row_bins(scored_rows([[(0.5, 0.25), (0.5, 0.75)]]))
    assert divergence(bins, config(divergence=kind, **keys)).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # T = (1, 0), S = (1/2, 1/2): log 2; the floor 1e-6 in place of 0; M = (3/4, 1/4)
        ("forward", LOG2),
        ("reverse", -LOG2 - 0.5 * math.log(1e-6)),
        ("jsd", 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3) + 0.25 * LOG2),
        ("skewed", math.log(4 / 3)),
    ],
)
def test_no_residual(kind: str, expected: float) -> None:
    rows = scored_rows([[(1.0, 0.5), (0.0, 0.5)]])
    assert divergence(row_bins(rows), config(divergence=kind)).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_without_anything_outside(kind: str) -> None:
    # T = S = (1 - 1e-8, 1e-8), but the student's candidates are its whole vocabulary: rounding, no loss
    rows = scored_rows([[(1.0 - 1e-8, 1.0), (1e-8, 0.0)]])
    rows.student_rest.requires_grad_()
    value = divergence(row_bins(rows), config(divergence=kind))
    assert abs(value.item()) < 1e-6
    torch.autograd.backward(value.sum())
    assert rows.student_rest.grad is not None and rows.student_rest.grad.isfinite().all()


def test_what_a_student_cannot_say_is_infinite() -> None:
    rows = scored_rows([[(0.9, 1.0), (0.1, 0.0)]])
    assert divergence(row_bins(rows), config(divergence="forward")).item() == math.inf
    assert divergence(row_bins(rows), config(divergence="skewed")).item() < -math.log(0.5)


def test_entropy() -> None:
    # log 2, and 1/2 log 2 + 1/2 log 4 = 1.5 log 2
    rows = scored_rows([[(0.5, 0.1), (0.5, 0.9), (0.0, 0.0)], None, [(0.5, 0.2), (0.25, 0.2), (0.25, 0.6)]])
    assert teacher_entropy(row_bins(rows)).tolist() == pytest.approx([LOG2, 0, 1.5 * LOG2])


# --- float64 twins


@settings(deadline=None)
@given(laws(), st.sampled_from(KINDS), st.sampled_from([0.1, 0.5, 0.9]))
def test_the_definition(case: tuple[list[Row | None], list[float]], kind: str, beta: float) -> None:
    rows, weight = case
    for keys in ({}, {"reliability": "mass", "row_coef": 0.3}, {"entropy_switch": 0.5}):
        if keys.get("entropy_switch") and kind == "forward":
            continue
        chosen = config(divergence=kind, beta=beta, **keys)
        total = row_divergence(scored(scored_rows(rows), weight), chosen).total.item()
        assert total == pytest.approx(row_divergence_reference(rows, weight, chosen), rel=1e-9, abs=1e-9)


@settings(deadline=None)
@given(laws(), st.sampled_from(KINDS))
def test_float32_is_near_the_definition(case: tuple[list[Row | None], list[float]], kind: str) -> None:
    rows, _ = case
    chosen = config(divergence=kind)
    values = divergence(row_bins(scored_rows(rows, torch.float32)), chosen)
    expected = [0.0 if row is None else divergence_reference(row, chosen) for row in rows]
    # Masses are sums of rounded terms of at most log(1 / floor) nats
    assert values.tolist() == pytest.approx(expected, abs=5e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_numerical_gradient(kind: str) -> None:
    rows = scored_rows([[(0.5, 0.2), (0.3, 0.7), (0.2, 0.1)], None, [(0.0, 0.4), (1.0, 0.6)]])
    chosen = config(divergence=kind, beta=0.3)

    def total(student: Tensor, rest: Tensor) -> Tensor:
        own = ScoredRows(**{**vars(rows), "student_logp": student, "student_rest": rest})
        return row_divergence(scored(own, [1.0, 1.0, 0.5]), chosen).total

    inputs = (rows.student_logp.requires_grad_(), rows.student_rest.requires_grad_())
    assert torch.autograd.gradcheck(total, inputs)


# --- properties of the gradient in logits


def row_of_logits(logits: Tensor, ids: Sequence[int], teacher: Sequence[float]) -> ScoredRows:
    """One row of single tokens over a softmax student; the teacher's last mass is the residual."""
    own = Candidates(row=torch.zeros(len(ids), dtype=torch.long), ids=torch.tensor(ids))
    inside, rest = candidate_masses(logits[None], own)
    law = torch.tensor(teacher, dtype=torch.float64).log()
    return ScoredRows(
        row_of=own.row,
        teacher_logp=law[:-1],
        student_logp=inside,
        teacher_rest=law[-1:],
        student_rest=rest,
        has_row=torch.tensor([True]),
    )


def push(logits: Tensor, ids: Sequence[int], teacher: Sequence[float], chosen: MethodConfig) -> Tensor:
    """The gradient of the divergence in the logits."""
    logits = logits.clone().requires_grad_()
    torch.autograd.backward(divergence(row_bins(row_of_logits(logits, ids, teacher)), chosen).sum())
    assert logits.grad is not None
    return logits.grad


LOGITS = torch.tensor([0.3, -1.2, 2.0, 0.0, 0.7], dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_no_push_where_all_bins_agree(kind: str) -> None:
    # T has the student's masses of tokens 2 and 0, and of the rest as one bin: nothing moves, neither inside
    # nor outside the candidates
    law = LOGITS.softmax(-1)
    teacher = [law[2].item(), law[0].item(), (law[1] + law[3] + law[4]).item()]
    assert push(LOGITS, [2, 0], teacher, config(divergence=kind, beta=0.3)).abs().max() < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_added_to_the_logits_changes_nothing(kind: str) -> None:
    chosen = config(divergence=kind, beta=0.3)
    first = push(LOGITS, [2, 0], [0.1, 0.6, 0.3], chosen)
    assert torch.allclose(push(LOGITS + 7.5, [2, 0], [0.1, 0.6, 0.3], chosen), first, rtol=1e-10, atol=1e-12)
    # And so the gradient has no part along it
    assert abs(first.sum().item()) < 1e-12
    assert first.abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_outside_keep_their_proportions(kind: str) -> None:
    # One bin outside: its tokens are pushed in proportion to their mass
    grad = push(LOGITS, [2, 0], [0.1, 0.6, 0.3], config(divergence=kind, beta=0.3))[[1, 3, 4]]
    ratio = grad / LOGITS.softmax(-1)[[1, 3, 4]]
    assert torch.allclose(ratio, ratio[0].expand(3), rtol=1e-9)


def test_the_floor_bounds_reverse_kl() -> None:
    bins = row_bins(scored_rows([[(1e-30, 1.0), (1.0, 1e-12)]]))
    assert reverse_kl(bins, 1e-6).item() == pytest.approx(-math.log(1e-6), rel=1e-6)


# --- losses


def test_metrics_and_switches() -> None:
    rows = scored_rows([[(0.7, 0.7), (0.1, 0.1), (0.2, 0.2)], None, [(0.9, 0.5), (0.1, 0.5)]])
    output = row_divergence(scored(rows, [1.0, 1.0, 2.0]), config(divergence="reverse", entropy_switch=0.5))
    # Row 0 has .80 nats: forward, of value 0. Row 2 has .33 nats: reverse, 1/2 log(5/9) + 1/2 log 5
    reverse = 0.5 * math.log(5 / 9) + 0.5 * math.log(5)
    assert output.total.item() == pytest.approx(2 * reverse, rel=1e-9)
    assert output.metrics.values() == pytest.approx(
        {"row_divergence": reverse / 2, "row_residual": 0.15, "row_rate": 2 / 3, "row_forward_rate": 0.5}
    )


def test_a_batch_without_rows() -> None:
    with pytest.raises(TrainingError, match="'rows'"):
        row_divergence(scored(None, [1.0]), config())


def tokens() -> Scored:
    """Four tokens: credits 1, -1, -1, 0; the third has no row."""
    row = [(0.8, 0.5), (0.2, 0.5)]
    logp = torch.full((4,), -1.0, dtype=torch.float64)
    credit = torch.tensor([1.0, -1.0, -1.0, 0.0], dtype=torch.float64)
    return scored(
        scored_rows([row, row, None, row]), [1.0] * 4, logp=logp, behaviour_logp=logp, credit=credit
    )


def test_mixed_is_the_sum() -> None:
    chosen = config(credit_coef=0.5, row_coef=2.0)
    one = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    # The policy gradient at ratio 1 is -(1 - 1 - 1 + 0) = 1
    assert mixed(tokens(), chosen).total.item() == pytest.approx(0.5 + 2 * 3 * one, rel=1e-9)


def test_mixed_by_the_sign_of_the_credit() -> None:
    one = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    # Policy gradient on tokens 0 (-1) and 2 (+1, no row); the rows of tokens 1 and 3
    output = mixed(tokens(), config(negative="divergence"))
    assert output.total.item() == pytest.approx(2 * one, rel=1e-9)
    assert {"clip_rate", "row_divergence"} <= output.metrics.values().keys()


# --- modifiers


def test_no_modifier_is_the_same_loss() -> None:
    plain, wrapped = policy_gradient(tokens(), config()), modified(policy_gradient)(tokens(), config())
    assert torch.equal(plain.total, wrapped.total)
    assert plain.metrics.values() == wrapped.metrics.values()


def test_moved_tokens_are_left_out() -> None:
    behaviour = torch.tensor([-1.0, -1.4, -3.0, -0.5], dtype=torch.float64)
    case = Scored(**{**vars(tokens()), "behaviour_logp": behaviour})
    output = modified(row_divergence)(case, config(max_policy_shift=0.45))
    # Tokens 2 and 3 moved by 2 and .5; of the rows those of tokens 0 and 1 remain
    one = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    assert output.total.item() == pytest.approx(2 * one, rel=1e-9)
    assert output.metrics.values()["policy_shift_mask_rate"] == 0.5


def test_reference_kl() -> None:
    # r = log 2: 2 - log 2 - 1; r = 0: 0; r = 30 clamped to 20, weight 0
    logp = torch.tensor([-1.0, -1.0, -31.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-1.0 + LOG2, -1.0, -1.0], dtype=torch.float64)
    weight = [0.5, 1.0, 0.0]
    case = scored(
        None, weight, logp=logp, reference_logp=reference, credit=reference * 0, behaviour_logp=logp
    )
    chosen = config(reference_kl=0.2)
    output = modified(policy_gradient)(case, chosen)
    assert output.total.item() == pytest.approx(0.2 * 0.5 * (1 - LOG2), rel=1e-9)
    twin = reference_kl_reference(logp.tolist(), reference.tolist(), weight, chosen)
    assert output.total.item() == pytest.approx(twin, rel=1e-12)
    torch.autograd.backward(output.total)
    # weight * coefficient * (1 - exp(r))
    assert logp.grad is not None and logp.grad.tolist() == pytest.approx([-0.1, 0.0, 0.0])
    with pytest.raises(TrainingError, match="'reference_logp'"):
        modified(policy_gradient)(tokens(), chosen)
