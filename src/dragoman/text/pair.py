"""What the tokens of two vocabularies have to do with each other, by their bytes alone.

Every table is made when first asked for, in seconds for the largest vocabularies: strings are tokenised in
batches, and all that start with a prefix lie side by side in sorted order.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Int64

from dragoman.text.tokenization import Tokenization
from dragoman.text.vocabulary import VocabularyMap, ids_by_bytes, vocabulary_map
from dragoman.types import Event

NOWHERE = -1
"""The entry of a teacher token that no student token stands for."""
_PAIRED = tuple(event for event in Event if event not in (Event.NONE, Event.CONTROL))
"""Events that mean the same in every vocabulary."""

Spellings = tuple[Int64[np.ndarray, " N_plus_1"], Int64[np.ndarray, " M"]]
"""String n is `ids[bounds[n]:bounds[n + 1]]` in tokens: (bounds, ids)."""


class PrefixOrder:
    """Keys in sorted order, so that those with a common prefix are neighbours.

    >>> order = PrefixOrder(np.array([4, 7, 9]), [b"the", b"a", b"then"])
    >>> order.ids.tolist(), order.range(b"the")
    ([7, 4, 9], (1, 3))
    """

    def __init__(self, ids: Int64[np.ndarray, " N"], keys: Sequence[bytes]) -> None:
        """`ids[n]` has `keys[n]`; equal keys stay in the order given."""
        order = sorted(range(len(keys)), key=keys.__getitem__)
        self.ids: Int64[np.ndarray, " N"] = ids[order]
        self.keys = [keys[place] for place in order]

    def range(self, prefix: bytes) -> tuple[int, int]:
        """Where in `ids` those lie whose keys start with `prefix`, which may be all of a key: (lo, hi)."""
        stem = prefix.rstrip(b"\xff")
        low = bisect_left(self.keys, prefix)
        if not stem:
            return low, len(self.keys)
        return low, bisect_left(self.keys, stem[:-1] + bytes([stem[-1] + 1]), low)

    def starting(self, prefix: bytes) -> Int64[np.ndarray, " n"]:
        """The ids whose keys start with `prefix`."""
        low, high = self.range(prefix)
        return self.ids[low:high]


class PairTables:
    """Tables on the Vt ids of a teacher for a student; `NOWHERE` marks teacher tokens without a place.

    The student's stop set is one candidate, `student_stop`, to which all of the teacher's stops go. Markers
    of thinking and tool calls go to the student's marker for the same thing, other control tokens nowhere.
    Where every id means the same in both vocabularies, each is its own counterpart, prefix and spelling.

    >>> tables = PairTables(Tokenization.from_pretrained("assets:smollm2-135m-instruct"),
    ...                     Tokenization.from_pretrained("assets:gemma-3-270m"))
    >>> index = int(tables.teacher.encode(b" unbelievable").ids[0])
    >>> [tables.student.token_bytes(i) for i in tables.spelling(index).tolist()]
    [b' unbelie', b'vable']
    """

    def __init__(self, student: Tokenization, teacher: Tokenization) -> None:
        self.student = student
        self.teacher = teacher

    @cached_property
    def reversed(self) -> PairTables:
        """The tables with the two sides changed over."""
        return PairTables(self.teacher, self.student)

    @cached_property
    def same_ids(self) -> bool:
        """Whether every id means the same on both sides."""
        return self.student.same_ids_as(self.teacher)

    @cached_property
    def shared(self) -> VocabularyMap:
        """Pairs of ids with equal bytes."""
        return vocabulary_map(self.student, self.teacher)

    @cached_property
    def student_stop(self) -> int | None:
        """The id that names the student's stop set; None where it has no stop."""
        return min(self.student.stop_ids, default=None)

    @cached_property
    def student_of_bytes(self) -> dict[bytes, int]:
        """The student's id for some bytes; of several the one its tokenizer would use."""
        return ids_by_bytes(self.student)

    @cached_property
    def student_of_teacher(self) -> Int64[np.ndarray, " Vt"]:
        """The student's id with a teacher token's bytes."""
        known = self.student_of_bytes
        return self._targets(lambda data: known.get(data, NOWHERE))

    @cached_property
    def longest_prefix(self) -> Int64[np.ndarray, " Vt"]:
        """The longest student token that is a prefix of a teacher token's bytes, or all of them."""
        return self._targets(self.longest_prefix_of)

    @cached_property
    def spelling_bounds(self) -> Int64[np.ndarray, " Vt_plus_1"]:
        """Teacher token w is `spelling_ids[spelling_bounds[w]:spelling_bounds[w + 1]]` in student tokens."""
        return self._spellings[0]

    @cached_property
    def spelling_ids(self) -> Int64[np.ndarray, " M"]:
        """The student's own tokenisation of every teacher token's bytes; none where it spells others. Of an
        event its counterpart."""
        return self._spellings[1]

    def spelling(self, index: int) -> Int64[np.ndarray, " n"]:
        """The student's tokenisation of one teacher token."""
        return self.spelling_ids[self.spelling_bounds[index] : self.spelling_bounds[index + 1]]

    @cached_property
    def first_token(self) -> Int64[np.ndarray, " Vt"]:
        """The first token of the student's tokenisation of every teacher token."""
        return first_of(self.spelling_bounds, self.spelling_ids)

    @cached_property
    def spelling_order(self) -> PrefixOrder:
        """Teacher tokens by their spelling: the trie of student tokens over the teacher's vocabulary."""
        spelled = np.flatnonzero(np.diff(self.spelling_bounds))
        data = self.spelling_ids.astype(">u4").tobytes()
        bounds = (4 * self.spelling_bounds).tolist()
        return PrefixOrder(spelled, [data[bounds[w] : bounds[w + 1]] for w in spelled.tolist()])

    def spelling_prefix_range(self, ids: Int64[np.ndarray, " n"]) -> tuple[int, int]:
        """Where in `spelling_order.ids` the teacher tokens lie whose spelling starts with `ids`."""
        return self.spelling_order.range(ids.astype(">u4").tobytes())

    @cached_property
    def teacher_bytes(self) -> PrefixOrder:
        """The teacher's text tokens by their bytes."""
        return _by_bytes(self.teacher)

    @cached_property
    def student_bytes(self) -> PrefixOrder:
        """The student's text tokens by their bytes."""
        return _by_bytes(self.student)

    def longest_prefix_of(self, data: bytes) -> int:
        """The longest student token that is a prefix of some bytes, or all of them."""
        known = self.student_of_bytes
        for size in range(min(len(data), self._longest_student), 0, -1):
            if (found := known.get(data[:size])) is not None:
                return found
        return NOWHERE

    def spell(self, data: Sequence[bytes]) -> Spellings:
        """The student's tokenisation of each of N strings, as (bounds, ids); none where it spells others."""
        bounds, ids = self.student.encode_many(data)
        vocabulary = self._student_vocabulary
        ends = np.concatenate([[0], np.cumsum(self._student_lengths[ids])])[bounds].tolist()
        spelled = b"".join([vocabulary[i] for i in ids.tolist()])
        faithful = np.fromiter(
            (spelled[ends[n] : ends[n + 1]] == piece for n, piece in enumerate(data)), bool, len(data)
        )
        counts = np.diff(bounds)
        return _bounds(counts * faithful), ids[np.repeat(faithful, counts)]

    @cached_property
    def _spellings(self) -> Spellings:
        whole = self._targets(None)
        if self.same_ids:
            placed = whole != NOWHERE
            return _bounds(placed), whole[placed]
        is_text = self.teacher.events == Event.NONE
        vocabulary = self.teacher.vocabulary_bytes()
        bounds, ids = self.spell([vocabulary[i] for i in np.flatnonzero(is_text).tolist()])
        counts = (whole != NOWHERE).astype(np.int64)
        counts[is_text] = np.diff(bounds)
        of_text = np.repeat(is_text, counts)
        found = np.repeat(whole, counts)
        found[of_text] = ids
        return _bounds(counts), found

    def _targets(self, of_text: Callable[[bytes], int] | None) -> Int64[np.ndarray, " Vt"]:
        """The student token that a rule gives for the bytes of every teacher token, the counterpart of an
        event, and with equal ids the same id; without a rule, text goes nowhere."""
        targets = np.full(self.teacher.num_ids, NOWHERE)
        if self.same_ids:
            size = min(len(targets), self.student.num_ids)
            targets[:size] = np.arange(size)
        elif of_text is not None:
            targets[:] = [of_text(data) if data else NOWHERE for data in self.teacher.vocabulary_bytes()]
        of_student, of_teacher = self.student.events, self.teacher.events
        for event in _PAIRED:
            ids = np.flatnonzero(of_student == event)
            if len(ids) and (event == Event.STOP or not self.same_ids):
                targets[of_teacher == event] = ids[0]
        return targets

    @cached_property
    def _student_vocabulary(self) -> list[bytes]:
        return self.student.vocabulary_bytes()

    @cached_property
    def _student_lengths(self) -> Int64[np.ndarray, " Vs"]:
        return np.fromiter(map(len, self._student_vocabulary), np.int64, len(self._student_vocabulary))

    @cached_property
    def _longest_student(self) -> int:
        return max(map(len, self.student_of_bytes), default=0)


def first_of(
    bounds: Int64[np.ndarray, " N_plus_1"], ids: Int64[np.ndarray, " M"], skip: int = 0
) -> Int64[np.ndarray, " N"]:
    """`ids[bounds[n] + skip]` of every stretch n that is longer than `skip`, else `NOWHERE`."""
    places = bounds[:-1] + skip
    return np.where(places < bounds[1:], np.append(ids, NOWHERE)[np.minimum(places, len(ids))], NOWHERE)


def _bounds(counts: np.ndarray) -> Int64[np.ndarray, " N_plus_1"]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _by_bytes(tokenization: Tokenization) -> PrefixOrder:
    is_text = np.flatnonzero(tokenization.events == Event.NONE)
    vocabulary = tokenization.vocabulary_bytes()
    return PrefixOrder(is_text, [vocabulary[i] for i in is_text.tolist()])
