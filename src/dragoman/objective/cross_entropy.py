"""Cross-entropy on given answers."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from dragoman.config import MethodConfig
from dragoman.objective.output import LossOutput
from dragoman.observe import Metrics


def cross_entropy(
    logp_N: Float[Tensor, " N"],
    behaviour_logp_N: Float[Tensor, " N"] | None,
    credit_N: Float[Tensor, " N"] | None,
    weight_N: Float[Tensor, " N"],
    settings: MethodConfig,
) -> LossOutput:
    """`-(weight * logp).sum()`, in nats. The other arguments are those of every objective, unused here."""
    return LossOutput(total=-(weight_N * logp_N).sum(), metrics=Metrics())
