"""Responses: sampled in this process, or replayed from a recording."""

from dragoman.rollout.engine import Request, RolloutEngine
from dragoman.rollout.replay import ReplayEngine
from dragoman.rollout.sampler import Sampler, Sampling

__all__ = ["ReplayEngine", "Request", "RolloutEngine", "Sampler", "Sampling"]
