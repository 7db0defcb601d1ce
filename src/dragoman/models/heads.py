"""Output heads: what lies between hidden states and logits, and which a loss can be made on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dragoman.errors import TrainingError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class HeadShape(NamedTuple):
    """What a model does to the logits of its linear head: `cap * tanh(scale * logits / cap)`, without a cap
    `scale * logits`."""

    scale: float = 1.0
    cap: float | None = None


def shaped(logits: Tensor, shape: HeadShape) -> Tensor:
    """What a model makes of the logits of its linear head; in their place where nothing wants a gradient."""
    scale, cap = shape
    in_place = not torch.is_grad_enabled()
    if scale != 1.0:
        logits = logits.mul_(scale) if in_place else logits * scale
    if in_place and cap is not None:
        return logits.div_(cap).tanh_().mul_(cap)
    return logits if cap is None else torch.tanh(logits / cap) * cap


class ShapedHead(nn.Module):
    """A linear head and what is done to its logits."""

    def __init__(self, linear: nn.Module, shape: HeadShape) -> None:
        super().__init__()
        self.linear = linear
        self.shape = shape

    def forward(self, inputs: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
        return shaped(self.linear(inputs), self.shape)


def head_shape(base: PreTrainedModel) -> HeadShape | None:
    """How the logits of a model are made of its backbone's hidden states and its linear head; None if that
    is not known.

    What the configuration declares is tried: `final_logit_softcapping` (Gemma 2), `logit_scale` (Cohere),
    `logits_scaling` (Granite). A cap far above the logits of the trial would not show there, and is not
    believed unseen.
    """
    backbone, head = getattr(base, base.base_model_prefix, None), base.get_output_embeddings()
    if backbone is None or backbone is base or head is None:
        return None
    shape = _declared(base.config.get_text_config())
    device = next(base.parameters()).device
    ids = torch.arange(4, device=device)[None]
    with torch.no_grad():
        expected = base(input_ids=ids, use_cache=False).logits
        states = backbone(input_ids=ids, use_cache=False).last_hidden_state
        if not _are_close(ShapedHead(head, shape)(states), expected):
            return None
        if shape.cap is not None and _are_close(ShapedHead(head, shape._replace(cap=None))(states), expected):
            return None
    return shape


def _declared(config: object) -> HeadShape:
    scale = getattr(config, "logit_scale", None)
    divisor = getattr(config, "logits_scaling", None)
    cap = getattr(config, "final_logit_softcapping", None)
    return HeadShape((1.0 if scale is None else scale) / (1.0 if divisor is None else divisor), cap)


def _are_close(found: Tensor, expected: Tensor) -> bool:
    return bool(torch.equal(found, expected) or torch.allclose(found, expected, rtol=1e-3, atol=1e-3))


def is_fusible(head: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a head is a matrix in one piece and nothing else, with its own `forward`, and its gradient does
    not depend on the scale of the loss: float16 would lose it before it is scaled."""
    return is_matrix(head) and "forward" not in vars(head) and product_dtype(head.weight) != torch.float16


def is_matrix(head: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a head is a linear layer and a plain weight (no adapter, no hook, not sharded or quantised),
    whatever its `forward` is."""
    hooks = (head._forward_hooks, head._forward_pre_hooks, head._backward_hooks, head._backward_pre_hooks)
    return not any(hooks) and type(head) is nn.Linear and type(head.weight) is nn.Parameter


def product_dtype(inputs: Tensor) -> torch.dtype:
    """What a layer multiplies in: that of its inputs, or autocast's."""
    kind = inputs.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inputs.dtype


def takes_gradient(weight: Tensor) -> bool:
    """Whether `grad` of a weight can be written to without anybody being told."""
    hooks = (weight._backward_hooks, weight._post_accumulate_grad_hooks)
    is_wide = weight.dtype in (torch.float32, torch.float64)
    return weight.requires_grad and weight.is_leaf and not any(hooks) and is_wide


def check_head(head: nn.Module, num_ids: int) -> None:
    """Raise TrainingError for a head that is in parts on several processes: a part has another normaliser.

    `num_ids` are the rows that the whole head has. Refused are weights of DeepSpeed's third stage (with a
    `ds_id`), flat parameters of FSDP's first version, DTensors that are not replicated (FSDP's second
    version, tensor parallelism), and rows of a part of the vocabulary.
    """
    weight = getattr(head, "weight", None)
    if not isinstance(weight, Tensor):  # a head around another, such as an adapter
        return
    found = _in_parts(weight, num_ids)
    if found is not None:
        raise TrainingError(
            f"the output head has {found}; expected all {num_ids} rows of it in this process. The loss is "
            "normalised over the whole vocabulary, and head and backbone are called one by one, so that "
            "nobody would gather the parts. Train with whole weights on every process (accelerate without "
            "FSDP, DeepSpeed or a tensor-parallel plan), and adapters (student.lora) if memory is short"
        )


def _in_parts(weight: Tensor, num_ids: int) -> str | None:
    """What is wrong with a weight; None if it is whole."""
    if hasattr(weight, "ds_id"):
        return f"a weight of DeepSpeed ZeRO-3, of which {weight.numel()} numbers are here"
    placements = getattr(weight, "placements", None)
    if placements is not None:
        whole = all(placement.is_replicate() for placement in placements)
        return None if whole else f"a DTensor weight placed as {tuple(map(str, placements))}"
    if weight.dim() != 2:
        return f"a flat weight of shape {tuple(weight.shape)}, as FSDP makes of parameters"
    if len(weight) < num_ids:
        return f"a weight of {len(weight)} rows, a part of the vocabulary"
    return None
