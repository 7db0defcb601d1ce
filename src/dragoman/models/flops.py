"""Arithmetic of whole passes over recorded rollouts, for what a run has cost and what one would cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64

from dragoman.models.loading import ModelSize, causal_lm, model_size
from dragoman.observe import Record, transformer_flops

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def pass_flops(size: ModelSize, lengths: Int64[np.ndarray, " B"], *, backward: bool = False) -> int:
    """Floating-point operations of one pass over sequences of these lengths, three times that with the
    backward pass; see `transformer_flops`."""
    lengths = np.asarray(lengths, np.int64)
    return transformer_flops(
        num_parameters=size.num_parameters,
        num_layers=size.num_layers,
        hidden_size=size.hidden_size,
        num_tokens=int(lengths.sum()),
        sum_squared_lengths=int((lengths**2).sum()),
        backward=backward,
    )


def student_lengths(records: Sequence[Record]) -> Int64[np.ndarray, " B"]:
    """Context and response of each rollout, in student tokens."""
    return np.array([len(r.rollout.context_ids) + len(r.rollout.completion) for r in records], np.int64)


def teacher_lengths(records: Sequence[Record]) -> Int64[np.ndarray, " B"]:
    """Context and response of each rollout that the teacher was shown, in its tokens. What several begin with
    counts each time, though it is read once: a step's cost does not depend on who shares a batch."""
    return np.array([len(r.view.ids) for r in records if r.view is not None], np.int64)


def head_size(model: PreTrainedModel) -> int:
    """Numbers in a model's output head."""
    return int(causal_lm(model).get_output_embeddings().weight.numel())


def scoring_flops(teacher: PreTrainedModel, records: Sequence[Record]) -> int:
    """Operations of one pass of a teacher over the views of some rollouts: its layers see every token, its
    head those that are scored alone. What several views begin with counts for each."""
    lengths = teacher_lengths(records)
    unscored = int(lengths.sum()) - sum(len(r.view.completion) for r in records if r.view is not None)
    return pass_flops(model_size(teacher), lengths) - 2 * head_size(teacher) * unscored
