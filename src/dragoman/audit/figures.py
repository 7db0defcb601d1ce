"""Counting what the mapping makes of responses."""

from __future__ import annotations

from collections import Counter
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


def figures_of(name: str, mapped: Sequence[Mapped]) -> Figures:
    """The figures of some responses together."""
    chunks: Counter[int] = Counter()
    tokens: Counter[int] = Counter()
    reasons: Counter[int] = Counter()
    single = 0
    for one in mapped:
        sizes = np.diff(one.alignment.student_bounds)
        kinds = one.alignment.kind
        chunks.update(kinds.tolist())
        for kind in np.unique(kinds).tolist():
            tokens[kind] += int(sizes[kinds == kind].sum())
        why = one.alignment.reasons
        for reason in np.unique(why[~one.alignment.comparable]).tolist():
            reasons[reason] += int(sizes[(why == reason) & ~one.alignment.comparable].sum())
        pairs = (sizes == 1) & (np.diff(one.alignment.teacher_bounds) == 1) & one.alignment.comparable
        single += int(pairs.sum())
    return Figures(
        name=name,
        num_texts=len(mapped),
        num_bytes=sum(len(one.student.data) for one in mapped),
        student_tokens=sum(len(one.student) for one in mapped),
        teacher_tokens=sum(len(one.teacher) for one in mapped),
        covered=sum(count for kind, count in tokens.items() if ChunkKind(kind).comparable),
        normalised=tokens[ChunkKind.NORMALISED],
        single=single,
        altered=sum(one.altered for one in mapped),
        kinds=tuple(
            KindCount(kind=kind.label, num_chunks=chunks[kind], student_tokens=tokens[kind])
            for kind in ChunkKind
            if chunks[kind]
        ),
        reasons={DropReason(reason).label: count for reason, count in reasons.items() if count},
    )
