"""Where two tokenizers disagree on how far a token reaches: student tokens that a teacher writes in several,
and the student token that follows some others when a teacher token does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Bool, Int64

from dragoman.padding import stretches
from dragoman.text import NOWHERE, PairTables
from dragoman.text.borders import divided_before_space

JOINED = -2
"""The student's tokenizer would not have divided the text as it is divided."""
_NOTHING = -3
"""No token is next."""
_ALONE = -1
"""In place of a teacher token: a text is asked about as it is."""
_BLANKS = (b" ", b"\t", b"\n", b"\r", b"\v", b"\f")
_BREAKS = (b"\n", b"\r")
_TRIED = 64
"""Student tokens, the most usual first, that are tried as longer ones behind a token that began before."""
_KEPT = 1 << 18
"""Tokenisations held at once."""

Following = Sequence[int] | Int64[np.ndarray, " _"]
Question = tuple[tuple[int, ...], bytes, Following]
"""The student's tokens so far, their bytes, and teacher tokens that may be next."""


class LongerTokens:
    """For teacher token w the student tokens that the teacher's tokenizer writes as (w, w_2, ...)."""

    def __init__(self, tables: PairTables) -> None:
        self._tables = tables
        self.after = lru_cache(maxsize=4096)(self._after)
        self.behind = lru_cache(maxsize=65536)(self._behind)

    @cached_property
    def _spelled(
        self,
    ) -> tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, " N_plus_1"], Int64[np.ndarray, " M"]]:
        """Student text tokens that the teacher spells in several tokens: (ids, bounds, teacher ids)."""
        spelled = self._tables.reversed
        sizes = np.diff(spelled.spelling_bounds)
        several = sizes > 1
        bounds = np.concatenate([[0], np.cumsum(sizes[several])]).astype(np.int64)
        return np.flatnonzero(several), bounds, spelled.spelling_ids[np.repeat(several, sizes)]

    @cached_property
    def _by_first(self) -> tuple[Int64[np.ndarray, " Vt_plus_1"], Int64[np.ndarray, " n"]]:
        """Numbers into `_spelled` by the first teacher token."""
        _, bounds, found = self._spelled
        first = found[bounds[:-1]]
        counts = np.bincount(first, minlength=self._tables.teacher.num_ids)
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), np.argsort(first, kind="stable")

    @cached_property
    def able(self) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Teacher tokens that begin longer student tokens and have a place themselves, and of how many."""
        counts = np.diff(self._by_first[0])
        ids = np.flatnonzero((counts > 0) & (self._tables.first_token != NOWHERE))
        return ids, counts[ids]

    @cached_property
    def count(self) -> Int64[np.ndarray, " Vt"]:
        """How many longer student tokens each teacher token begins; 0 without a place of its own."""
        counts = np.zeros(self._tables.teacher.num_ids, np.int64)
        ids, number = self.able
        counts[ids] = number
        return counts

    def of(self, ids: Int64[np.ndarray, " n"]) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
        """The longer student tokens that some teacher tokens begin, with the student's first token of each of
        these: (first, longer)."""
        bounds, numbers = self._by_first
        sizes = bounds[ids + 1] - bounds[ids]
        places = stretches(bounds[ids], sizes)
        return np.repeat(self._tables.first_token[ids], sizes), self._spelled[0][numbers[places]]

    def _after(self, chain: tuple[int, ...]) -> dict[int, Int64[np.ndarray, " n"]]:
        """Student tokens that the teacher writes as (*chain, u, ...), by u."""
        ids, bounds, found = self._spelled
        by_first, numbers = self._by_first
        numbers = numbers[by_first[chain[0]] : by_first[chain[0] + 1]]
        numbers = numbers[np.diff(bounds)[numbers] > len(chain)]
        for depth, w in enumerate(chain):
            numbers = numbers[found[bounds[numbers] + depth] == w]
        if not len(numbers):
            return {}
        following = found[bounds[numbers] + len(chain)]
        order = np.argsort(following, kind="stable")
        found_next, starts = np.unique(following[order], return_index=True)
        return dict(zip(found_next.tolist(), np.split(ids[numbers[order]], starts[1:]), strict=True))

    def beyond(
        self, longer: Mapping[int, Int64[np.ndarray, " n"]], following: Sequence[int], size: int
    ) -> list[int]:
        """Of `longer` tokens, by their next teacher token, those of more than `size` bytes behind which one
        in `following` is next."""
        student = self._tables.student
        found = (v for u in following if u in longer for v in longer[u].tolist())
        return [v for v in found if len(student.token_bytes(v)) > size]

    def _behind(self, written: bytes, rest: bytes, w: int) -> tuple[int, ...]:
        """Student tokens that start with `rest` and go on, such that the teacher's tokenizer writes `written`
        and the token as (w, ...)."""
        tables = self._tables
        low, high = tables.student_bytes.range(rest)
        ids = tables.student_bytes.ids[low:high]
        longer = tables.student_bytes.keys.lengths[low:high] > len(rest)
        tried = np.sort(ids[longer])[:_TRIED].tolist()
        if not tried:
            return ()
        bounds, found = tables.teacher.encode_many([written + tables.student.token_bytes(i) for i in tried])
        first = np.append(found, NOWHERE)[bounds[:-1]]
        return tuple(i for i, start in zip(tried, first.tolist(), strict=True) if start == w)


class Continued:
    """The student's tokenizer asked what it writes when a teacher token goes on a text it has begun.

    Where it begins anew at the space of a teacher token, whatever that token is (`text.borders`), the text
    alone is asked about, once for all of these.
    """

    def __init__(self, tables: PairTables) -> None:
        self._tables = tables
        self._known: dict[tuple[tuple[int, ...], bytes], dict[int, int]] = {}
        self._num_known = 0

    def __call__(
        self, written: tuple[int, ...], data: bytes, following: Following
    ) -> Int64[np.ndarray, " n"]:
        """Of each teacher token w in `following` the student token behind `written` in the student's own
        tokenisation of `data` and w.

        `JOINED` where that does not start with `written`; `NOWHERE` where that, or the next token, is not
        known: white space is divided in view of what comes behind it, so it is tried before a letter too.
        """
        ids = np.asarray(following, np.int64)
        apart = self._are_apart(data, ids)
        names = _asked(ids, apart)
        known = self._known.get((written, data), {})
        if any(w not in known for w in names):
            self.prepare([(written, data, ids)])
            known = self._known[written, data]
        if apart is None:
            return np.array([known[w] for w in names], np.int64)
        found = self._tables.first_token[ids]
        if (alone := known.get(_ALONE, _NOTHING)) != _NOTHING:
            found = np.where(found == NOWHERE, NOWHERE, alone)
        found[~apart] = [known[w] for w in names if w != _ALONE]
        return found

    def prepare(self, questions: Sequence[Question]) -> None:
        """Find the answers to many questions with one call of the tokenizer."""
        if self._num_known > _KEPT:
            self._known.clear()
            self._num_known = 0
        asked: dict[tuple[tuple[int, ...], bytes], dict[int, None]] = {}
        for written, data, following in questions:
            known = self._known.get((written, data), {})
            ids = np.asarray(following, np.int64)
            unknown = dict.fromkeys(w for w in _asked(ids, self._are_apart(data, ids)) if w not in known)
            asked.setdefault((written, data), {}).update(unknown)
        numbers = [(key, w) for key, following in asked.items() for w in following]
        if not numbers:
            return
        answers = self._answers([key for key, _ in numbers], [w for _, w in numbers])
        for (key, w), answer in zip(numbers, answers, strict=True):
            self._known.setdefault(key, {})[w] = answer
        self._num_known += len(numbers)

    def _are_apart(self, data: bytes, following: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"] | None:
        """Which teacher tokens do not change what the student makes of the text before them; None where each
        may."""
        return self._spaced[following] if data and self._divided[data[-1]] else None

    def _answers(self, keys: list[tuple[tuple[int, ...], bytes]], following: list[int]) -> list[int]:
        """The student token behind `keys[n]` when teacher token `following[n]` is next; `_NOTHING` where
        none has to be next and none is."""
        strings = self._tables.teacher.strings
        pieces = strings.take(np.maximum(np.array(following, np.int64), 0)).tolist()
        pieces = [b"" if w == _ALONE else piece for w, piece in zip(following, pieces, strict=True)]
        blank = [n for n, piece in enumerate(pieces) if piece[-1:] in _BLANKS]
        plain = [data + piece for (_, data), piece in zip(keys, pieces, strict=True)]
        written = [own for own, _ in keys]
        found = self._next(
            [*written, *(written[n] for n in blank)], [*plain, *(plain[n] + self.letter for n in blank)]
        )
        for n, other in zip(blank, found[len(keys) :], strict=True):
            if other != found[n]:
                # Behind blanks there will be something, behind a line break anything.
                impossible = other == JOINED and pieces[n][-1:] not in _BREAKS
                found[n] = JOINED if impossible else NOWHERE
        return [
            NOWHERE if start == _NOTHING and w != _ALONE else start
            for w, start in zip(following, found[: len(keys)], strict=True)
        ]

    @cached_property
    def _divided(self) -> list[bool]:
        """Bytes behind which the student's tokenizer begins anew at a space."""
        if self._tables.same_ids:
            # There the tables say what a teacher token means, not how the student writes it.
            return [False] * 256
        return divided_before_space(self._tables.student).tolist()

    @cached_property
    def _spaced(self) -> Bool[np.ndarray, " Vt"]:
        """Teacher tokens that begin with a space and end in no white space."""
        strings = self._tables.teacher.strings
        ids = np.flatnonzero(strings.lengths > 1)
        first, last = strings.data[strings.bounds[ids]], strings.data[strings.bounds[ids + 1] - 1]
        found = np.zeros(len(strings), bool)
        found[ids] = (first == ord(" ")) & ~np.isin(last, list(b"".join(_BLANKS)))
        return found

    @cached_property
    def letter(self) -> bytes:
        """A letter that the student has a token for; nothing where it has none."""
        known = self._tables.student.words
        letters = (bytes([byte]) for byte in b"xabcdefghijklmnopqrstuvwyz")
        return next((letter for letter in letters if known.id_of(letter) != NOWHERE), b"")

    @cached_property
    def unsettled(self) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Teacher tokens that end in white space and that the student begins in another way before a letter:
        (ids, first token alone, first token before a letter)."""
        found = self._tables.stored("unsettled", self._find_unsettled, least=0)
        return found["ids"], found["alone"], found["before"]

    def _find_unsettled(self) -> dict[str, np.ndarray]:
        tables = self._tables
        data = tables.teacher.strings
        last = data.data[np.maximum(data.bounds[1:] - 1, 0)] if len(data.data) else np.zeros(len(data))
        ids = np.flatnonzero((data.lengths > 0) & np.isin(last, list(b"".join(_BLANKS))))
        alone = tables.first_token[ids]
        strings = [piece + self.letter for piece in data.take(ids).tolist()]
        before = np.array(self._next([()] * len(strings), strings), np.int64)
        inside = tables.student.strings.lengths[np.maximum(before, 0)] <= data.lengths[ids]
        differ = (alone != before) & (alone >= 0) & (before >= 0) & inside
        return {"ids": ids[differ], "alone": alone[differ], "before": before[differ]}

    def _next(self, written: list[tuple[int, ...]], strings: list[bytes]) -> list[int]:
        """The token behind `written[n]` in the student's tokenisation of string n; `_NOTHING` at its end."""
        numbers = {string: number for number, string in enumerate(dict.fromkeys(strings))}
        bounds, ids = self._tables.spell(list(numbers))
        borders, own = bounds.tolist(), ids.tolist()
        found = []
        for start, string in zip(written, strings, strict=True):
            number = numbers[string]
            first, last = borders[number], borders[number + 1]
            behind = first + len(start)
            if first == last:
                found.append(NOWHERE)
            elif tuple(own[first:behind]) != start:
                found.append(JOINED)
            else:
                found.append(own[behind] if behind < last else _NOTHING)
        return found


def _asked(following: Int64[np.ndarray, " n"], apart: Bool[np.ndarray, " n"] | None) -> list[int]:
    """What is to be asked about: the teacher tokens that are not apart, and for all others `_ALONE`."""
    if apart is None:
        return following.tolist()
    others: list[int] = following[~apart].tolist()
    return others if len(others) == len(following) else [*others, _ALONE]


def likeliest(mass: np.ndarray, most: int, least: float) -> Int64[np.ndarray, " n"]:
    """The ids of the `most` largest masses, of those that are `least` or more; ascending."""
    ids = np.flatnonzero((mass >= least) & (mass > 0.0))
    if len(ids) > most:
        ids = np.sort(ids[np.argsort(-mass[ids], kind="stable")[:most]])
    return ids
