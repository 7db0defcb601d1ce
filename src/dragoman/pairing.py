"""What of two tokenisations of one response belongs together: the given correspondence, the chunks found.

Axes: S student tokens, C chunks, R rows. Offsets named `*_bounds` have one entry more than what they
delimit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from dragoman.errors import AlignmentError
from dragoman.kinds import ChunkKind, DropReason, PairKind


@dataclass(frozen=True, kw_only=True, eq=False)
class Correspondence:
    """What of a response the teacher's version of it corresponds to, where the two differ.

    Offsets count symbols: a byte or an event each. Row r pairs the student's symbols
    `spans[r, 0]:spans[r, 1]` with the teacher's `spans[r, 2]:spans[r, 3]`; rows are in order and disjoint on
    both sides. Symbols in no row have no counterpart; rows of the last two kinds say why.

    >>> # student "<think>ok" in bytes, teacher's opening a token of its own
    >>> c = Correspondence(spans=np.array([[0, 7, 0, 1], [7, 9, 1, 3]]),
    ...                    kind=np.array([PairKind.MARKER, PairKind.EXACT], np.uint8))
    >>> c.spans[:, 1] - c.spans[:, 0]
    array([7, 2])
    """

    spans: Int64[np.ndarray, "R 4"]
    kind: UInt8[np.ndarray, " R"]

    def __post_init__(self) -> None:
        if len(self.spans) != len(self.kind):
            raise AlignmentError(
                f"Correspondence axes disagree: {len(self.spans)} spans, {len(self.kind)} kinds"
            )
        before, after = self.spans[:, 0::2], self.spans[:, 1::2]
        if (before > after).any() or (after[:-1] > before[1:]).any() or (self.spans < 0).any():
            raise AlignmentError(
                f"the spans of a Correspondence must be in order and disjoint, got {self.spans.tolist()}"
            )
        exact = self.kind == PairKind.EXACT
        if not np.array_equal(np.diff(self.spans[exact, :2]), np.diff(self.spans[exact, 2:])):
            raise AlignmentError("the two sides of an exact span must be equally long")


@dataclass(frozen=True, kw_only=True, eq=False)
class Alignment:
    """Chunks: the finest pairs of token slices that spell the same bytes on both sides.

    Chunk c pairs student tokens `student_bounds[c]:student_bounds[c + 1]` with teacher tokens
    `teacher_bounds[c]:teacher_bounds[c + 1]`. `reason` says why a chunk cannot be compared; left out, it
    follows from the kinds.

    >>> # student  |Hel|lo| wor|ld|     teacher  |Hello| world|
    >>> a = Alignment(student_bounds=np.array([0, 2, 4]), teacher_bounds=np.array([0, 1, 2]),
    ...               kind=np.array([ChunkKind.MANY_TO_ONE] * 2, np.uint8))
    >>> a.num_chunks, a.coverage
    (2, 1.0)
    """

    student_bounds: Int64[np.ndarray, " C_plus_1"]
    teacher_bounds: Int64[np.ndarray, " C_plus_1"]
    kind: UInt8[np.ndarray, " C"]
    reason: UInt8[np.ndarray, " C"] | None = None

    def __post_init__(self) -> None:
        if not len(self.student_bounds) == len(self.teacher_bounds) == len(self.kind) + 1:
            raise AlignmentError(
                f"Alignment axes disagree: {len(self.kind)} chunks, {len(self.student_bounds)} student and "
                f"{len(self.teacher_bounds)} teacher bounds (both must be one more than the chunks)"
            )

    @property
    def num_chunks(self) -> int:
        """C."""
        return len(self.kind)

    @cached_property
    def comparable(self) -> Bool[np.ndarray, " C"]:
        """Chunks in which both sides say the same: equal bytes, the same event, or normalised bytes."""
        return self.kind <= ChunkKind.NORMALISED

    @cached_property
    def reasons(self) -> UInt8[np.ndarray, " C"]:
        """Why a chunk cannot be compared; `NONE` where it can."""
        if self.reason is not None:
            return self.reason
        return np.select(
            [self.comparable, self.kind == ChunkKind.STUDENT_ONLY],
            [DropReason.NONE, DropReason.STUDENT_ONLY],
            DropReason.BYTES_DIFFER,
        ).astype(np.uint8)

    @cached_property
    def chunk_of(self) -> Int64[np.ndarray, " S"]:
        """The chunk of every student token."""
        return np.repeat(np.arange(self.num_chunks), np.diff(self.student_bounds))

    @property
    def coverage(self) -> float:
        """Share of student tokens in comparable chunks; 1.0 for an empty response."""
        sizes = np.diff(self.student_bounds)
        return float(sizes[self.comparable].sum() / sizes.sum()) if sizes.sum() else 1.0
