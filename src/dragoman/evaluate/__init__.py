"""Figures of rollouts, per byte and with intervals."""

from dragoman.evaluate.forward import ForwardKL, TeacherText, forward_metrics
from dragoman.evaluate.heldout import Evaluation, evaluate
from dragoman.evaluate.intervals import Interval, ratio_change_interval, ratio_interval
from dragoman.evaluate.measures import measure

__all__ = [
    "Evaluation",
    "ForwardKL",
    "Interval",
    "TeacherText",
    "evaluate",
    "forward_metrics",
    "measure",
    "ratio_change_interval",
    "ratio_interval",
]
