"""Which ids of two vocabularies spell the same bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from dragoman.text.tokenization import Tokenization


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
    of_student, of_teacher = ids_by_bytes(student), ids_by_bytes(teacher)
    shared = sorted((of_student[data], of_teacher[data]) for data in of_student.keys() & of_teacher.keys())
    pairs = np.array(shared, np.int64).reshape(-1, 2)
    return VocabularyMap(student_ids=pairs[:, 0], teacher_ids=pairs[:, 1])


def ids_by_bytes(tokenization: Tokenization) -> dict[bytes, int]:
    """Bytes -> the id that stands for them: of several, the one that the tokenizer itself would use."""
    found: dict[bytes, int] = {}
    rivals: dict[bytes, list[int]] = {}
    for index, data in enumerate(tokenization.vocabulary_bytes()):
        if not data:
            continue
        if data in found:
            rivals.setdefault(data, [found[data]]).append(index)
        else:
            found[data] = index
    for data, ids in rivals.items():
        own = tokenization.encode(data).ids.tolist()
        if len(own) == 1 and own[0] in ids:
            found[data] = own[0]
    return found
