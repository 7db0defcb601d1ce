"""Responses: sampled in this process, replayed from a recording, or taken from conversations."""

from dragoman.rollout.chooser import Sampling
from dragoman.rollout.engine import Request, RolloutEngine
from dragoman.rollout.recorded import RecordedEngine
from dragoman.rollout.reference import StudentReference
from dragoman.rollout.replay import ReplayEngine
from dragoman.rollout.sampler import Sampler

__all__ = [
    "RecordedEngine",
    "ReplayEngine",
    "Request",
    "RolloutEngine",
    "Sampler",
    "Sampling",
    "StudentReference",
]
