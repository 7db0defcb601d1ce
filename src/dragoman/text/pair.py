"""What the tokens of two vocabularies have to do with each other, by their bytes alone.

Every table is made when first asked for, in bulk: strings are tokenised in batches, and all that start with a
prefix lie side by side in sorted order. Tables of tokenizers that were read from files are kept on disk
(`text.stored`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int64

from dragoman.text.prefixes import PrefixOrder, Ranked
from dragoman.text.stored import fingerprint, stored
from dragoman.text.strings import ByteStrings, bounds_of
from dragoman.text.tokenization import Tokenization
from dragoman.text.vocabulary import VocabularyMap, matched
from dragoman.text.words import NOWHERE
from dragoman.types import Event

_PAIRED = tuple(event for event in Event if event not in (Event.NONE, Event.CONTROL))
"""Events that mean the same in every vocabulary."""

Spellings = tuple[Int64[np.ndarray, " N_plus_1"], Int64[np.ndarray, " M"]]
"""String n is `ids[bounds[n]:bounds[n + 1]]` in tokens: (bounds, ids)."""


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

    def stored(
        self, name: str, make: Callable[[], Mapping[str, np.ndarray]], *, least: int | None = None
    ) -> Mapping[str, np.ndarray]:
        """Arrays that depend on the two tokenizers alone: from disk, else as `make` gives them. `name` says
        what they are; the file of `make` is to be among `stored.SOURCES`, `least` as in `stored`. They must
        not be written to."""
        return stored(self._key, name, make, least=least)

    @cached_property
    def _key(self) -> str | None:
        sides = self.student.fingerprint, self.teacher.fingerprint
        return None if sides[0] is None or sides[1] is None else fingerprint("pair", *map(str, sides))

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
        found = self._met
        return VocabularyMap(student_ids=found["shared_student"], teacher_ids=found["shared_teacher"])

    @cached_property
    def student_stop(self) -> int | None:
        """The id that names the student's stop set; None where it has no stop."""
        return min(self.student.stop_ids, default=None)

    @cached_property
    def student_of_teacher(self) -> Int64[np.ndarray, " Vt"]:
        """The student's id with a teacher token's bytes; of several the one its tokenizer would use."""
        return self._targets("same")

    @cached_property
    def longest_prefix(self) -> Int64[np.ndarray, " Vt"]:
        """The longest student token that is a prefix of a teacher token's bytes, or all of them."""
        return self._targets("longest")

    @cached_property
    def _met(self) -> Mapping[str, np.ndarray]:
        """Of every text token of the teacher the student's of the same bytes and the longest that it starts
        with, in the order of ids; and the pairs that are shared."""

        def make() -> dict[str, np.ndarray]:
            words = self.teacher.words
            same, longest = words.meet(self.student.words)
            pairs = matched(same, words.token_at)
            of_id = np.argsort(words.order.ids, kind="stable")
            return {
                "same": same[words.trie.node_of][of_id],
                "longest": longest[words.trie.node_of][of_id],
                "shared_student": pairs.student_ids,
                "shared_teacher": pairs.teacher_ids,
            }

        return self.stored("met", make)

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

        def make() -> dict[str, np.ndarray]:
            spelled = np.flatnonzero(np.diff(self.spelling_bounds))
            data = np.frombuffer(self.spelling_ids.astype(">u4").tobytes(), np.uint8)
            keys = ByteStrings(data=data, bounds=4 * self.spelling_bounds)
            return PrefixOrder.of(spelled, keys.take(spelled)).arrays

        return PrefixOrder.from_arrays(self.stored("spelling_order", make))

    def spelling_prefix_range(self, ids: Int64[np.ndarray, " n"]) -> tuple[int, int]:
        """Where in `spelling_order.ids` the teacher tokens lie whose spelling starts with `ids`."""
        return self.spelling_order.range(ids.astype(">u4").tobytes())

    @property
    def teacher_bytes(self) -> PrefixOrder:
        """The teacher's text tokens by their bytes."""
        return self.teacher.words.order

    @property
    def student_bytes(self) -> PrefixOrder:
        """The student's text tokens by their bytes."""
        return self.student.words.order

    @cached_property
    def by_bytes(self) -> Ranked:
        """The teacher's text tokens by their bytes, with the place of every id."""
        return Ranked.of(self.teacher_bytes, self.teacher.num_ids)

    @cached_property
    def by_spelling(self) -> Ranked:
        """Teacher tokens by their spelling, with the place of every id."""
        return Ranked.of(self.spelling_order, self.teacher.num_ids)

    def spell(self, data: Sequence[bytes]) -> Spellings:
        """The student's tokenisation of each of N strings, as (bounds, ids); none where it spells others."""
        bounds, ids = self.student.encode_many(data)
        strings = ByteStrings.of(data)
        faithful = _same_bytes(self.student.strings, bounds, ids, strings)
        counts = np.diff(bounds)
        return bounds_of(counts * faithful), ids[np.repeat(faithful, counts)]

    @cached_property
    def _spellings(self) -> Spellings:
        found = self.stored("spellings", self._spell_all)
        return found["bounds"], found["ids"]

    def _spell_all(self) -> dict[str, np.ndarray]:
        whole = self._targets(None)
        if self.same_ids:
            placed = whole != NOWHERE
            return {"bounds": bounds_of(placed), "ids": whole[placed]}
        is_text = self.teacher.events == Event.NONE
        bounds, ids = self.spell(self.teacher.strings.take(np.flatnonzero(is_text)).tolist())
        counts = (whole != NOWHERE).astype(np.int64)
        counts[is_text] = np.diff(bounds)
        of_text = np.repeat(is_text, counts)
        found = np.repeat(whole, counts)
        found[of_text] = ids
        return {"bounds": bounds_of(counts), "ids": found}

    def _targets(self, of_text: str | None) -> Int64[np.ndarray, " Vt"]:
        """The student token for the bytes of every teacher token (a table of `_met`), the counterpart of an
        event, and with equal ids the same id; without a table, text goes nowhere."""
        targets = np.full(self.teacher.num_ids, NOWHERE)
        of_student, of_teacher = self.student.events, self.teacher.events
        if self.same_ids:
            size = min(len(targets), self.student.num_ids)
            targets[:size] = np.arange(size)
        elif of_text is not None:
            targets[of_teacher == Event.NONE] = self._met[of_text]
        for event in _PAIRED:
            ids = np.flatnonzero(of_student == event)
            if len(ids) and (event == Event.STOP or not self.same_ids):
                targets[of_teacher == event] = ids[0]
        return targets


def first_of(
    bounds: Int64[np.ndarray, " N_plus_1"], ids: Int64[np.ndarray, " M"], skip: int = 0
) -> Int64[np.ndarray, " N"]:
    """`ids[bounds[n] + skip]` of every stretch n that is longer than `skip`, else `NOWHERE`."""
    places = bounds[:-1] + skip
    return np.where(places < bounds[1:], np.append(ids, NOWHERE)[np.minimum(places, len(ids))], NOWHERE)


def _same_bytes(
    vocabulary: ByteStrings,
    bounds: Int64[np.ndarray, " N_plus_1"],
    ids: Int64[np.ndarray, " M"],
    strings: ByteStrings,
) -> Bool[np.ndarray, " N"]:
    """Whether the tokens `ids[bounds[n]:bounds[n + 1]]` spell string n, for every n."""
    spelled = vocabulary.take(ids)
    ends = spelled.bounds[bounds]
    same = np.diff(ends) == strings.lengths
    if not same.all():
        chosen = np.flatnonzero(same)
        spelled = ByteStrings(data=spelled.data, bounds=ends).take(chosen)
        strings = strings.take(chosen)
    different = np.append(0, np.cumsum(spelled.data != strings.data))
    same[same] = np.diff(different[strings.bounds]) == 0
    return same
