"""`Tokenization`: one tokenizer as an exact map between ids and bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain, pairwise
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt16

from dragoman.errors import TokenizerError
from dragoman.padding import stretches
from dragoman.text.diff import matching_runs
from dragoman.text.encoding import Encoder
from dragoman.text.events import check_markers, event_table, text_backend
from dragoman.text.files import TokenizerFiles, read_tokenizer_files, stop_token_ids
from dragoman.text.placing import Placed, find_places
from dragoman.text.probes import PROBES
from dragoman.text.spelling import Structure
from dragoman.text.stored import fingerprint, stored
from dragoman.text.strings import ByteStrings, bounds_of
from dragoman.text.words import Words
from dragoman.types import Event, TokenText


class Tokenization:
    """The bytes of every id of a tokenizer, and the ids it makes of any bytes.

    Control tokens are events without bytes: every added token marked special, every stop token, every
    marker, and every id without a token. All other added tokens are text and spell themselves.

    >>> tokenization = Tokenization.from_pretrained("assets:qwen3")
    >>> tokenization.encode("é🙂".encode()).bounds.tolist()
    [0, 2, 6]
    >>> tokenization.view([62, 151645]).event.tolist()  # "_", then <|im_end|>
    [0, 1]
    """

    def __init__(
        self,
        files: TokenizerFiles,
        *,
        stop_ids: Iterable[int] | None = None,
        markers: Mapping[int, Event] = MappingProxyType({}),
    ) -> None:
        """`markers` are added tokens that are events, such as those that open and close thinking."""
        self.name = files.name
        self.structure: Structure = files.structure
        self.stop_ids = frozenset(stop_token_ids(files) if stop_ids is None else stop_ids)
        self.markers: Mapping[int, Event] = MappingProxyType(dict(markers))
        self.num_ids = files.num_ids
        if wrong := sorted(index for index in self.stop_ids if not 0 <= index < self.num_ids):
            raise TokenizerError(f"stop ids {wrong} of {self.name!r} are outside its {self.num_ids} ids")
        check_markers(self.markers, files)
        self._files = files
        self._event: UInt8[np.ndarray, " V"] = event_table(files, self.num_ids, self.stop_ids, self.markers)
        spelled = files.spelled
        padded = np.append(spelled.bounds, np.full(self.num_ids - len(spelled), spelled.bounds[-1]))
        self._starts = padded[:-1]
        self._ends = np.where(self._event == Event.NONE, padded[1:], padded[:-1])
        self._blob = spelled.data

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(text_backend(self._files, self._event), self.structure)

    @classmethod
    def from_pretrained(cls, name_or_path: str, *, revision: str | None = None) -> Tokenization:
        """Load from a folder, `assets:NAME` or a hub id; raises TokenizerError."""
        return cls(read_tokenizer_files(str(name_or_path), revision))

    def with_stops(self, stop_ids: Iterable[int]) -> Tokenization:
        """The same tokenizer with another stop set."""
        wanted = frozenset(stop_ids)
        if self.stop_ids == wanted:
            return self
        return Tokenization(self._files, stop_ids=wanted, markers=self.markers)

    def with_markers(self, markers: Mapping[int, Event]) -> Tokenization:
        """The same tokenizer with other added tokens as events; text that spells one stays text.

        Raises TokenizerError for an id that is no added token, and for NONE or STOP as its event.
        """
        if self.markers == markers:
            return self
        return Tokenization(self._files, stop_ids=self.stop_ids, markers=markers)

    def encode(self, data: bytes) -> TokenText:
        """What the tokenizer makes of `data`: as text within a text, so without a beginning-of-sequence
        token or dummy leading space, and with no text read as a control token.

        `TokenText.data` is what the tokens spell, which for a lossy tokenizer may differ from `data`.
        """
        return self._text(np.array(self._encoder.ids(data), np.int64))

    def encode_many(
        self, data: Sequence[bytes]
    ) -> tuple[Int64[np.ndarray, " N_plus_1"], Int64[np.ndarray, " M"]]:
        """What `encode` makes of each of N strings: string n has `ids[bounds[n]:bounds[n + 1]]`; returns
        (bounds, ids)."""
        found = self._encoder.many(data)
        bounds = np.zeros(len(found) + 1, np.int64)
        np.cumsum([len(ids) for ids in found], out=bounds[1:])
        return bounds, np.fromiter(chain.from_iterable(found), np.int64, bounds[-1])

    def place(self, data: bytes) -> Placed:
        """What `encode` gives, and which bytes of `data` its tokens stand for where it spells others.

        The places are those the tokenizer itself reports, checked against what its normaliser makes of the
        bytes there. A token without a place (an unknown token) has no counterpart.
        """
        text = self.encode(data)
        if text.data == data:
            return Placed(text=text, correspondence=None)
        spans = self._encoder.spans(data)
        return Placed(text=text, correspondence=find_places(data, text, spans, self._encoder.normalised))

    def view(self, ids: Sequence[int] | np.ndarray | TokenText) -> TokenText:
        """The bytes of any ids, whether or not the tokenizer would have chosen them.

        Token i is canonical if the tokenizer, given the same text between the same events, produces
        that id at that place. Raises TokenizerError for an id that is not in the vocabulary.
        """
        return self.view_many([ids])[0]

    def view_many(self, sequences: Sequence[Sequence[int] | np.ndarray | TokenText]) -> list[TokenText]:
        """`view` of each of many sequences. Their texts are tokenised in one call, by as many threads as the
        `tokenizers` library is allowed."""
        spelled = [self.spell(ids) for ids in sequences]
        runs = [(n, *run) for n, text in enumerate(spelled) for run in _text_runs(text.event)]
        own_ids = self._encoder.many(
            [spelled[n].data[spelled[n].bounds[start] : spelled[n].bounds[stop]] for n, start, stop in runs]
        )
        canonical = [text.canonical.copy() for text in spelled]
        for (n, start, stop), own in zip(runs, own_ids, strict=True):
            canonical[n][start:stop] = self._canonical_flags(spelled[n], start, stop, np.array(own, np.int64))
        return [replace(text, canonical=flags) for text, flags in zip(spelled, canonical, strict=True)]

    def spell(self, ids: Sequence[int] | np.ndarray | TokenText) -> TokenText:
        """The bytes of any ids without asking what the tokenizer would have chosen: all count as canonical.

        Much faster than `view`. Raises TokenizerError for an id that is not in the vocabulary.

        >>> tokenization.spell([68, 70]).data  # two letters, which the tokenizer would write as one token
        b'eg'
        """
        array = np.asarray(ids, np.int64).reshape(-1)
        self._check_ids(array)
        return self._text(array)

    def token_bytes(self, index: int) -> bytes:
        """The bytes of one id; empty for a control token."""
        if not 0 <= index < self.num_ids:
            self._check_ids(np.array([index]))
        return self._blob[self._starts[index] : self._ends[index]].tobytes()

    def is_event(self, index: int) -> bool:
        """Whether an id is a control token."""
        self._check_ids(np.array([index]))
        return bool(self._event[index])

    @property
    def events(self) -> UInt8[np.ndarray, " V"]:
        """The event every id is; `NONE` for text."""
        return self._event.copy()

    def token_id(self, token: str) -> int | None:
        """The id of a token by its name in the vocabulary, e.g. `<|im_end|>`."""
        return self._files.backend.token_to_id(token)

    def token_name(self, index: int) -> str:
        """The name of an id in the vocabulary, for messages."""
        return self._files.backend.id_to_token(index) or f"id {index}"

    @cached_property
    def losses(self) -> tuple[str, ...]:
        """Which probe texts do not come back as they went in, by name; found by trying."""
        return tuple(name for name, data in PROBES.items() if self.encode(data).data != data)

    @property
    def lossless(self) -> bool:
        """Whether every probe text comes back exactly."""
        return not self.losses

    @property
    def dummy_prefix(self) -> bool:
        """Whether the tokenizer puts a space before a text's first word (which `encode` leaves out)."""
        return self.structure.dummy_prefix

    def same_ids_as(self, other: Tokenization) -> bool:
        """Whether every id means the same in both: equal bytes or the same event, with equal stop sets.
        Ids that only one of them has, to pad its embedding, do not matter.
        """
        size = min(self.num_ids, other.num_ids)
        ours, theirs = self.strings, other.strings
        return (
            self.stop_ids == other.stop_ids
            and np.array_equal(self._event[:size], other._event[:size])
            and np.array_equal(ours.bounds[: size + 1], theirs.bounds[: size + 1])
            and not ours.lengths[size:].any()
            and not theirs.lengths[size:].any()
            and np.array_equal(ours.data, theirs.data)
        )

    @cached_property
    def strings(self) -> ByteStrings:
        """The bytes of every id, in order; empty for control tokens."""
        sizes = self._ends - self._starts
        return ByteStrings(data=self._blob[stretches(self._starts, sizes)], bounds=bounds_of(sizes))

    def vocabulary_bytes(self) -> list[bytes]:
        """`strings` as a list."""
        return self.strings.tolist()

    @cached_property
    def fingerprint(self) -> str | None:
        """Names what tables of this tokenizer depend on, its file and its events; None without a file."""
        digest = self._files.digest
        return None if digest is None else fingerprint("tokenization", digest, self._event.tobytes())

    @cached_property
    def words(self) -> Words:
        """The text tokens by their bytes."""

        ids = np.flatnonzero(self._event == Event.NONE)
        make = lambda: Words.of(ids, self.strings.take(ids), self.encode_many).arrays  # noqa: E731
        return Words.from_arrays(stored(self.fingerprint, "words", make))

    def _text(self, ids: Int64[np.ndarray, " S"]) -> TokenText:
        """The bytes of ids of the vocabulary, all taken for canonical."""
        starts, ends = self._starts.take(ids), self._ends.take(ids)
        bounds = np.zeros(len(ids) + 1, np.int64)
        np.cumsum(ends - starts, out=bounds[1:])
        # From one byte of the text to the next it is one byte in the blob, and where a token begins a leap
        # as well; leaps over tokens without bytes add up. The last step leads nowhere.
        leaps = starts
        leaps[1:] -= ends[:-1]
        steps = np.ones(bounds[-1] + 1, np.int64)
        steps[0] = 0
        np.add.at(steps, bounds[:-1], leaps)
        data = self._blob.take(np.cumsum(steps[:-1], out=steps[:-1])).tobytes()
        return TokenText(
            ids=ids,
            data=data,
            bounds=bounds,
            event=self._event.take(ids),
            canonical=np.ones(len(ids), bool),
        )

    def _canonical_flags(
        self, sampled: TokenText, start: int, stop: int, own_ids: Int64[np.ndarray, " own"]
    ) -> Bool[np.ndarray, " run"]:
        """Canonical flags of the text run `start:stop`, which holds no event; the tokenizer itself makes
        `own_ids` of it."""
        ids = sampled.ids[start:stop]
        bounds = sampled.bounds[start : stop + 1] - sampled.bounds[start]
        data = sampled.data[sampled.bounds[start] : sampled.bounds[stop]]
        if np.array_equal(own_ids, ids):
            return np.ones(len(ids), bool)
        own = self._text(own_ids)
        first, last = own.bounds[:-1], own.bounds[1:]
        if own.data != data:
            first, last = _carry(own, data)
        keys = first * self.num_ids + own_ids
        spans = (last - first) == np.diff(own.bounds)
        return np.isin(bounds[:-1] * self.num_ids + ids, keys[(first >= 0) & spans])

    def _check_ids(self, ids: Int64[np.ndarray, " S"]) -> None:
        if len(ids) and (ids.min() < 0 or ids.max() >= self.num_ids):
            wrong = np.flatnonzero((ids < 0) | (ids >= self.num_ids))
            raise TokenizerError(
                f"id {ids[wrong[0]]} at token {wrong[0]} is outside the {self.num_ids} ids of {self.name!r}: "
                "do these ids come from another tokenizer?"
            )


def _text_runs(event: UInt8[np.ndarray, " S"]) -> list[tuple[int, int]]:
    """The non-empty token ranges between events."""
    cuts = [-1, *np.flatnonzero(event).tolist(), len(event)]
    return [(a + 1, b) for a, b in pairwise(cuts) if b > a + 1]


def _carry(own: TokenText, data: bytes) -> tuple[Int64[np.ndarray, " S"], Int64[np.ndarray, " S"]]:
    """First and last byte of every token of `own` carried over to `data`; -1 where it has no place."""
    runs = matching_runs(_symbols(data), _symbols(own.data))
    if not len(runs):
        return np.full(len(own), -1), np.full(len(own), -1)
    run = np.searchsorted(runs[:, 1], own.bounds[:-1], side="right") - 1
    at = runs[np.maximum(run, 0)]
    inside = (run >= 0) & (own.bounds[1:] <= at[:, 1] + at[:, 2])
    shift = at[:, 0] - at[:, 1]
    return np.where(inside, own.bounds[:-1] + shift, -1), np.where(inside, own.bounds[1:] + shift, -1)


def _symbols(data: bytes) -> UInt16[np.ndarray, " N"]:
    return np.frombuffer(data, np.uint8).astype(np.uint16)
