"""Arithmetic a run spends, by part, so that methods can be compared at equal compute.

Source: Kaplan et al. 2020, Scaling Laws for Neural Language Models (arXiv 2001.08361), section 2.1:
a forward pass costs 2 N + 2 n_layer n_ctx d_model floating-point operations a token, a backward pass
twice as much.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


def transformer_flops(
    *,
    num_parameters: int,
    num_layers: int,
    hidden_size: int,
    num_tokens: int,
    sum_squared_lengths: int,
    backward: bool = False,
) -> int:
    """Floating-point operations of one pass over sequences of lengths L_i.

        forward = 2 N sum_i L_i + 2 n_layer d_model sum_i L_i^2        (times 3 with the backward pass)

    `num_tokens` is sum L_i, `sum_squared_lengths` is sum L_i^2; padding is not counted. Token t of a causal
    sequence attends to t positions, 4 d_model operations each, and these sum to 2 d_model L^2: a response
    sampled with a key-value cache costs the same as one pass over its whole sequence. `num_parameters`
    are those multiplied for each token: the output layer counts, an embedding that is only looked up
    does not (Kaplan et al. leave both out, which is far off for small models with large vocabularies).
    """
    dense = 2 * num_parameters * num_tokens
    attention = 2 * num_layers * hidden_size * sum_squared_lengths
    return (dense + attention) * (3 if backward else 1)


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Floating-point operations by part of a step; adding two adds each part.

    >>> (Flops(rollout=2, update=6) + Flops(teacher=1)).total
    9
    """

    rollout: int = 0
    teacher: int = 0
    update: int = 0
    eval: int = 0

    def __add__(self, other: Flops) -> Flops:
        names = [part.name for part in fields(self)]
        return Flops(**{name: getattr(self, name) + getattr(other, name) for name in names})

    @property
    def total(self) -> int:
        """All parts together."""
        return self.rollout + self.teacher + self.update + self.eval
