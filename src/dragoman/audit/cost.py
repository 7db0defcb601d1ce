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
from torch import Tensor

from dragoman.audit.mass import NUM_LIKELY
from dragoman.audit.pair_facts import Cost
from dragoman.config import Config
from dragoman.methods import Signal, Writer, get_method
from dragoman.models import TokenScorer, TokenScores, model_size
from dragoman.models.flops import pass_flops, student_lengths, teacher_lengths
from dragoman.models.heads import is_fusible
from dragoman.models.loading import ModelSize, causal_lm
from dragoman.observe import Record
from dragoman.padding import right_padded
from dragoman.types import Event

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NUM_UPDATED = 3
"""Responses in the backward pass that is timed."""
_BYTES_A_UNIT = 17
"""Activation bytes a token, layer and hidden unit, for each byte of an activation: 34 / 2."""
_ONE_BUFFER = (Signal.CREDIT, Signal.ANSWERS, Signal.UNITS)
"""What is learned from single logits and the normaliser. The logits of a slice, in float32, are written over
by their exponentials, and these by their gradient; what else is learned from takes a second buffer, at most,
for copies of positions."""
_CHECKPOINTED = 3
"""Buffers of a slice where the student's head is more than a matrix, so that its logits are made again for a
gradient: measured with a cap, 2 with a factor alone."""
_BATCH_COPIES = {"student": 5, "teacher": 3}
"""Logits of a whole batch where a model does more to them than a linear head: as they are, two of what is
done to them, those picked out, and a gradient; without one, an intermediate is gone when the next is made."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Update:
    """A forward and backward pass of the student that changed nothing."""

    seconds: float
    lengths: np.ndarray
    topk_ids: np.ndarray
    topk_logp: np.ndarray


def time_update(
    model: PreTrainedModel, stop_ids: Sequence[int], records: Sequence[Record], slice_: int | None
) -> Update:
    """Time the pass that training makes, on a few of the sampled responses; gradients are thrown away."""
    few = [record.rollout for record in records[:NUM_UPDATED] if len(record.rollout.completion)]
    sequences = [np.concatenate([one.context_ids, one.completion.ids]) for one in few]
    ids, _ = right_padded(sequences)
    counts = [len(one.completion) for one in few]
    row = np.repeat(np.arange(len(few)), counts)
    place = np.concatenate([len(one.context_ids) + np.arange(len(one.completion)) for one in few])
    is_stop = np.concatenate([one.completion.event == Event.STOP for one in few])
    device = next(model.parameters()).device
    arrays = (ids, row, place - 1, ids[row, place], is_stop)
    tensors = [torch.from_numpy(array).to(device) for array in arrays]
    scorer = TokenScorer(model, stop_ids, logit_slice=slice_, topk=NUM_LIKELY)
    scorer.train()
    seen: list[TokenScores] = []

    def loss(scores: TokenScores, tokens: slice) -> Tensor:
        seen.append(scores)
        return scores.logp.sum()

    start = seconds_when_done(device)
    scorer(*tensors, loss=loss).backward()
    seconds = seconds_when_done(device) - start
    scorer.eval()
    model.zero_grad(set_to_none=True)
    return Update(
        seconds=seconds,
        lengths=np.array([len(ids) for ids in sequences]),
        topk_ids=torch.cat([one.topk_ids for one in seen]).cpu().numpy(),
        topk_logp=torch.cat([one.topk_logp for one in seen]).float().cpu().numpy(),
    )


def seconds_when_done(device: torch.device) -> float:
    """The clock once a device has done all it was asked to; an accelerator works on by itself."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


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
    operations over the speed measured, sampling by the teacher at that at which the student was seen to
    sample; the optimiser's own pass over the weights is not counted.
    """
    method = get_method(config.method.name)
    by_teacher = method.writer is Writer.TEACHER
    student, teacher = map(model_size, models)
    context_s = float(np.mean([len(r.rollout.context_ids) for r in records]))
    context_t = float(np.mean([r.view.start for r in records if r.view is not None]))
    # The limit is on the tokens of the side that writes.
    longest = config.rollout.max_new_tokens
    length_s = round(context_s + (longest / inflation if by_teacher else longest))
    length_t = round(context_t + (longest if by_teacher else longest * inflation))
    rollouts = config.train.prompts_per_step * config.rollout.samples_per_prompt
    full_s, full_t = np.full(rollouts, length_s), np.full(rollouts, length_t)
    written = pass_flops(teacher, full_t) if by_teacher else pass_flops(student, full_s)
    flops = {
        "rollout": 0 if config.rollout.engine == "replay" else written,
        "teacher": 0 if method.level is None else pass_flops(teacher, full_t),
        "update": config.train.epochs * pass_flops(student, full_s, backward=True),
    }
    speeds = {
        "rollout": pass_flops(student, student_lengths(records)) / seconds["rollout"],
        "teacher": pass_flops(teacher, teacher_lengths(records)) / seconds["teacher"],
        "update": pass_flops(student, update.lengths, backward=True) / update.seconds,
    }
    return Cost(
        rollouts=rollouts,
        student_length=length_s,
        teacher_length=length_t,
        flops=flops,
        seconds={stage: flops[stage] / speeds[stage] for stage in flops},
        memory_bytes=_memory(config, models, student, (length_s, length_t), rollouts),
        available_bytes=_available(models[0]),
        speeds=speeds,
    )


def _memory(
    config: Config,
    models: tuple[PreTrainedModel, PreTrainedModel],
    size: ModelSize,
    lengths: tuple[int, int],
    rollouts: int,
) -> dict[str, int]:
    weights = [sum(p.numel() * p.element_size() for p in model.parameters()) for model in models]
    trained = sum(p.numel() * p.element_size() for p in models[0].parameters() if p.requires_grad)
    element = next(models[0].parameters()).element_size()
    kind = next(models[0].parameters()).device.type
    budgets = (config.train.batch_tokens(kind), config.teacher.batch_tokens)
    tokens = [
        min(max(budget, length), rollouts * length) for budget, length in zip(budgets, lengths, strict=True)
    ]
    units = 1 if config.student.gradient_checkpointing else _BYTES_A_UNIT
    copies = (1 if get_method(config.method.name).signal in _ONE_BUFFER else 2, 1)
    slices = (config.train.logit_slice, config.teacher.logit_slice)
    topk = (0, config.teacher.topk if isinstance(config.teacher.topk, int) else 0)
    logits = [
        _logits(TokenScorer(model, (), logit_slice=slice_, topk=likely), side, num, buffers)
        for model, slice_, likely, side, num, buffers in zip(
            models, slices, topk, _BATCH_COPIES, tokens, copies, strict=True
        )
    ]
    return {
        "student weights": weights[0],
        "gradients": trained,
        "AdamW moments": 2 * trained,
        "teacher weights": weights[1],
        "activations": tokens[0] * size.num_layers * size.hidden_size * units * element,
        "logits": max(logits),
    }


def _logits(scorer: TokenScorer, side: str, tokens: int, copies: int) -> int:
    """Bytes of logits while a batch of so many tokens is scored, a slice of positions at a time in so many
    buffers, or by a teacher that tells few likely tokens some columns at a time; of the whole batch first
    where the model makes them all at once."""
    weight = causal_lm(scorer.model).get_output_embeddings().weight
    num_ids, element = int(weight.shape[0]), int(weight.element_size())
    values = 4 * scorer.logit_slice * num_ids
    if scorer.head_shape is None:
        # Those of a slice are copied out of the batch's, then centred.
        return _BATCH_COPIES[side] * element * tokens * num_ids + 2 * values
    if side == "teacher":
        return copies * 4 * scorer.values_at_once
    return (copies if is_fusible(scorer.head) else _CHECKPOINTED) * values


def _available(model: PreTrainedModel) -> int:
    """Memory of the device in all."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)
