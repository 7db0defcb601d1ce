"""Counting what the mapping makes of responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dragoman.audit.facts import Figures, KindCount
from dragoman.types import Alignment, ChunkKind, DropReason, TokenText


@dataclass(frozen=True, kw_only=True, eq=False)
class Mapped:
    """One response on both sides."""

    student: TokenText
    teacher: TokenText
    alignment: Alignment
    altered: bool = False
    """Whether the student's tokenizer changes the text it was given."""


def figures_of(name: str, mapped: Sequence[Mapped], *, left_out: int = 0) -> Figures:
    """The figures of some responses together; `left_out` were not taken."""
    chunks = np.zeros(max(ChunkKind) + 1, np.int64)
    tokens, reasons, single = np.zeros_like(chunks), np.zeros(max(DropReason) + 1, np.int64), 0
    for one in mapped:
        found = one.alignment
        sizes, comparable = np.diff(found.student_bounds), found.comparable
        chunks += np.bincount(found.kind, minlength=len(chunks))
        tokens += _summed(found.kind, sizes, len(tokens))
        reasons += _summed(found.reasons, np.where(comparable, 0, sizes), len(reasons))
        single += int(((sizes == 1) & (np.diff(found.teacher_bounds) == 1) & comparable).sum())
    return Figures(
        name=name,
        num_texts=len(mapped),
        num_bytes=sum(len(one.student.data) for one in mapped),
        student_tokens=sum(len(one.student) for one in mapped),
        teacher_tokens=sum(len(one.teacher) for one in mapped),
        covered=int(sum(tokens[kind] for kind in ChunkKind if kind.comparable)),
        normalised=int(tokens[ChunkKind.NORMALISED]),
        single=single,
        altered=sum(one.altered for one in mapped),
        kinds=tuple(
            KindCount(kind=kind.label, num_chunks=int(chunks[kind]), student_tokens=int(tokens[kind]))
            for kind in ChunkKind
            if chunks[kind]
        ),
        reasons={reason.label: int(reasons[reason]) for reason in DropReason if reasons[reason]},
        left_out=left_out,
    )


def _summed(codes: np.ndarray, sizes: np.ndarray, num_codes: int) -> np.ndarray:
    """The sizes summed by code."""
    return np.bincount(codes, weights=sizes, minlength=num_codes).astype(np.int64)
