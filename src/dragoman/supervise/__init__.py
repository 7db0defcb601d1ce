"""From teacher scores and an alignment to what the loss is told about each student token."""

from dragoman.supervise.answers import supervise_answer
from dragoman.supervise.boundaries import Boundaries
from dragoman.supervise.credit import CREDITS, Chunks
from dragoman.supervise.guard import Guard
from dragoman.supervise.marginal import Marginals
from dragoman.supervise.sampled import SampledSettings, supervise_sampled

__all__ = [
    "CREDITS",
    "Boundaries",
    "Chunks",
    "Guard",
    "Marginals",
    "SampledSettings",
    "supervise_answer",
    "supervise_sampled",
]
