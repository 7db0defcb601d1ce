"""Loss functions: pure, differentiable, sums and counts instead of means."""

from dragoman.objective.cross_entropy import cross_entropy
from dragoman.objective.output import LossOutput
from dragoman.objective.policy_gradient import policy_gradient

__all__ = ["LossOutput", "cross_entropy", "policy_gradient"]
