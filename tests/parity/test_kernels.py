"""Kernels of other libraries behind `train.loss_impl`, by stand-ins with their signatures; and where they do
not fit, the library's own loss with a word about it."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dragoman.models import Candidates, TokenScorer, TokenScores, kernels
from dragoman.models.kernels import scores_by_kernel
from dragoman.models.slices import Asked

NUM, WIDTH, IDS = 6, 8, 40


@pytest.fixture(autouse=True)
def _says_it_again() -> None:
    kernels._say.cache_clear()


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Both, on any device; what is returned is which were called."""
    called: list[str] = []

    def linear_cross_entropy(
        e: Tensor, c: Tensor, targets: Tensor, *, reduction: str, filter_eps: Any
    ) -> Tensor:
        assert filter_eps is None, "small gradients would be left out"
        assert len(e), "the library divides by the number of positions"
        called.append("cce")
        return nn.functional.cross_entropy((e @ c.T).float(), targets, reduction=reduction)

    class LigerFusedLinearCrossEntropyLoss:
        def __init__(self, reduction: str) -> None:
            self.reduction = reduction

        def __call__(self, weight: Tensor, inputs: Tensor, target: Tensor, bias: Tensor | None) -> Tensor:
            assert len(inputs), "the library divides by the number of positions"
            called.append("liger")
            logits = nn.functional.linear(inputs, weight, bias).float()
            return nn.functional.cross_entropy(logits, target, reduction=self.reduction)

    monkeypatch.setitem(
        sys.modules, "cut_cross_entropy", SimpleNamespace(linear_cross_entropy=linear_cross_entropy)
    )
    monkeypatch.setitem(sys.modules, "liger_kernel", SimpleNamespace())
    monkeypatch.setitem(
        sys.modules,
        "liger_kernel.transformers",
        SimpleNamespace(LigerFusedLinearCrossEntropyLoss=LigerFusedLinearCrossEntropyLoss),
    )
    monkeypatch.setattr(kernels, "DEVICES", ("cpu",))
    monkeypatch.setattr(kernels, "version", {"cut-cross-entropy": "25.1.1", "liger-kernel": "0.8.2"}.get)
    return called


def problem(dtype: torch.dtype = torch.float32) -> tuple[Tensor, nn.Linear]:
    generator = torch.Generator().manual_seed(2)
    head = nn.Linear(WIDTH, IDS, bias=False)
    nn.init.normal_(head.weight, generator=generator)
    inputs = torch.randn((NUM, WIDTH), generator=generator)
    return inputs.to(dtype).requires_grad_(), head.to(dtype)


def asked(**more: Any) -> Asked:
    is_stop = torch.tensor([False, False, True, False, False, True])
    target = torch.where(is_stop, 7, torch.arange(10, 10 + NUM))
    return Asked(target=target, is_stop=is_stop, stop_ids=torch.tensor([3, 7]), **more)


def exact(inputs: Tensor, head: nn.Linear, of: Asked) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs, with the gradients of their weighted sum, in float64."""
    values = [one.detach().double().requires_grad_() for one in (inputs, head.weight)]
    law = (values[0] @ values[1].T).softmax(-1)
    logp = torch.where(of.is_stop, law[:, of.stop_ids].sum(-1), law[torch.arange(NUM), of.target]).log()
    torch.autograd.backward((logp * torch.linspace(-1.0, 2.0, NUM)).sum())
    assert values[0].grad is not None and values[1].grad is not None
    return logp.detach(), values[0].grad, values[1].grad


@pytest.mark.parametrize(
    ("impl", "dtype", "tolerance"),
    [("liger", torch.float32, 1e-5), ("liger", torch.bfloat16, 0.1), ("cce", torch.bfloat16, 0.1)],
)
def test_selected_log_probs(libraries: list[str], impl: str, dtype: torch.dtype, tolerance: float) -> None:
    inputs, head = problem(dtype)
    found = scores_by_kernel(impl, inputs, head, asked())
    assert found is not None and libraries == [impl]
    torch.autograd.backward((found.logp * torch.linspace(-1.0, 2.0, NUM)).sum())
    logp, of_inputs, of_head = exact(inputs, head, asked())
    assert inputs.grad is not None and head.weight.grad is not None
    torch.testing.assert_close(found.logp.detach().double(), logp, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(inputs.grad.double(), of_inputs, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(head.weight.grad.double(), of_head, rtol=tolerance, atol=tolerance)
    assert found.stop_logp.isnan().all()


@pytest.mark.parametrize(("impl", "dtype"), [("liger", torch.float32), ("cce", torch.bfloat16)])
def test_without_positions(
    libraries: list[str], caplog: pytest.LogCaptureFixture, impl: str, dtype: torch.dtype
) -> None:
    inputs, head = problem(dtype)
    none = Asked(target=torch.zeros(0).long(), is_stop=torch.zeros(0).bool(), stop_ids=torch.tensor([3, 7]))
    assert scores_by_kernel(impl, inputs[:0], head, none) is None
    assert not libraries and not caplog.messages


@pytest.mark.parametrize(("impl", "dtype"), [("liger", torch.float32), ("cce", torch.bfloat16)])
def test_only_stops_of_several_tokens(libraries: list[str], impl: str, dtype: torch.dtype) -> None:
    inputs, head = problem(dtype)
    stops = replace(asked(), target=torch.full((NUM,), 7), is_stop=torch.ones(NUM).bool())
    found = scores_by_kernel(impl, inputs, head, stops)
    assert found is not None and not libraries
    logp, _, _ = exact(inputs, head, stops)
    torch.testing.assert_close(found.logp.detach().double(), logp, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(("version", "fits"), [("0.8.1", False), ("0.8.2", True), ("0.10.0", True)])
def test_versions_with_wrong_gradients_are_refused(
    libraries: list[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    fits: bool,
) -> None:
    monkeypatch.setattr(kernels, "version", lambda name: version)
    assert (scores_by_kernel("liger", *problem(), asked()) is not None) == fits
    assert fits or "liger-kernel 0.8.1 gives wrong gradients" in caplog.messages[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels need a GPU")
@pytest.mark.parametrize(("impl", "dtype"), [("liger", torch.float32), ("cce", torch.bfloat16)])
def test_of_the_libraries_themselves(impl: str, dtype: torch.dtype) -> None:
    pytest.importorskip({"liger": "liger_kernel", "cce": "cut_cross_entropy"}[impl])
    generator = torch.Generator().manual_seed(5)
    # Sizes that kernels have tiles for
    weight, values = torch.randn(256, 128, generator=generator), torch.randn(64, 128, generator=generator)
    factor = torch.linspace(-1.0, 2.0, 64)
    target = torch.arange(64) * 3
    inputs = (values / 8).to("cuda", dtype).requires_grad_()
    head = nn.Linear(128, 256, bias=False, device="cuda", dtype=dtype)
    head.weight.data.copy_(weight)
    of = Asked(
        target=target.cuda(), is_stop=torch.zeros(64, device="cuda").bool(), stop_ids=target[:0].cuda()
    )
    found = scores_by_kernel(impl, inputs, head, of)
    assert found is not None, "the library was not used"
    torch.autograd.backward((found.logp * factor.cuda()).sum())
    twins = [one.detach().cpu().double().requires_grad_() for one in (inputs, head.weight)]
    logp = (twins[0] @ twins[1].T).log_softmax(-1)[torch.arange(64), target]
    torch.autograd.backward((logp * factor).sum())
    tolerance = 1e-2 if dtype == torch.float32 else 5e-2  # tensor cores may round a float32 to 10 bits
    of_library = (found.logp, inputs.grad, head.weight.grad)
    for got, expected in zip(of_library, (logp, *[twin.grad for twin in twins]), strict=True):
        assert got is not None and expected is not None
        error = (got.detach().cpu().double() - expected.detach()).norm()
        assert error <= tolerance * expected.norm()


REASONS: list[tuple[str, dict[str, Any], str]] = [
    ("liger", {"candidates": Candidates(torch.arange(NUM), torch.arange(NUM))}, "reads more"),
    ("cce", {"num_sorted": 3}, "reads more"),
    ("liger", {"entropy": True}, "reads more"),
    ("cce", {}, "half precision"),
]


@pytest.mark.parametrize(("impl", "more", "reason"), REASONS)
def test_a_fallback_says_so_once(
    libraries: list[str], caplog: pytest.LogCaptureFixture, impl: str, more: dict[str, Any], reason: str
) -> None:
    inputs, head = problem()
    with caplog.at_level(logging.WARNING):
        assert scores_by_kernel(impl, inputs, head, asked(**more)) is None
        assert scores_by_kernel(impl, inputs, head, asked(**more)) is None
    (line,) = caplog.messages
    assert reason in line and repr(impl) in line
    assert not libraries


def test_no_gpu_and_no_library(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, head = problem()
    assert scores_by_kernel("liger", inputs, head, asked()) is None
    monkeypatch.setattr(kernels, "DEVICES", ("cpu",))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", None)
    assert scores_by_kernel("liger", inputs, head, asked()) is None
    assert "need a GPU" in caplog.messages[0] and "pip install 'dragoman[kernels]'" in caplog.messages[1]


def test_a_bias_is_not_for_cce(libraries: list[str], caplog: pytest.LogCaptureFixture) -> None:
    inputs, _ = problem(torch.bfloat16)
    assert scores_by_kernel("cce", inputs, nn.Linear(WIDTH, IDS).bfloat16(), asked()) is None
    assert "bias" in caplog.messages[0]


def test_a_head_that_is_more_than_a_matrix(
    libraries: list[str], caplog: pytest.LogCaptureFixture, model: PreTrainedModel
) -> None:
    model.lm_head.register_forward_hook(lambda *call: None)
    scorer = TokenScorer(model, [2], loss_impl="liger")
    ids = torch.arange(4, 9)[None]
    row, column = torch.zeros(4).long(), torch.arange(4)
    given = (ids, row, column, ids[0, 1:], torch.zeros(4).bool())
    for _ in range(2):
        scorer(*given, loss=lambda scores, tokens: scores.logp.sum())
    (line,) = caplog.messages
    assert "'liger'" in line and "more than a matrix" in line
    assert not libraries


@pytest.mark.parametrize("impl", ["auto", "torch"])
def test_the_librarys_own_needs_no_word(caplog: pytest.LogCaptureFixture, impl: str) -> None:
    found: TokenScores | None = scores_by_kernel(impl, *problem(), asked())
    assert found is None and not caplog.messages
