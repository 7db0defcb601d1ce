"""Which ids are events, and a copy of a tokenizer that never makes one of text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import groupby

import numpy as np
from jaxtyping import UInt8
from tokenizers import AddedToken, Tokenizer

from dragoman.errors import TokenizerError
from dragoman.text.files import TokenizerFiles
from dragoman.text.spelling import without_dummy_prefix
from dragoman.types import Event


def event_table(
    files: TokenizerFiles, num_ids: int, stop_ids: Iterable[int], markers: Mapping[int, Event]
) -> UInt8[np.ndarray, " V"]:
    """The event every id is; `NONE` for text.

    Control tokens are the special tokens, the unknown token and ids without a token. A marker is the event
    it is given as, but a stop that is also a marker stays a stop: it ends the response.
    """
    backend = files.backend
    event = np.full(num_ids, Event.CONTROL, np.uint8)
    event[: len(files.spelled)][files.spelled.lengths > 0] = Event.NONE
    specials = [index for index, token in backend.get_added_tokens_decoder().items() if token.special]
    event[specials] = Event.CONTROL
    unknown = getattr(backend.model, "unk_token", None)
    if unknown is not None and (index := backend.token_to_id(unknown)) is not None:
        event[index] = Event.CONTROL
    for index, marker in markers.items():
        event[index] = marker
    event[list(stop_ids)] = Event.STOP
    return event


def check_markers(markers: Mapping[int, Event], files: TokenizerFiles) -> None:
    """Raises TokenizerError for a marker that is no event, or that is no added token: a token of the
    vocabulary itself may also be what plain text is written with.
    """
    added = files.backend.get_added_tokens_decoder()
    for index, event in markers.items():
        name = files.backend.id_to_token(index) if index >= 0 else None
        if event in (Event.NONE, Event.STOP):
            raise TokenizerError(
                f"marker {index} ({name!r}) of {files.name!r} is given as {Event(event).name}; expected "
                "CONTROL or the opening or closing of thinking or of a tool call. Stops go to `stop_ids`"
            )
        if index not in added:
            raise TokenizerError(
                f"marker {index} ({name!r}) of {files.name!r} is not one of its {len(added)} added tokens: "
                "text that spells it could not be told from the marker. Leave it out, so that it is text"
            )


def text_backend(files: TokenizerFiles, event: UInt8[np.ndarray, " V"]) -> Tokenizer:
    """A copy of the tokenizer that reads plain text: no special tokens in or around it."""
    backend = files.backend
    copy = _parsed_copy(backend) if files.structure.dummy_prefix else _shallow_copy(backend)
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


def _parsed_copy(backend: Tokenizer) -> Tokenizer:
    """A copy without a leading space, by way of its JSON."""
    state = json.loads(backend.to_str())
    for part in ("normalizer", "pre_tokenizer"):
        state[part] = without_dummy_prefix(state[part])
    return Tokenizer.from_str(json.dumps(state))


def _shallow_copy(backend: Tokenizer) -> Tokenizer:
    """A copy with added tokens of its own and the same vocabulary and merges, which take seconds to parse.

    Added tokens are given in the order and the groups in which a file's are read.
    """
    copy = Tokenizer(backend.model)
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        if (own := getattr(backend, part)) is not None:
            setattr(copy, part, own)
    added = backend.get_added_tokens_decoder()
    for special, group in groupby(sorted(added), key=lambda index: added[index].special):
        add = copy.add_special_tokens if special else copy.add_tokens
        add([added[index] for index in group])
    if copy.get_added_tokens_decoder() == added:
        return copy
    # Ids with a gap before them are given by a file alone.
    return Tokenizer.from_str(backend.to_str())
