"""From teacher scores and an alignment to what the loss is told about each student token."""

from dragoman.supervise.answers import supervise_answer
from dragoman.supervise.credit import CREDITS, Chunks
from dragoman.supervise.sampled import Guard, SampledSettings, supervise_sampled

__all__ = ["CREDITS", "Chunks", "Guard", "SampledSettings", "supervise_answer", "supervise_sampled"]
