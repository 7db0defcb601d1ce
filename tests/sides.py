"""Either side of a conversation, loaded from a tiny folder, and a finished turn as if it had been sampled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dragoman.config import StudentConfig, TeacherConfig
from dragoman.render import Renderer
from dragoman.types import Event, Prompt, Rollout, StopReason, TokenText


def student(folder: Path, **settings: Any) -> Renderer:
    """The renderer of a student; `settings` are those of `StudentConfig`."""
    return Renderer.from_config(StudentConfig(model=str(folder), **settings))


def teacher(folder: Path, **settings: Any) -> Renderer:
    """The renderer of a teacher; `settings` are those of `TeacherConfig`."""
    return Renderer.from_config(TeacherConfig(model=str(folder), **settings))


def rollout_with(side: Renderer, completion: TokenText, prompt: Prompt) -> Rollout:
    """A turn of these very tokens, -1 nats each; it ended by a stop if that is its last token."""
    finished = bool(len(completion)) and completion.event[-1] == Event.STOP
    return Rollout(
        prompt=prompt,
        sample=0,
        context_ids=side.context_ids(prompt),
        completion=completion,
        behaviour_logp=np.full(len(completion), -1, np.float32),
        stop=StopReason.STOP if finished else StopReason.LENGTH,
    )


def rollout_of(side: Renderer, data: bytes, prompt: Prompt, stop: StopReason = StopReason.STOP) -> Rollout:
    """A turn of these bytes in canonical tokens."""
    return rollout_with(side, side.completion(data, stop), prompt)


def context_bytes(side: Renderer, ids: np.ndarray) -> bytes:
    """The text of some ids, control tokens left out."""
    return side.tokenization.view(ids).data
