"""Sampling responses with transformers' `generate`.

The choice of every token is made here, as a race of exponential clocks (the Gumbel-max trick) whose
generator belongs to (run seed, step, prompt, sample): a response does not depend on what else is in its
batch, and rounding that depends on the batch's shape changes a draw only where two clocks all but tie.
Its log-prob is taken on the spot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dragoman.errors import RenderError
from dragoman.models import context_length
from dragoman.models.loading import causal_lm
from dragoman.render import Renderer
from dragoman.rollout.engine import Request, draw_seed
from dragoman.types import Prompt, Rollout, StopReason

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn: `top_k` 0 and `top_p` 1 keep the whole distribution."""

    max_new_tokens: int
    batch_size: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


class Sampler:
    """Samples responses from a model in this process."""

    def __init__(self, model: PreTrainedModel, renderer: Renderer, sampling: Sampling) -> None:
        self.model = model
        self.renderer = renderer
        self.sampling = sampling

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Raise RenderError for a prompt that leaves no room for a response in the model's context."""
        limit = context_length(self.model)
        for prompt in prompts:
            size = len(self.renderer.context_ids(prompt))
            if limit is not None and size + self.sampling.max_new_tokens > limit:
                raise RenderError(
                    f"prompt {prompt.key!r} ({prompt.origin or 'no file'}) has {size} tokens; with "
                    f"{self.sampling.max_new_tokens} for the response that is more than the "
                    f"{limit} of the model {self.renderer.tokenization.name!r}. Shorten the prompt or lower "
                    "rollout.max_new_tokens"
                )

    def rollouts(self, requests: Sequence[Request], *, seed: int, step: int) -> list[Rollout]:
        """One rollout per request; see `RolloutEngine`."""
        found: list[Rollout] = []
        for start in range(0, len(requests), self.sampling.batch_size):
            found.extend(self._batch(requests[start : start + self.sampling.batch_size], seed, step))
        return found

    def _batch(self, requests: Sequence[Request], seed: int, step: int) -> list[Rollout]:
        contexts = [self.renderer.context_ids(request.prompt) for request in requests]
        stops = sorted(self.renderer.tokenization.stop_ids)
        device = next(self.model.parameters()).device
        seeds = [draw_seed(seed, step, request.prompt.key, request.sample) for request in requests]
        chooser = _Chooser(seeds, device, stops, self.sampling)
        ids, mask = _left_padded(contexts, pad_id=stops[0])
        self._generate(ids.to(device), mask.to(device), stops, chooser)
        return [self._rollout(request, contexts[i], chooser, i, step) for i, request in enumerate(requests)]

    def _generate(
        self, ids: Int[Tensor, "B P"], mask: Int[Tensor, "B P"], stops: list[int], chooser: _Chooser
    ) -> None:
        from transformers import GenerationConfig

        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=self.sampling.max_new_tokens,
            eos_token_id=stops,
            pad_token_id=stops[0],
            use_cache=True,
        )
        with torch.no_grad(), _settings(self.model, config):
            self.model.generate(input_ids=ids, attention_mask=mask, logits_processor=[chooser])

    def _rollout(
        self, request: Request, context: np.ndarray, chooser: _Chooser, index: int, step: int
    ) -> Rollout:
        ids, logp, entropy = chooser.response(index)
        stops = np.isin(ids, sorted(self.renderer.tokenization.stop_ids))
        finished = bool(stops.any())
        size = int(np.argmax(stops)) + 1 if finished else len(ids)
        return Rollout(
            prompt=request.prompt,
            sample=request.sample,
            context_ids=context,
            completion=self.renderer.tokenization.view(ids[:size]),
            behaviour_logp=logp[:size],
            entropy=entropy[:size],
            temperature=self.sampling.temperature,
            stop=StopReason.STOP if finished else StopReason.LENGTH,
            policy_version=step,
        )


class _Chooser:
    """A logits processor that draws each next token, leaves `generate` no choice, and keeps the book."""

    def __init__(self, seeds: list[int], device: torch.device, stops: list[int], sampling: Sampling) -> None:
        from transformers.generation.logits_process import (
            TemperatureLogitsWarper,
            TopKLogitsWarper,
            TopPLogitsWarper,
        )

        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self._stops = torch.tensor(stops, device=device)
        self._warpers = []
        if sampling.temperature != 1.0:
            self._warpers.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k:
            self._warpers.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1.0:
            self._warpers.append(TopPLogitsWarper(sampling.top_p))
        self._steps: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, input_ids: Int[Tensor, "B L"], scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        logp = scores.float().log_softmax(-1)
        warped = scores
        for warper in self._warpers:
            warped = warper(input_ids, warped)
        chosen = self._race(warped.float().softmax(-1))
        taken = logp.gather(-1, chosen[:, None]).squeeze(-1)
        stop_mass = logp[:, self._stops].logsumexp(-1)
        taken = torch.where(torch.isin(chosen, self._stops), stop_mass, taken)
        entropy = -(logp.exp() * logp.clamp_min(torch.finfo(torch.float32).min)).sum(-1)
        self._steps.append((chosen, taken, entropy))
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen[:, None], 0.0)

    def _race(self, probabilities: Float[Tensor, "B V"]) -> Int[Tensor, " B"]:
        """One exact draw a row: the first arrival among exponential clocks with these rates."""
        arrival = torch.empty_like(probabilities)
        for row, generator in enumerate(self._generators):
            arrival[row].exponential_(generator=generator)
        return (probabilities / arrival).argmax(-1)

    def response(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids, log-probs and entropies of one row, up to the longest of the batch."""
        ids, logp, entropy = (torch.stack([s[part][index] for s in self._steps]) for part in range(3))
        return ids.cpu().numpy(), logp.cpu().numpy(), entropy.cpu().numpy()


def _left_padded(
    contexts: Sequence[np.ndarray], pad_id: int
) -> tuple[Int[Tensor, "B P"], Int[Tensor, "B P"]]:
    width = max(len(context) for context in contexts)
    ids = np.full((len(contexts), width), pad_id, np.int64)
    mask = np.zeros((len(contexts), width), np.int64)
    for row, context in enumerate(contexts):
        ids[row, width - len(context) :] = context
        mask[row, width - len(context) :] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


@contextmanager
def _settings(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Evaluation mode, with a cache, and with `config` in place of the generation settings shipped with
    the model, whose penalties and warpers `generate` would otherwise fill in.
    """
    base = causal_lm(model)
    was_training, shipped = model.training, base.generation_config
    model.eval()
    base.generation_config = config
    try:
        yield
    finally:
        base.generation_config = shipped
        model.train(was_training)
