"""What a loss returns."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from dragoman.observe import Metrics


@dataclass(frozen=True, kw_only=True, eq=False)
class LossOutput:
    """The weighted sum of a loss over supervised tokens, to be divided once by the global count."""

    total: Float[Tensor, ""]
    metrics: Metrics
