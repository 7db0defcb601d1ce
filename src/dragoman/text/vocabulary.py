"""Which ids of two vocabularies spell the same bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from dragoman.text.tokenization import Tokenization
from dragoman.text.words import NOWHERE


@dataclass(frozen=True, kw_only=True, eq=False)
class VocabularyMap:
    """Pairs of ids with equal bytes: `student_ids[n]` spells what `teacher_ids[n]` spells.

    Both sides are one-to-one and sorted by the student's id.
    """

    student_ids: Int64[np.ndarray, " N"]
    teacher_ids: Int64[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.student_ids)


def vocabulary_map(student: Tokenization, teacher: Tokenization) -> VocabularyMap:
    """Match two vocabularies by bytes; control tokens are left out.

    Where several ids of one side spell the same bytes (a byte token beside the character's own), the
    one that the tokenizer itself would use takes part.
    """
    same, _ = teacher.words.meet(student.words)
    return matched(same, teacher.words.token_at)


def matched(student_ids: Int64[np.ndarray, " E"], teacher_ids: Int64[np.ndarray, " E"]) -> VocabularyMap:
    """The map of what stands side by side, `NOWHERE` on neither side."""
    known = (student_ids != NOWHERE) & (teacher_ids != NOWHERE)
    order = np.argsort(student_ids[known])
    return VocabularyMap(student_ids=student_ids[known][order], teacher_ids=teacher_ids[known][order])
