"""Sampling responses with transformers' `generate`, conversations turn by turn."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor

from dragoman.errors import RenderError
from dragoman.models import context_length, evaluating
from dragoman.models.loading import causal_lm
from dragoman.render import Renderer
from dragoman.rollout.chooser import Chooser, Draws, Sampling
from dragoman.rollout.engine import Request, draw_seed
from dragoman.rollout.episodes import Episode, check_open
from dragoman.types import Prompt, Rollout, StopReason

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel

logger = logging.getLogger(__name__)


class _Turn(NamedTuple):
    """An episode about to be continued, and the ids in front of its next turn."""

    episode: Episode
    context: Int64[np.ndarray, " P"]


class Sampler:
    """Samples responses from a model in this process."""

    def __init__(self, model: PreTrainedModel, renderer: Renderer, sampling: Sampling) -> None:
        self.model = model
        self.renderer = renderer
        self.sampling = sampling

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Look at what is known before anything is sampled: the prompts up to their first turn.

        Raises RenderError for one that leaves no room for a response in the model's context, DataError for
        one that holds a recorded turn.
        """
        limit = context_length(self.model)
        for prompt in prompts:
            check_open(prompt)
            size = len(self.renderer.context_ids(Episode(Request(prompt=prompt, sample=0)).prompt))
            if limit is not None and size + self.sampling.max_new_tokens > limit:
                raise self._no_room(prompt, size, limit)

    def rollouts(self, requests: Sequence[Request], *, seed: int, step: int) -> list[Rollout]:
        """One rollout a turn; see `RolloutEngine`.

        A conversation ends early where a turn was cut short, where the next one has no room left in the
        model's context, and (with a warning) where the chat template refuses what the student has written.
        Raises RenderError if there is no room for a first turn, DataError for a recorded turn in a prompt.
        """
        for request in requests:
            check_open(request.prompt)
        episodes = [Episode(request) for request in requests]
        while waiting := [turn for episode in episodes if (turn := self._next(episode)) is not None]:
            for batch, limit in self._batches(waiting):
                self._sample(batch, limit, seed, step)
        return [rollout for episode in episodes for rollout in episode.rollouts]

    def _next(self, episode: Episode) -> _Turn | None:
        """The next turn of an episode; None, and for good, if there is to be none."""
        if episode.is_over:
            return None
        try:
            context = self.renderer.context_ids(episode.prompt)
        except RenderError as error:
            if not episode.turn:
                raise
            logger.warning(
                "sample %d of prompt %r ends before turn %d, as the template refuses what was written: %s",
                episode.request.sample,
                episode.request.prompt.key,
                episode.turn,
                error,
            )
            episode.is_over = True
            return None
        limit = context_length(self.model)
        if limit is None or len(context) < limit:
            return _Turn(episode, context)
        if not episode.turn:
            raise self._no_room(episode.request.prompt, len(context), limit)
        episode.is_over = True
        return None

    def _batches(self, waiting: Sequence[_Turn]) -> Iterator[tuple[list[_Turn], int]]:
        """Turns with room for responses of the same length, and that length. Where the context leaves less
        room than asked for, companions with more would carry a response beyond it."""
        room = context_length(self.model)
        by_limit: dict[int, list[_Turn]] = {}
        for turn in waiting:
            most = self.sampling.max_new_tokens
            limit = most if room is None else min(most, room - len(turn.context))
            by_limit.setdefault(limit, []).append(turn)
        size = self.sampling.batch_size
        for limit, turns in by_limit.items():
            for start in range(0, len(turns), size):
                yield turns[start : start + size], limit

    def _sample(self, turns: Sequence[_Turn], limit: int, seed: int, step: int) -> None:
        """Write the next turn of some episodes, of at most `limit` tokens."""
        tokenization = self.renderer.tokenization
        stops = sorted(tokenization.stop_ids)
        device = next(self.model.parameters()).device
        seeds = [draw_seed(seed, step, e.request.prompt.key, e.request.sample, e.turn) for e, _ in turns]
        chooser = Chooser(seeds, device, stops, self.sampling, self._token_bytes)
        ids, mask = _left_padded([context for _, context in turns], pad_id=stops[0])
        self._generate(ids.to(device), mask.to(device), stops, chooser, limit)
        for row, (episode, context) in enumerate(turns):
            rollout = self._rollout(episode, context, chooser.response(row, limit), limit, step)
            episode.add(rollout)
            if not episode.is_over:
                opened = self.renderer.dialect.tail_opens_thinking
                calls = rollout.prompt.has_tools
                said = self.renderer.parse(rollout.completion, opened=opened, calls=calls)
                episode.answer(said)

    def _token_bytes(self, index: int) -> bytes:
        """The bytes of an id; none for one that only the model has, to pad its embedding."""
        tokenization = self.renderer.tokenization
        return tokenization.token_bytes(index) if index < tokenization.num_ids else b""

    def _generate(
        self,
        ids: Int[Tensor, "B P"],
        mask: Int[Tensor, "B P"],
        stops: list[int],
        chooser: Chooser,
        limit: int,
    ) -> None:
        from transformers import GenerationConfig

        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=limit,
            eos_token_id=stops,
            pad_token_id=stops[0],
            use_cache=True,
        )
        criteria = [chooser.finished] if self.sampling.stop_strings else []
        with torch.no_grad(), _settings(self.model, config):
            self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                logits_processor=[chooser],
                stopping_criteria=criteria,
            )

    def _rollout(
        self, episode: Episode, context: Int64[np.ndarray, " P"], draws: Draws, limit: int, step: int
    ) -> Rollout:
        cut = StopReason.LENGTH if limit == self.sampling.max_new_tokens else StopReason.CONTEXT
        return Rollout(
            prompt=episode.prompt,
            sample=episode.request.sample,
            context_ids=context,
            completion=self.renderer.tokenization.view(draws.ids),
            behaviour_logp=draws.logp,
            entropy=draws.entropy,
            stop_logp=draws.stop_logp,
            temperature=self.sampling.temperature,
            stop=draws.stop or cut,
            policy_version=step,
            turn=episode.turn,
        )

    def _no_room(self, prompt: Prompt, size: int, limit: int) -> RenderError:
        return RenderError(
            f"prompt {prompt.key!r} ({prompt.origin or 'no file'}) has {size} tokens; with "
            f"{self.sampling.max_new_tokens} for the response that is more than the "
            f"{limit} of the model {self.renderer.tokenization.name!r}. Shorten the prompt or lower "
            "rollout.max_new_tokens"
        )


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
    shipped = base.generation_config
    base.generation_config = config
    try:
        with evaluating(model):
            yield
    finally:
        base.generation_config = shipped
