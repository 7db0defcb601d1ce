"""Writing responses with transformers' `generate`: slower than `Decoder`, for any causal language model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from dragoman.models import evaluating
from dragoman.models.loading import causal_lm
from dragoman.padding import left_padded
from dragoman.rollout.chooser import Chooser, Draws, Sampling
from dragoman.rollout.decoder import Job

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel


def generate(
    model: PreTrainedModel,
    stops: Sequence[int],
    sampling: Sampling,
    token_bytes: Callable[[int], bytes],
    jobs: Sequence[Job],
) -> list[Draws]:
    """All responses, in the order of the jobs."""
    found: dict[int, Draws] = {}
    for numbers, limit in _batches(jobs, sampling.batch_size):
        chooser = _generate(model, stops, sampling, token_bytes, [jobs[number] for number in numbers], limit)
        for row, number in enumerate(numbers):
            found[number] = chooser.response(row, limit)
    return [found[number] for number in range(len(jobs))]


def _batches(jobs: Sequence[Job], size: int) -> Iterator[tuple[list[int], int]]:
    """Jobs of the same limit, and that limit: companions with more would carry a response beyond its own."""
    by_limit: dict[int, list[int]] = {}
    for number, job in enumerate(jobs):
        by_limit.setdefault(job.limit, []).append(number)
    for limit, numbers in by_limit.items():
        for start in range(0, len(numbers), size):
            yield numbers[start : start + size], limit


def _generate(
    model: PreTrainedModel,
    stops: Sequence[int],
    sampling: Sampling,
    token_bytes: Callable[[int], bytes],
    jobs: Sequence[Job],
    limit: int,
) -> Chooser:
    from transformers import GenerationConfig

    device = next(model.parameters()).device
    chooser = Chooser([job.seed for job in jobs], device, stops, sampling, token_bytes)
    ids, mask = left_padded([job.context for job in jobs], stops[0])
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=limit,
        eos_token_id=list(stops),
        pad_token_id=stops[0],
        use_cache=True,
    )
    with torch.no_grad(), _settings(model, config):
        model.generate(
            input_ids=torch.from_numpy(ids).to(device),
            attention_mask=torch.from_numpy(mask).to(device),
            logits_processor=[chooser],
            stopping_criteria=[chooser.finished] if sampling.stop_strings else [],
        )
    return chooser


@contextmanager
def _settings(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Evaluation mode, with a cache, and with `config` in place of the generation settings shipped with
    the model, whose penalties and warpers `generate` would otherwise fill in.
    """
    base = causal_lm(model)
    shipped = base.generation_config
    base.generation_config = config
    try:
        with evaluating(model):
            yield
    finally:
        base.generation_config = shipped
