"""What a training step would cost: arithmetic by formula, time by the speed just measured, memory by parts.

Activations after Korthikanti et al. 2022 (arXiv 2205.05198), section 4.1: 34 bytes a token, layer and hidden
unit in 16 bits, without the attention matrix, which fused kernels do not keep.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import psutil
import torch

from dragoman.audit.mass import NUM_LIKELY
from dragoman.audit.pair_facts import Cost
from dragoman.config import Config
from dragoman.models import TokenScorer, model_size
from dragoman.models.loading import ModelSize
from dragoman.observe import Record, transformer_flops
from dragoman.padding import right_padded
from dragoman.types import Event

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NUM_UPDATED = 3
"""Responses in the backward pass that is timed."""
_BYTES_A_UNIT = 17
"""Activation bytes a token, layer and hidden unit, for each byte of an activation: 34 / 2."""
_LOGIT_COPIES = 3
"""Logits of a slice, their probabilities, and a gradient, in float32."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Update:
    """A forward and backward pass of the student that changed nothing."""

    seconds: float
    lengths: np.ndarray
    topk_ids: np.ndarray
    topk_logp: np.ndarray


def time_update(
    model: PreTrainedModel, stop_ids: Sequence[int], records: Sequence[Record], slice_: int
) -> Update:
    """Time the pass that training makes, on a few of the sampled responses; gradients are thrown away."""
    few = [record.rollout for record in records[:NUM_UPDATED] if len(record.rollout.completion)]
    ids, mask = right_padded([np.concatenate([one.context_ids, one.completion.ids]) for one in few])
    counts = [len(one.completion) for one in few]
    row = np.repeat(np.arange(len(few)), counts)
    place = np.concatenate([len(one.context_ids) + np.arange(len(one.completion)) for one in few])
    is_stop = np.concatenate([one.completion.event == Event.STOP for one in few])
    device = next(model.parameters()).device
    arrays = (ids, mask, row, place - 1, ids[row, place], is_stop)
    tensors = [torch.from_numpy(array).to(device) for array in arrays]
    scorer = TokenScorer(model, stop_ids, logit_slice=slice_, topk=NUM_LIKELY)
    scorer.train()
    start = time.perf_counter()
    scores = scorer(*tensors)
    scores.logp.mean().backward()
    seconds = time.perf_counter() - start
    scorer.eval()
    model.zero_grad(set_to_none=True)
    return Update(
        seconds=seconds,
        lengths=mask.sum(axis=1),
        topk_ids=scores.topk_ids.cpu().numpy(),
        topk_logp=scores.topk_logp.float().cpu().numpy(),
    )


def pass_flops(size: ModelSize, lengths: np.ndarray, *, backward: bool = False) -> int:
    """Operations of one pass over sequences of these lengths."""
    return transformer_flops(
        num_parameters=size.num_parameters,
        num_layers=size.num_layers,
        hidden_size=size.hidden_size,
        num_tokens=int(lengths.sum()),
        sum_squared_lengths=int((lengths.astype(np.int64) ** 2).sum()),
        backward=backward,
    )


def estimate_cost(
    config: Config,
    models: tuple[PreTrainedModel, PreTrainedModel],
    records: Sequence[Record],
    seconds: dict[str, float],
    update: Update,
    inflation: float,
) -> Cost:
    """A step as configured, with every response as long as allowed.

    `seconds` are those of the stages `rollout` and `teacher` over the records. A stage of the step takes its
    operations over the speed measured; the optimiser's own pass over the weights is not counted.
    """
    student, teacher = map(model_size, models)
    lengths_s = np.array([len(r.rollout.context_ids) + len(r.rollout.completion) for r in records])
    lengths_t = np.array([len(r.view.ids) for r in records if r.view is not None])
    contexts = [
        float(np.mean([len(r.rollout.context_ids) for r in records])),
        float(np.mean([r.view.start for r in records if r.view is not None])),
    ]
    longest = config.rollout.max_new_tokens
    length_s, length_t = round(contexts[0] + longest), round(contexts[1] + longest * inflation)
    rollouts = config.train.prompts_per_step * config.rollout.samples_per_prompt
    full_s, full_t = np.full(rollouts, length_s), np.full(rollouts, length_t)
    flops = {
        "rollout": pass_flops(student, full_s),
        "teacher": pass_flops(teacher, full_t),
        "update": config.train.epochs * pass_flops(student, full_s, backward=True),
    }
    speeds = {
        "rollout": pass_flops(student, lengths_s) / seconds["rollout"],
        "teacher": pass_flops(teacher, lengths_t) / seconds["teacher"],
        "update": pass_flops(student, update.lengths, backward=True) / update.seconds,
    }
    return Cost(
        rollouts=rollouts,
        student_length=length_s,
        teacher_length=length_t,
        flops=flops,
        seconds={stage: flops[stage] / speeds[stage] for stage in flops},
        memory_bytes=_memory(config, models, student, length_s, rollouts),
        available_bytes=_available(models[0]),
        speeds=speeds,
    )


def _memory(
    config: Config,
    models: tuple[PreTrainedModel, PreTrainedModel],
    size: ModelSize,
    length: int,
    rollouts: int,
) -> dict[str, int]:
    weights = [sum(p.numel() * p.element_size() for p in model.parameters()) for model in models]
    trained = sum(p.numel() * p.element_size() for p in models[0].parameters() if p.requires_grad)
    element = next(models[0].parameters()).element_size()
    tokens = min(max(config.train.micro_batch_tokens, length), rollouts * length)
    units = 1 if config.student.gradient_checkpointing else _BYTES_A_UNIT
    slices = [
        config.train.logit_slice * models[0].get_output_embeddings().weight.shape[0],
        config.teacher.logit_slice * models[1].get_output_embeddings().weight.shape[0],
    ]
    return {
        "student weights": weights[0],
        "gradients": trained,
        "AdamW moments": 2 * trained,
        "teacher weights": weights[1],
        "activations": tokens * size.num_layers * size.hidden_size * units * element,
        "logit slice": _LOGIT_COPIES * 4 * max(slices),
    }


def _available(model: PreTrainedModel) -> int:
    """Memory of the device in all."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)
