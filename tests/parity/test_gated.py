"""Gated layers with the activation inside the product: the numbers of the plain layer, or left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dragoman.models.gated import fused_gates


class Gated(nn.Module):
    def __init__(self, act: Any, bias: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate_proj, self.up_proj = nn.Linear(16, 24, bias=bias), nn.Linear(16, 24, bias=bias)
        self.down_proj = nn.Linear(24, 16, bias=bias)
        self.act_fn = act

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return result


class Sparse(Gated):
    """Keeps the largest half of what its gate lets through."""

    def forward(self, x: Tensor) -> Tensor:
        gate = self.act_fn(self.gate_proj(x))
        kept = gate >= gate.median(-1, keepdim=True).values
        result: Tensor = self.down_proj(gate * kept * self.up_proj(x))
        return result


X = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(1))
KNOWN = [nn.SiLU(), nn.GELU(approximate="tanh"), nn.GELU()]


@torch.no_grad()
@pytest.mark.parametrize("act", KNOWN, ids=["silu", "gelu-tanh", "gelu"])
@pytest.mark.parametrize("bias", [False, True])
def test_the_numbers_of_the_plain_layer(act: nn.Module, bias: bool) -> None:
    layer = Gated(act, bias)
    double = Gated(act, bias).double()
    with fused_gates(nn.ModuleList([layer])):
        assert "forward" in vars(layer)
        found = layer(X)
    assert "forward" not in vars(layer)
    error, obvious = ((values - double(X.double())).abs().amax() for values in (found, layer(X)))
    assert error <= 2 * obvious + 1e-7


@torch.no_grad()
def test_low_precision_is_as_exact() -> None:
    layer, exact = Gated(nn.SiLU()).bfloat16(), Gated(nn.SiLU())
    with fused_gates(layer):
        found = layer(X.bfloat16()).float()
    assert (found - exact(X)).norm() <= 1.25 * (layer(X.bfloat16()).float() - exact(X)).norm()


@torch.no_grad()
@pytest.mark.parametrize(
    "make", [lambda: Gated(nn.ReLU()), lambda: Sparse(nn.SiLU())], ids=["relu", "sparse"]
)
def test_what_is_something_else_stays_as_it_is(make: Any) -> None:
    layer = make()
    expected = layer(X)
    with fused_gates(layer):
        assert "forward" not in vars(layer)
        assert torch.equal(layer(X), expected)


def test_with_gradients_nothing_changes() -> None:
    layer = Gated(nn.SiLU())
    with fused_gates(layer):
        assert "forward" not in vars(layer)


@torch.no_grad()
def test_hooks_are_called() -> None:
    layer, seen = Gated(nn.SiLU()), []
    layer.register_forward_hook(lambda module, given, out: seen.append(out.shape))
    with fused_gates(layer):
        layer(X)
    assert seen[-1] == X.shape


@torch.no_grad()
@pytest.mark.parametrize("name", ["gate_proj", "up_proj", "down_proj", "act_fn"])
@pytest.mark.parametrize("kind", ["hook", "pre-hook", "forward"])
def test_what_hangs_on_an_inner_layer_is_called(name: str, kind: str) -> None:
    layer, calls = Gated(nn.SiLU()), []
    with fused_gates(layer):
        assert "forward" in vars(layer)  # what it computes is known from here on
    inner = getattr(layer, name)
    if kind == "hook":
        inner.register_forward_hook(lambda *call: calls.append(name))
    elif kind == "pre-hook":
        inner.register_forward_pre_hook(lambda *call: calls.append(name))
    else:
        plain = inner.forward
        inner.forward = lambda x: (calls.append(name), plain(x))[1]
    with fused_gates(layer):
        layer(X)
    assert calls == [name]
