"""Kernels of other libraries in place of the fused loss, where they can express what is asked.

Cut cross-entropy (Wijmans et al. 2024, arXiv 2411.09009) and Liger (Hsu et al. 2024, arXiv 2410.10989) give
the negative log-prob of one token a position without its logits, and take a gradient by position, in Triton
on GPUs. They know no sets, ranks, masses of candidates or entropy; stops that are several tokens are scored
by `scores_of_slice`. Where a kernel does not fit, the loss is made by `dragoman.models.fused`, and the reason
is logged once.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.metadata import version

import torch
from jaxtyping import Float, Int
from packaging.version import Version
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dragoman.models.heads import is_fusible, product_dtype
from dragoman.models.slices import Asked, TokenScores, scores_of_slice

logger = logging.getLogger(__name__)

Kernel = Callable[[Tensor, nn.Linear, Tensor], Tensor]
"""From inputs [N, D], head and targets [N] to the negative log-probs of these [N]."""

DEVICES = ("cuda", "xpu")
"""Kinds of devices that Triton has kernels for."""
_MODULES = {"cce": "cut_cross_entropy", "liger": "liger_kernel.transformers"}
_DISTRIBUTIONS = {"cce": "cut-cross-entropy", "liger": "liger-kernel"}
_LEAST_VERSIONS = {"liger": "0.8.2"}
"""Before it Liger multiplied every position's gradient by that of the first."""
_HALF = (torch.float16, torch.bfloat16)


def scores_by_kernel(
    impl: str, inputs: Float[Tensor, "N D"], head: nn.Module, asked: Asked
) -> TokenScores | None:
    """The scores of all positions by the kernel that `impl` names; None where there are no positions, and,
    with the reason in the log, where it cannot give them. `stop_logp` is NaN, as no kernel says it."""
    if impl in ("auto", "torch") or not len(asked.target):
        return None
    if not is_fusible(head):
        _say(
            impl,
            "what makes the logits is more than a matrix in one piece (an adapter, a hook, scaled or capped "
            "logits), or multiplies in float16",
        )
        return None
    reason = _misfit(impl, inputs, head, asked)
    if reason is not None:
        _say(impl, reason)
        return None
    by_itself = asked.is_stop if len(asked.stop_ids) > 1 else torch.zeros_like(asked.is_stop)
    (plain,), (sets,) = (~by_itself).nonzero(as_tuple=True), by_itself.nonzero(as_tuple=True)
    logp = inputs.new_zeros(len(inputs), dtype=torch.promote_types(inputs.dtype, torch.float32))
    if len(plain):
        found = -_kernel(impl)(inputs[plain], head, asked.target[plain])
        logp = logp.index_put((plain,), found.to(logp.dtype))
    if len(sets):
        own = replace(asked, target=asked.target[sets], is_stop=asked.is_stop[sets])
        of_sets = checkpoint(scores_of_slice, head, inputs[sets], own, use_reentrant=False)
        logp = logp.index_put((sets,), of_sets.logp.to(logp.dtype))
    none = logp.new_zeros((len(logp), 0))
    return TokenScores(logp, none.long(), none, torch.full_like(logp.detach(), torch.nan))


def _misfit(impl: str, inputs: Tensor, head: nn.Linear, asked: Asked) -> str | None:
    """Why a kernel cannot be used; None if it can."""
    kind = inputs.device.type
    if asked.candidates is not None or asked.num_sorted or asked.topk or asked.entropy:
        return "the loss reads more of the distribution than the log-prob of one token"
    if kind not in DEVICES:
        return f"its kernels need a GPU, and the student is on {kind}"
    dtype = product_dtype(inputs)
    if impl == "cce" and dtype not in _HALF:
        return f"its backward pass needs half precision (train.mixed_precision: bf16), and inputs are {dtype}"
    if impl == "cce" and head.bias is not None:
        return "it knows no bias, and the head has one"
    try:
        importlib.import_module(_MODULES[impl])
        found = version(_DISTRIBUTIONS[impl])
    except ImportError as error:
        return f"it cannot be imported ({error}); pip install 'dragoman[kernels]'"
    least = _LEAST_VERSIONS.get(impl)
    if least is not None and Version(found) < Version(least):
        return (
            f"{_DISTRIBUTIONS[impl]} {found} gives wrong gradients by position, expected {least} or later; "
            "pip install -U 'dragoman[kernels]'"
        )
    return None


def _kernel(impl: str) -> Kernel:
    return {"cce": _by_cce, "liger": _by_liger}[impl]


def _by_cce(inputs: Float[Tensor, "N D"], head: nn.Linear, target: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """With every gradient, however small: the library leaves small ones out unless told."""
    module = importlib.import_module(_MODULES["cce"])
    dtype = product_dtype(inputs)
    found: Tensor = module.linear_cross_entropy(
        inputs.to(dtype), head.weight.to(dtype), target, reduction="none", filter_eps=None
    )
    return found


def _by_liger(
    inputs: Float[Tensor, "N D"], head: nn.Linear, target: Int[Tensor, " N"]
) -> Float[Tensor, " N"]:
    module = importlib.import_module(_MODULES["liger"])
    found: Tensor = module.LigerFusedLinearCrossEntropyLoss(reduction="none")(
        head.weight, inputs, target, head.bias
    )
    return found


@cache
def _say(impl: str, reason: str) -> None:
    logger.warning("train.loss_impl is %r, but the loss is made by 'torch': %s", impl, reason)
