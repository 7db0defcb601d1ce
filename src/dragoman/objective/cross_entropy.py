"""Cross-entropy on given answers."""

from __future__ import annotations

from dragoman.config import MethodConfig
from dragoman.objective.output import LossOutput
from dragoman.objective.scored import Scored
from dragoman.observe import Metrics


def cross_entropy(scored: Scored, settings: MethodConfig) -> LossOutput:
    """`-(weight * logp).sum()`, in nats. The settings are those of every objective, unused here."""
    return LossOutput(total=-(scored.weight * scored.logp).sum(), metrics=Metrics())
