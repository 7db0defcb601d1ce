"""The training loop."""

from dragoman.train.loop import train
from dragoman.train.setup import Session, build_session

__all__ = ["Session", "build_session", "train"]
