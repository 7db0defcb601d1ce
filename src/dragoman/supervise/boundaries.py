"""Hard boundaries: places in a text that no token of either vocabulary can cross.

Place k is hard if no text token of student or teacher spells `text[a:b]` for any a < k < b. It depends on
this text and on the two vocabularies, not on how either side divided it. Events are hard on both sides.

Whether a tokenizer would ever choose the token that crosses is not asked, so some places that are settled
count as soft; `segment` then sums over a longer stretch than it need, and no shorter one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int64, UInt16

from dragoman.text.pair import PairTables
from dragoman.text.prefixes import RADIX, ByteTrie
from dragoman.types import Alignment, Event, TokenText

_EVENT = RADIX - 1
_OPENERS = (*b" \t\n\r\v\f", _EVENT)
"""Symbols before which a span may start: white space, which opens a word in every vocabulary, and events."""
SPAN_CHUNKS = 8
"""Chunks after which a span ends at the next hard boundary, where a script has no white space."""


class Boundaries:
    """The hard boundaries that two vocabularies leave in any text.

    >>> boundaries = Boundaries([b"a", b"b", b" ", b"ab", b" a"])
    >>> text = TokenText(ids=np.arange(3), data=b"ab a", bounds=np.array([0, 1, 2, 4]),
    ...                  event=np.zeros(3, np.uint8), canonical=np.ones(3, bool))
    >>> boundaries.hard(text).tolist()  # |ab| a|
    [True, False, True, False, True]
    """

    def __init__(self, vocabulary: Iterable[bytes] | None, tables: PairTables | None = None) -> None:
        """`vocabulary` holds the text tokens of both sides; None says that both have one tokenizer, unless
        there are tables of two."""
        self._vocabulary = vocabulary
        self._tables = tables

    @classmethod
    def of_pair(cls, tables: PairTables) -> Boundaries:
        """Those of a pair. With one tokenizer on both sides every border between chunks is taken as hard:
        both say "and no longer token continues here" of the same tokens, so every chunk's D is the log-ratio
        of its own tokens' meanings and nothing is repaid behind it. `segment` is then plain distillation.
        """
        if tables.same_ids:
            return cls(None)
        return cls(None, tables)

    @cached_property
    def _tries(self) -> Sequence[ByteTrie]:
        """Those of which each string is crossed by none of the hard boundaries; none with one tokenizer."""
        if self._tables is not None:
            return self._tables.student.words.trie, self._tables.teacher.words.trie
        return () if self._vocabulary is None else (ByteTrie.of(self._vocabulary),)

    def hard(self, text: TokenText) -> Bool[np.ndarray, " N_plus_1"]:
        """Which places between the N symbols of a text (a byte or an event each) are hard, its beginning
        and end among them; all are, with one tokenizer on both sides."""
        symbols, _ = _symbols(text)
        found = np.ones(len(symbols) + 1, bool)
        if self._tries and len(symbols):
            longest = np.maximum.reduce([trie.longest(symbols) for trie in self._tries])
            reach = np.arange(len(symbols)) + longest
            found[1:] = np.maximum.accumulate(reach) <= np.arange(1, len(symbols) + 1)
        return found

    def segment_of(
        self, text: TokenText, alignment: Alignment, counts: Bool[np.ndarray, " C"]
    ) -> Int64[np.ndarray, " C"]:
        """The segment of every chunk of a response, from 0 on: a new one starts at every hard boundary and
        behind every chunk that does not count. `text` is the student's.

        Where the teacher's tokenizer changes bytes, its tokens are looked for in the student's all the same.
        """
        if not len(counts):
            return np.zeros(0, np.int64)
        _, borders = _symbols(text)
        starts = self.hard(text)[borders[alignment.student_bounds[1:-1]]] | ~counts[:-1]
        return np.concatenate([[0], np.cumsum(starts)]).astype(np.int64)

    def span_of(
        self, text: TokenText, alignment: Alignment, known: Bool[np.ndarray, " C"]
    ) -> Int64[np.ndarray, " C"]:
        """The span of every chunk of a response: a new one starts at a hard boundary before white space, at
        an event, and at a hard boundary with `SPAN_CHUNKS` chunks behind it in its span.

        Spans that touch have numbers that follow each other. A chunk whose budget is not `known` is a span
        of its own, and numbers jump there, as what lies on either side of it is not to be joined. With one
        tokenizer on both sides every chunk stands alone.
        """
        size = len(known)
        if not size:
            return np.zeros(0, np.int64)
        if not self._tries:
            return 2 * np.arange(size)
        symbols, borders = _symbols(text)
        places = borders[alignment.student_bounds[:-1]]
        hard = self.hard(text)[places]
        following = np.append(symbols, _EVENT)[places]
        opens = np.isin(following, _OPENERS) & hard
        after_event = np.append(False, following[:-1] == _EVENT)
        starts = opens | after_event
        broken = ~known | np.append(False, ~known[:-1])
        number = length = 0
        found = np.zeros(size, np.int64)
        for chunk in range(1, size):
            length += 1
            if broken[chunk]:
                number, length = number + 2, 0
            elif starts[chunk] or (hard[chunk] and length >= SPAN_CHUNKS):
                number, length = number + 1, 0
            found[chunk] = number
        return found


def _symbols(text: TokenText) -> tuple[UInt16[np.ndarray, " N"], Int64[np.ndarray, " S_plus_1"]]:
    """The symbols of a text, and its token borders as offsets into them."""
    data = np.frombuffer(text.data, np.uint8).astype(np.uint16)
    is_event = text.event != Event.NONE
    borders = text.bounds + np.concatenate([[0], np.cumsum(is_event)])
    return np.insert(data, text.bounds[:-1][is_event], np.uint16(_EVENT)), borders
