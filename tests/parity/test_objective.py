"""Losses against hand arithmetic, their float64 twin, and numerical gradients."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.config import MethodConfig
from dragoman.objective import Scored, cross_entropy, policy_gradient
from dragoman.objective.reference import policy_gradient_reference

EPSILON = float(torch.finfo(torch.float32).eps)
TINY = float(torch.finfo(torch.float32).tiny)

configs = st.builds(
    MethodConfig,
    clip_low=st.sampled_from([0.1, 0.2, 0.5]),
    clip_high=st.sampled_from([0.1, 0.28, 2.0]),
    dual_clip=st.sampled_from([None, 1.5, 10.0]),
    log_ratio_clamp=st.sampled_from([0.5, 20.0]),
)


class Tokens(NamedTuple):
    """What the policy gradient is a function of, float32."""

    logp: torch.Tensor
    behaviour: torch.Tensor
    credit: torch.Tensor
    weight: torch.Tensor

    def double(self) -> Tokens:
        return Tokens(*(values.double() for values in self))

    def scored(self) -> Scored:
        return Scored(
            logp=self.logp,
            behaviour_logp=self.behaviour,
            credit=self.credit,
            weight=self.weight,
        )


@st.composite
def tokens(draw: st.DrawFn) -> Tokens:
    size = draw(st.integers(1, 8))

    def column(low: float, high: float) -> torch.Tensor:
        values = draw(st.lists(st.floats(low, high, width=32), min_size=size, max_size=size))
        return torch.tensor(values, dtype=torch.float32)

    logp = column(-30.0, 0.0)
    return Tokens(logp, logp + column(-3.0, 3.0), column(-10.0, 10.0), column(0.0, 1.0))


def total(case: Tokens, config: MethodConfig) -> float:
    return policy_gradient(case.scored(), config).total.double().item()


def twin(case: Tokens, config: MethodConfig) -> float:
    logp, behaviour, credit, weight = (values.double().tolist() for values in case)
    return policy_gradient_reference(logp, behaviour, credit, weight, config)


def single(ratio: float, credit: float, **constants: float | None) -> float:
    """The loss of one token of weight 1."""
    case = Tokens(*(torch.tensor([x]) for x in (math.log(ratio) - 1.0, -1.0, credit, 1.0)))
    return total(case, MethodConfig.model_validate(constants))


def plain(case: Tokens, config: MethodConfig) -> torch.Tensor:
    """The loss as one would type it."""
    logp, old, a, w = case
    r = (logp - old).clamp(-config.log_ratio_clamp, config.log_ratio_clamp).exp()
    gain = torch.min(r * a, r.clamp(1 - config.clip_low, 1 + config.clip_high) * a)
    if config.dual_clip is not None:
        gain = torch.where(a < 0, torch.max(gain, config.dual_clip * a), gain)
    return -(w * gain).sum()


# --- hand arithmetic


@pytest.mark.parametrize(
    ("ratio", "credit", "expected"),
    [
        # On the policy, -A.
        (1.0, 2.0, -2.0),
        (1.0, -2.0, 2.0),
        # Inside the clip, -r A.
        (1.25, 2.0, -2.5),
        (0.9, -2.0, 1.8),
        # A > 0: the gain stops at 1.28 A, and a ratio that fell costs all of r A.
        (1.5, 2.0, -2.56),
        (0.5, 2.0, -1.0),
        # A < 0: the gain stops at 0.8 A, and a ratio that rose costs all of r A ...
        (0.5, -2.0, 1.6),
        (5.0, -2.0, 10.0),
        # ... up to the dual clip, 10 |A|.
        (30.0, -2.0, 20.0),
        # The dual clip leaves A > 0 alone: the upper clip has cut it long before.
        (30.0, 2.0, -2.56),
        (1.5, 0.0, 0.0),
    ],
)
def test_by_hand(ratio: float, credit: float, expected: float) -> None:
    assert single(ratio, credit) == pytest.approx(expected, rel=1e-6)


def test_without_dual_clip() -> None:
    # min(30 · -2, 1.28 · -2) = -60
    assert single(30.0, -2.0, dual_clip=None) == pytest.approx(60.0, rel=1e-6)


def test_log_ratio_clamp() -> None:
    # exp(5) is clamped to exp(2), the dual clip is off: 2 exp(2)
    loss = single(math.exp(5.0), -2.0, dual_clip=None, log_ratio_clamp=2.0)
    assert loss == pytest.approx(2.0 * math.exp(2.0), rel=1e-6)


def test_a_ratio_beyond_float32_stays_finite() -> None:
    case = Tokens(*(torch.tensor([x]) for x in (0.0, -200.0, -1.0, 1.0)))
    # exp(200) is infinite in float32, exp(20) is not
    assert total(case, MethodConfig(dual_clip=None)) == pytest.approx(math.exp(20.0), rel=1e-6)


def test_sum_and_metrics() -> None:
    # Ratios 1, 1.5 (clipped, A > 0), 0.5 (clipped, A < 0), 0.5 (not: A > 0); weights 1, 0.5, 0.25, 0
    ratio = torch.tensor([1.0, 1.5, 0.5, 0.5])
    credit, weight = torch.tensor([2.0, 2.0, -2.0, 2.0]), torch.tensor([1.0, 0.5, 0.25, 0.0])
    behaviour = torch.full((4,), -1.0)
    output = policy_gradient(
        Tokens(behaviour + ratio.log(), behaviour, credit, weight).scored(), MethodConfig()
    )
    # -2 - 0.5 · 2.56 + 0.25 · 1.6 = -2.88
    assert output.total.item() == pytest.approx(-2.88, rel=1e-6)
    values = output.metrics.values()
    assert values["clip_rate"] == 0.5
    assert values["log_ratio_clamp_rate"] == 0.0
    # (1 + 1.5 + 2 · 0.5) / 4
    assert values["policy_ratio"] == pytest.approx(0.875, rel=1e-6)
    # (0 + log 1.5 + 2 log 2) / 4
    assert values["policy_shift"] == pytest.approx((math.log(1.5) + 2 * math.log(2)) / 4, rel=1e-6)


def test_log_ratio_clamp_is_counted() -> None:
    behaviour = torch.zeros(4)
    logp = torch.tensor([-25.0, -20.0, -0.5, -30.0])
    output = policy_gradient(Tokens(logp, behaviour, torch.ones(4), torch.ones(4)).scored(), MethodConfig())
    assert output.metrics.values()["log_ratio_clamp_rate"] == 0.5


def test_no_tokens() -> None:
    empty = torch.zeros(0, requires_grad=True)
    output = policy_gradient(Tokens(empty, *[empty.detach()] * 3).scored(), MethodConfig())
    torch.autograd.backward(output.total)
    assert output.total.item() == 0.0
    assert all(math.isnan(value) for value in output.metrics.values().values())


# --- float64 twin


@settings(deadline=None)
@given(tokens(), configs)
def test_the_definition_in_float64(case: Tokens, config: MethodConfig) -> None:
    assert total(case.double(), config) == pytest.approx(twin(case, config), rel=1e-12, abs=1e-12)


@settings(deadline=None)
@given(tokens(), configs)
def test_no_less_exact_than_the_plain_formula(case: Tokens, config: MethodConfig) -> None:
    exact = twin(case, config)
    error = abs(total(case, config) - exact)
    obvious = abs(plain(case, config).double().item() - exact)
    # One rounding of the sum apart at most: the order of additions is free.
    largest = plain(Tokens(case.logp, case.behaviour, -case.credit.abs(), case.weight), config).abs().item()
    assert error <= obvious + 2 * EPSILON * largest


def test_the_twin_by_hand() -> None:
    # min(0.5 · -2, 0.8 · -2) = -1.6, times 0.25
    loss = policy_gradient_reference([math.log(0.5) - 1.0], [-1.0], [-2.0], [0.25], MethodConfig())
    assert loss == pytest.approx(0.4, rel=1e-12)


def test_the_twin_refuses_axes_that_differ() -> None:
    with pytest.raises(ValueError, match="zip"):
        policy_gradient_reference([-1.0, -1.0], [-1.0], [1.0], [1.0], MethodConfig())


# --- gradients


@pytest.mark.parametrize("dual_clip", [None, 10.0])
def test_numerical_gradient(dual_clip: float | None) -> None:
    # Away from the kinks, on either side of both clips and of the dual clip
    ratios = np.repeat([0.3, 0.7, 0.9, 1.1, 1.2, 1.5, 5.0, 30.0], 2)
    credit = torch.tensor([1.5, -0.7] * 8, dtype=torch.float64)
    weight = torch.linspace(0.1, 1.0, 16, dtype=torch.float64)
    behaviour = torch.full((16,), -4.0, dtype=torch.float64)
    logp = (behaviour + torch.from_numpy(np.log(ratios))).requires_grad_()
    config = MethodConfig(dual_clip=dual_clip)
    assert torch.autograd.gradcheck(
        lambda values: policy_gradient(Tokens(values, behaviour, credit, weight).scored(), config).total,
        logp,
    )


def test_gradient_is_zero_where_clipped() -> None:
    # r = 1.5 with A > 0, r = 0.5 with A < 0, r = 30 with A < 0: in turn upper, lower and dual clip;
    # then r = 1.5 with A < 0 and weight 0.5: d(-w r A)/d logp = -w r A = 1.5
    behaviour = torch.full((4,), -4.0)
    logp = (behaviour + torch.tensor([1.5, 0.5, 30.0, 1.5]).log()).requires_grad_()
    credit, weight = torch.tensor([2.0, -2.0, -2.0, -2.0]), torch.tensor([1.0, 1.0, 1.0, 0.5])
    case = Tokens(logp, behaviour, credit, weight)
    torch.autograd.backward(policy_gradient(case.scored(), MethodConfig()).total)
    assert logp.grad is not None
    assert logp.grad.tolist() == pytest.approx([0.0, 0.0, 0.0, 1.5])


@settings(deadline=None)
@given(tokens(), configs)
def test_on_the_policy_it_is_the_score_function_gradient(case: Tokens, config: MethodConfig) -> None:
    logp = case.logp.clone().requires_grad_()
    on_policy = Tokens(logp, case.logp, case.credit, case.weight)
    torch.autograd.backward(policy_gradient(on_policy.scored(), config).total)
    score = case.logp.clone().requires_grad_()
    torch.autograd.backward(-(case.weight * case.credit * score).sum())
    assert logp.grad is not None
    assert score.grad is not None
    torch.testing.assert_close(logp.grad, score.grad, rtol=2 * EPSILON, atol=TINY)


# --- cross-entropy


def test_cross_entropy() -> None:
    # -(1 · -2 + 0.5 · -1 + 0 · -7) = 2.5, and its gradient is -weight
    logp = torch.tensor([-2.0, -1.0, -7.0], requires_grad=True)
    weight = torch.tensor([1.0, 0.5, 0.0])
    output = cross_entropy(Scored(logp=logp, weight=weight), MethodConfig())
    torch.autograd.backward(output.total)
    assert output.total.item() == 2.5
    assert logp.grad is not None
    assert logp.grad.tolist() == [-1.0, -0.5, 0.0]
    assert output.metrics.values() == {}


@given(tokens())
def test_cross_entropy_is_torchs(case: Tokens) -> None:
    # The log-probs of two-way choices, so that torch can start from logits
    logp = case.logp.double().clamp_max(-1e-3)
    logits = torch.stack([logp, torch.log1p(-logp.exp())], dim=-1)
    weight = case.weight.double()
    expected = torch.nn.functional.cross_entropy(
        logits, torch.zeros(len(logp), dtype=torch.long), reduction="none"
    )
    total = cross_entropy(Scored(logp=logp, weight=weight), MethodConfig()).total
    torch.testing.assert_close(total, (weight * expected).sum(), rtol=1e-10, atol=1e-12)
