"""Sampling responses, conversations turn by turn."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Int64

from dragoman.errors import RenderError
from dragoman.models import context_length
from dragoman.render import Renderer
from dragoman.rollout.chooser import Draws, Sampling
from dragoman.rollout.decoder import Decoder, Job, can_decode
from dragoman.rollout.engine import Request, draw_seed
from dragoman.rollout.episodes import Episode, check_open
from dragoman.rollout.generate import generate
from dragoman.types import Prompt, Rollout, StopReason, TokenText

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
            limits = [self._limit(turn) for turn in waiting]
            seeds = [
                draw_seed(seed, step, e.request.prompt.key, e.request.sample, e.turn) for e, _ in waiting
            ]
            drawn = self._write(
                [Job(*job) for job in zip((t.context for t in waiting), limits, seeds, strict=True)]
            )
            completions = self.renderer.tokenization.view_many([draws.ids for draws in drawn])
            for ended in zip(waiting, drawn, completions, limits, strict=True):
                self._end(*ended, step)
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

    def _limit(self, turn: _Turn) -> int:
        """Tokens of a response behind a context: as many as asked for, if the model's context has room."""
        most, room = self.sampling.max_new_tokens, context_length(self.model)
        return most if room is None else min(most, room - len(turn.context))

    def _write(self, jobs: Sequence[Job]) -> list[Draws]:
        """All responses; by `generate` for a model whose cache is not keys and values."""
        stops = sorted(self.renderer.tokenization.stop_ids)
        longest = max((len(job.context) + job.limit for job in jobs), default=0)
        if can_decode(self.model, longest):
            return Decoder(self.model, stops, self.sampling, self._token_bytes).run(jobs)
        return generate(self.model, stops, self.sampling, self._token_bytes, jobs)

    def _end(self, turn: _Turn, draws: Draws, completion: TokenText, limit: int, step: int) -> None:
        """Take a turn into its episode."""
        episode = turn.episode
        rollout = self._rollout(turn, draws, completion, limit, step)
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

    def _rollout(self, turn: _Turn, draws: Draws, completion: TokenText, limit: int, step: int) -> Rollout:
        episode, context = turn
        cut = StopReason.LENGTH if limit == self.sampling.max_new_tokens else StopReason.CONTEXT
        return Rollout(
            prompt=episode.prompt,
            sample=episode.request.sample,
            context_ids=context,
            completion=completion,
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
