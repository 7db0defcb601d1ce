"""What a loss is a function of: the student's log-probs of N supervised tokens and what to make of them.

Fields marked (grad) carry gradients to the student; all others are constants. Log-probs in nats, float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from jaxtyping import Bool, Float, Int
from torch import Tensor

from dragoman.config import MethodConfig
from dragoman.errors import TrainingError
from dragoman.objective.output import LossOutput


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredRows:
    """Rows of teacher mass (`dragoman.types.Rows`) with the student's mass of the same C candidates.

    Candidate c is in the row of token `row_of[c]`. `*_rest` is the log of the mass outside a row's
    candidates, -inf where there is none; it has no meaning where `has_row` is false.
    """

    row_of: Int[Tensor, " C"]
    teacher_logp: Float[Tensor, " C"]
    student_logp: Float[Tensor, " C"]  # (grad)
    teacher_rest: Float[Tensor, " N"]
    student_rest: Float[Tensor, " N"]  # (grad)
    has_row: Bool[Tensor, " N"]
    partial: Bool[Tensor, " N"] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredUnits:
    """Stretches taken as wholes (`dragoman.types.Units`): token n is in unit `unit_of[n]`, -1 to none."""

    unit_of: Int[Tensor, " N"]
    teacher_logp: Float[Tensor, " U"]
    num_teacher: Int[Tensor, " U"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """N supervised tokens of one micro-batch.

    `weight` holds the normalisation already, so that sums over micro-batches add up. `student_sorted` and
    `teacher_sorted` are log-probs of tokens without a counterpart, largest first (`uld`, `gold`).
    """

    logp: Float[Tensor, " N"]  # (grad)
    weight: Float[Tensor, " N"]
    behaviour_logp: Float[Tensor, " N"] | None = None
    reference_logp: Float[Tensor, " N"] | None = None
    credit: Float[Tensor, " N"] | None = None
    rows: ScoredRows | None = None
    units: ScoredUnits | None = None
    student_sorted: Float[Tensor, "N R"] | None = None  # (grad)
    teacher_sorted: Float[Tensor, "N R"] | None = None


Objective = Callable[[Scored, MethodConfig], LossOutput]
"""A pure function; `LossOutput.total` is the weighted sum over tokens. It is called for slices of a batch, of
which none cuts a unit, and the sum of its values is the loss."""

Field = TypeVar("Field")


def needed(value: Field | None, name: str) -> Field:
    """A field of `Scored` that an objective cannot do without; raises TrainingError where it is missing."""
    if value is None:
        raise TrainingError(
            f"the loss of this method needs {name!r} for every response of a batch, but some have none; "
            "choose another method, or a supervision that gives it"
        )
    return value
