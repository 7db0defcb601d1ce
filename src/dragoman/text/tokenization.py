"""`Tokenization`: one tokenizer as an exact map between ids and bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt16
from tokenizers import AddedToken, Tokenizer

from dragoman.errors import TokenizerError
from dragoman.text.diff import matching_runs
from dragoman.text.encoding import Encoder
from dragoman.text.files import TokenizerFiles, read_tokenizer_files, stop_token_ids
from dragoman.text.probes import PROBES
from dragoman.text.spelling import Structure, read_structure, spell_vocabulary, without_dummy_prefix
from dragoman.types import Event, TokenText


class Tokenization:
    """The bytes of every id of a tokenizer, and the ids it makes of any bytes.

    Control tokens are events without bytes: every added token marked special, every stop token, and
    every id without a token. All other added tokens are text and spell themselves.

    >>> tokenization = Tokenization.from_pretrained("assets:qwen3")
    >>> tokenization.encode("é🙂".encode()).bounds.tolist()
    [0, 2, 6]
    >>> tokenization.view([62, 151645]).event.tolist()  # "_", then <|im_end|>
    [0, 1]
    """

    def __init__(self, files: TokenizerFiles, *, stop_ids: Iterable[int] | None = None) -> None:
        self.name = files.name
        self.structure: Structure = read_structure(files.backend)
        spelled = spell_vocabulary(files.backend, self.structure)
        self.stop_ids = frozenset(stop_token_ids(files) if stop_ids is None else stop_ids)
        self.num_ids = max(_declared_size(files), max(spelled, default=-1) + 1)
        if wrong := sorted(index for index in self.stop_ids if not 0 <= index < self.num_ids):
            raise TokenizerError(f"stop ids {wrong} of {self.name!r} are outside its {self.num_ids} ids")
        self._files = files
        self._event: UInt8[np.ndarray, " V"] = self._event_table(files.backend, spelled)
        self._bytes = [b"" if self._event[i] else spelled[i] for i in range(self.num_ids)]
        self._lengths = np.fromiter(map(len, self._bytes), np.int64, self.num_ids)
        self._starts = np.cumsum(self._lengths) - self._lengths
        self._blob = np.frombuffer(b"".join(self._bytes), np.uint8)
        self._encoder = Encoder(_text_backend(files.backend, self._event, self.structure), self.structure)

    @classmethod
    def from_pretrained(cls, name_or_path: str, *, revision: str | None = None) -> Tokenization:
        """Load from a folder, `assets:NAME` or a hub id; raises TokenizerError."""
        return cls(read_tokenizer_files(str(name_or_path), revision))

    def with_stops(self, stop_ids: Iterable[int]) -> Tokenization:
        """The same tokenizer with another stop set."""
        wanted = frozenset(stop_ids)
        return self if self.stop_ids == wanted else Tokenization(self._files, stop_ids=wanted)

    def encode(self, data: bytes) -> TokenText:
        """What the tokenizer makes of `data`: as text within a text, so without a beginning-of-sequence
        token or dummy leading space, and with no text read as a control token.

        `TokenText.data` is what the tokens spell, which for a lossy tokenizer may differ from `data`.
        """
        ids = np.array(self._encoder.ids(data), np.int64)
        return self._text(ids, np.ones(len(ids), bool))

    def view(self, ids: Sequence[int] | np.ndarray | TokenText) -> TokenText:
        """The bytes of any ids, whether or not the tokenizer would have chosen them.

        Token i is canonical if the tokenizer, given the same text between the same events, produces
        that id at that place. Raises TokenizerError for an id that is not in the vocabulary.
        """
        array = np.asarray(ids, np.int64).reshape(-1)
        self._check_ids(array)
        sampled = self._text(array, np.ones(len(array), bool))
        canonical = np.ones(len(array), bool)
        for start, stop in _text_runs(sampled.event):
            canonical[start:stop] = self._canonical_flags(sampled, start, stop)
        return self._text(array, canonical)

    def token_bytes(self, index: int) -> bytes:
        """The bytes of one id; empty for a control token."""
        self._check_ids(np.array([index]))
        return self._bytes[index]

    def is_event(self, index: int) -> bool:
        """Whether an id is a control token."""
        self._check_ids(np.array([index]))
        return bool(self._event[index])

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
        padding = (*self._bytes[size:], *other._bytes[size:])
        return (
            self._bytes[:size] == other._bytes[:size]
            and np.array_equal(self._event[:size], other._event[:size])
            and not any(padding)
            and self.stop_ids == other.stop_ids
        )

    def vocabulary_bytes(self) -> list[bytes]:
        """The bytes of every id, in order; empty for control tokens."""
        return list(self._bytes)

    def _text(self, ids: Int64[np.ndarray, " S"], canonical: Bool[np.ndarray, " S"]) -> TokenText:
        bounds = np.zeros(len(ids) + 1, np.int64)
        np.cumsum(self._lengths[ids], out=bounds[1:])
        # Byte n of the text is byte n - bounds[i] of its token i, wherever that lies in the blob.
        places = np.arange(bounds[-1]) + np.repeat(self._starts[ids] - bounds[:-1], self._lengths[ids])
        data = self._blob[places].tobytes()
        return TokenText(ids=ids, data=data, bounds=bounds, event=self._event[ids], canonical=canonical)

    def _canonical_flags(self, sampled: TokenText, start: int, stop: int) -> Bool[np.ndarray, " run"]:
        """Canonical flags of the text run `start:stop`, which holds no event."""
        ids = sampled.ids[start:stop]
        bounds = sampled.bounds[start : stop + 1] - sampled.bounds[start]
        data = sampled.data[sampled.bounds[start] : sampled.bounds[stop]]
        own_ids = np.array(self._encoder.ids(data), np.int64)
        if np.array_equal(own_ids, ids):
            return np.ones(len(ids), bool)
        own = self._text(own_ids, np.ones(len(own_ids), bool))
        first, last = own.bounds[:-1], own.bounds[1:]
        if own.data != data:
            first, last = _carry(own, data)
        keys = first * self.num_ids + own_ids
        spans = (last - first) == np.diff(own.bounds)
        return np.isin(bounds[:-1] * self.num_ids + ids, keys[(first >= 0) & spans])

    def _event_table(self, backend: Tokenizer, spelled: dict[int, bytes]) -> UInt8[np.ndarray, " V"]:
        event = np.full(self.num_ids, Event.CONTROL, np.uint8)
        texts = [index for index, data in spelled.items() if data]
        event[texts] = Event.NONE
        specials = [index for index, token in backend.get_added_tokens_decoder().items() if token.special]
        event[specials] = Event.CONTROL
        unknown = getattr(backend.model, "unk_token", None)
        if unknown is not None and (index := backend.token_to_id(unknown)) is not None:
            event[index] = Event.CONTROL
        event[list(self.stop_ids)] = Event.STOP
        return event

    def _check_ids(self, ids: Int64[np.ndarray, " S"]) -> None:
        wrong = np.flatnonzero((ids < 0) | (ids >= self.num_ids))
        if len(wrong):
            raise TokenizerError(
                f"id {ids[wrong[0]]} at token {wrong[0]} is outside the {self.num_ids} ids of {self.name!r}: "
                "do these ids come from another tokenizer?"
            )


def _declared_size(files: TokenizerFiles) -> int:
    """Ids the model's embedding has, which may be padded beyond the tokenizer's."""
    nested = files.model.get("text_config")
    size = (nested if isinstance(nested, dict) else files.model).get("vocab_size", 0)
    return size if isinstance(size, int) else 0


def _text_backend(backend: Tokenizer, event: UInt8[np.ndarray, " V"], structure: Structure) -> Tokenizer:
    """A copy of the tokenizer that reads plain text: no special tokens in or around it."""
    if structure.dummy_prefix:
        state = json.loads(backend.to_str())
        for part in ("normalizer", "pre_tokenizer"):
            state[part] = without_dummy_prefix(state[part])
        copy = Tokenizer.from_str(json.dumps(state))
    else:
        copy = Tokenizer.from_str(backend.to_str())
    copy.post_processor = None
    copy.no_truncation()
    copy.no_padding()
    added = backend.get_added_tokens_decoder()
    controls = [
        index for index in np.flatnonzero(event).tolist() if index not in added or not added[index].special
    ]
    names = [name for index in controls if (name := backend.id_to_token(index)) is not None]
    copy.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    copy.encode_special_tokens = True
    return copy


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
