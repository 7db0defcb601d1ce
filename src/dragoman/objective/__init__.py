"""Loss functions: pure, differentiable, sums and counts instead of means."""

from dragoman.objective.cross_entropy import cross_entropy
from dragoman.objective.modifiers import modified
from dragoman.objective.output import LossOutput
from dragoman.objective.policy_gradient import policy_gradient
from dragoman.objective.rows import mixed, row_divergence
from dragoman.objective.scored import Objective, Scored, ScoredRows, ScoredUnits

__all__ = [
    "LossOutput",
    "Objective",
    "Scored",
    "ScoredRows",
    "ScoredUnits",
    "cross_entropy",
    "mixed",
    "modified",
    "policy_gradient",
    "row_divergence",
]
