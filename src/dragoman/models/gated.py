"""Gated layers, `down(act(gate(x)) * up(x))`, with the activation and the multiplication inside the products.

By themselves they pass three times over what the products write: a tenth of the time in float32, and more
where products are fast. oneDNN applies them to what it holds in registers, as torch's compiler has it do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

_PARTS = ("gate_proj", "up_proj", "down_proj")


class _Activation(NamedTuple):
    """An activation by oneDNN's name and torch's."""

    name: str
    algorithm: str
    plain: Any


_ACTIVATIONS = (
    _Activation("swish", "", nn.functional.silu),
    _Activation("gelu", "tanh", partial(nn.functional.gelu, approximate="tanh")),
    _Activation("gelu", "none", nn.functional.gelu),
)
_TRIED: WeakKeyDictionary[nn.Module, _Activation | None] = WeakKeyDictionary()
_MOST_ERROR = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""Of the trial's largest value; the sum is over thousands of rounded numbers."""


@contextmanager
def fused_gates(model: nn.Module, *, float32: bool = True) -> Iterator[None]:
    """Within the block, and without gradients, gated layers in float32 or bfloat16 on CPU are three products
    and nothing else. What such a layer computes is found by trying it once; others stay as they are,
    and without `float32` those in float32."""
    with ExitStack() as stack:
        if not torch.is_grad_enabled() and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            for module in filter(_is_gated, model.modules()):
                if _dtype(module) == torch.float32 and not float32:
                    continue
                if (activation := _activation(module)) is not None:
                    vars(module)["forward"] = partial(_gated, module, activation)
                    stack.callback(vars(module).pop, "forward")
        yield


def _gated(module: Any, activation: _Activation, inputs: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
    gate, up, down = (getattr(module, name) for name in _PARTS)
    if inputs.dtype != gate.weight.dtype or torch.is_autocast_enabled("cpu"):
        plain: Tensor = down(module.act_fn(gate(inputs)) * up(inputs))
        return plain
    product = torch.ops.mkldnn._linear_pointwise
    opened = product(inputs, gate.weight, gate.bias, activation.name, [], activation.algorithm)
    result: Tensor = down(product.binary(inputs, opened, up.weight, up.bias, "mul"))
    return result


def _dtype(module: Any) -> torch.dtype:
    dtype: torch.dtype = module.gate_proj.weight.dtype
    return dtype


def _is_gated(module: Any) -> bool:
    layers = [getattr(module, name, None) for name in _PARTS]
    return (
        hasattr(module, "act_fn")
        and "forward" not in vars(module)
        and not any(map(_is_changed, [*layers, module.act_fn]))
        and all(
            type(layer) is nn.Linear
            and type(layer.weight) is nn.Parameter
            and layer.weight.device.type == "cpu"
            and layer.weight.dtype in _MOST_ERROR
            for layer in layers
        )
    )


def _is_changed(layer: Any) -> bool:
    """Whether a layer that would be passed over has hooks, or another `forward` than its class."""
    names = ("_forward_hooks", "_forward_pre_hooks")
    return "forward" in getattr(layer, "__dict__", {}) or any(getattr(layer, name, None) for name in names)


def _activation(module: Any) -> _Activation | None:
    if module not in _TRIED:
        _TRIED[module] = _tried(module)
    return _TRIED[module]


def _tried(module: Any) -> _Activation | None:
    """The activation with which a layer is the three products, if there is one."""
    weight = module.gate_proj.weight
    inputs = torch.randn(2, weight.shape[1], generator=torch.Generator().manual_seed(0)).to(weight.dtype)
    points = torch.linspace(-4.0, 4.0, 17)
    expected = module(inputs)
    for activation in _ACTIVATIONS:
        # Two forms of GELU differ by less than what products round
        if not torch.allclose(module.act_fn(points), activation.plain(points), rtol=0, atol=1e-6):
            continue
        try:
            error = (_gated(module, activation, inputs) - expected).abs().amax()
        except (AttributeError, RuntimeError):
            return None
        return activation if error <= _MOST_ERROR[weight.dtype] * expected.abs().amax() else None
    return None
