"""Which output heads a loss can be made on, and how."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn

from dragoman.errors import TrainingError


def is_fusible(head: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a head is a matrix in one piece and nothing else (no adapter, no hook, not sharded), and its
    gradient does not depend on the scale of the loss: float16 would lose it before it is scaled."""
    hooks = (head._forward_hooks, head._forward_pre_hooks, head._backward_hooks, head._backward_pre_hooks)
    if any(hooks) or "forward" in vars(head):
        return False
    if type(head) is not nn.Linear or type(head.weight) is not nn.Parameter:
        return False
    return product_dtype(head.weight) != torch.float16


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
