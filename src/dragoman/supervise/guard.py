"""The guard against odd segmentations: all that is decided about chunks the student's own tokenizer would
have written otherwise is decided here.

A method that scores text pays the student for splitting a word oddly: the teacher judges the text, while
the student itself finds the odd ids unlikely, and so D is large. Without a guard it drifts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from dragoman.types import DropReason


class Guard(StrEnum):
    """What happens to chunks in which the student did not write as its own tokenizer would."""

    OFF = "off"
    """Nothing."""
    MASK = "mask"
    """They have no signal."""
    PENALTY = "penalty"
    """Their tokens have a fixed negative credit in place of what the rule gives."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Guarded:
    """Chunks behind the guard: why they have no signal, whether their log-probs count in the rule (and so in
    the sums of other chunks), and whether they have the penalty instead; and the span of each, where one odd
    chunk makes all of its span odd."""

    reason: UInt8[np.ndarray, " C"]
    counts: Bool[np.ndarray, " C"]
    penalised: Bool[np.ndarray, " C"]
    span_of: Int64[np.ndarray, " C"] | None = None


def guarded(guard: Guard, reason: UInt8[np.ndarray, " C"], odd: Bool[np.ndarray, " C"]) -> Guarded:
    """Apply a guard to `odd` chunks, of which some have no signal for another `reason`.

    Under both guards an odd chunk does not count: its D is what the guard mistrusts, so no chunk before it
    may be paid with it. All other chunks have the same credit under either.
    """
    caught = odd & (reason == DropReason.NONE)
    if guard is Guard.OFF:
        caught = np.zeros_like(caught)
    masked = caught if guard is Guard.MASK else np.zeros_like(caught)
    return Guarded(
        reason=np.where(masked, DropReason.NON_CANONICAL, reason).astype(np.uint8),
        counts=(reason == DropReason.NONE) & ~caught,
        penalised=caught & ~masked,
    )


def spread(odd: Bool[np.ndarray, " C"], span_of: Int64[np.ndarray, " C"]) -> Bool[np.ndarray, " C"]:
    """Chunks whose span has an odd chunk. Whoever splits a word oddly has chosen every token of it so."""
    if not len(odd):
        return odd
    return (np.bincount(span_of, odd) > 0)[span_of]
