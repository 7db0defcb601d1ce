"""What the tokens of a vocabulary spell, read off the tokenizer's own components.

Three spellings cover the tokenizers in use; which one applies follows from the decoder and
pre-tokenizer found in `tokenizer.json`, never from a model family:

* byte-level: every character of a token stands for one byte (the GPT-2 alphabet);
* SentencePiece: `▁` is a space, `<0xNN>` is the byte NN, all else is UTF-8;
* WordPiece: `##x` continues a word, any other token starts one after a space.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from dragoman.errors import TokenizerError
from dragoman.text.strings import ByteStrings, bounds_of, joined

SPACE_MARK = "▁"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_UTF8 = (0x80, 0x800, 0x10000)
"""Characters from which on UTF-8 takes one byte more."""


class Spelling(StrEnum):
    """How a vocabulary writes bytes."""

    BYTE_LEVEL = "byte-level"
    SENTENCEPIECE = "sentencepiece"
    WORDPIECE = "wordpiece"
    SUFFIX = "end-of-word suffix"
    VERBATIM = "verbatim"


@dataclass(frozen=True, kw_only=True)
class Structure:
    """The components of a tokenizer that decide how its tokens spell bytes."""

    spelling: Spelling
    algorithm: str
    byte_fallback: bool
    dummy_prefix: bool
    """A space is put before the first word of a text (`Prepend`, `Metaspace`, `add_prefix_space`)."""
    affix: str = ""
    """WordPiece's continuing prefix or the end-of-word suffix."""


def byte_alphabet() -> dict[str, int]:
    """The byte-level alphabet, character to byte: printable Latin-1 stands for itself, the other 68
    bytes take the characters from U+0100 on, in order (Radford et al. 2019, GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


def component(part: Any) -> dict[str, Any]:
    """The JSON of one component of a `tokenizers.Tokenizer`; `{}` for an absent one."""
    return json.loads(part.__getstate__()) if part is not None else {}


def flatten(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The leaves of a component JSON, through any nesting of `Sequence`."""
    children = next((node[key] for key in ("normalizers", "pretokenizers", "decoders") if key in node), None)
    if children is None:
        if node:
            yield node
    else:
        for child in children:
            yield from flatten(child)


def read_structure(backend: Tokenizer) -> Structure:
    """Read the structure of a fast tokenizer from its components."""
    decoders = list(flatten(component(backend.decoder)))
    before = [*flatten(component(backend.normalizer)), *flatten(component(backend.pre_tokenizer))]
    model = backend.model
    dummy_prefix = any(_adds_space(part) for part in before)
    byte_fallback = bool(getattr(model, "byte_fallback", False)) or any(
        part["type"] == "ByteFallback" for part in decoders
    )
    spelling, affix = _spelling(decoders, before, model)
    return Structure(
        spelling=spelling,
        algorithm=type(model).__name__,
        byte_fallback=byte_fallback,
        dummy_prefix=dummy_prefix,
        affix=affix,
    )


def _spelling(
    decoders: list[Mapping[str, Any]], before: list[Mapping[str, Any]], model: Any
) -> tuple[Spelling, str]:
    types = {part["type"] for part in decoders}
    before_types = {part["type"] for part in before}
    if "ByteLevel" in types or "ByteLevel" in before_types:
        return Spelling.BYTE_LEVEL, ""
    if "Metaspace" in types | before_types or any(
        SPACE_MARK in json.dumps(part, ensure_ascii=False) for part in decoders
    ):
        return Spelling.SENTENCEPIECE, ""
    for part in decoders:
        if part["type"] == "WordPiece":
            return Spelling.WORDPIECE, part["prefix"]
        if part["type"] == "BPEDecoder":
            return Spelling.SUFFIX, part["suffix"]
    if getattr(model, "continuing_subword_prefix", None) and type(model).__name__ == "WordPiece":
        return Spelling.WORDPIECE, model.continuing_subword_prefix
    return Spelling.VERBATIM, ""


def _adds_space(part: Mapping[str, Any]) -> bool:
    if part["type"] == "Prepend":
        return str(part["prepend"]) in (SPACE_MARK, " ")
    if part["type"] == "Metaspace":
        return str(part.get("prepend_scheme", "always")) != "never"
    return part["type"] == "ByteLevel" and bool(part.get("add_prefix_space"))


def without_dummy_prefix(node: Any) -> Any:
    """A normaliser or pre-tokenizer JSON in which no component adds a leading space."""
    if isinstance(node, list):
        return [without_dummy_prefix(child) for child in node if not _is_prepend(child)]
    if not isinstance(node, dict):
        return node
    if _is_prepend(node):
        return None
    changed = {key: without_dummy_prefix(value) for key, value in node.items()}
    if node.get("type") == "Metaspace":
        changed["prepend_scheme"] = "never"
        changed.pop("add_prefix_space", None)
    if node.get("type") == "ByteLevel":
        changed["add_prefix_space"] = False
    return changed


def _is_prepend(node: Any) -> bool:
    return isinstance(node, dict) and node.get("type") == "Prepend" and _adds_space(node)


def spell_vocabulary(backend: Tokenizer, structure: Structure) -> ByteStrings:
    """The bytes of every token id, none for an id without a token. Added tokens are verbatim, but for
    SentencePiece's `▁` (Gemma adds its runs of spaces so), which its decoder turns into spaces in them too.

    Raises TokenizerError for a byte-level token with a character outside the byte alphabet.
    """
    vocabulary = backend.get_vocab(with_added_tokens=True)
    names = list(vocabulary)
    ids = np.fromiter(vocabulary.values(), np.int64, len(names))
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    if structure.spelling is Spelling.SENTENCEPIECE:
        strings = _spell_sentencepiece(names, structure.byte_fallback)
    elif structure.spelling is Spelling.BYTE_LEVEL:
        strings = _spell_byte_level(names, added)
    else:
        strings = ByteStrings.of(
            name.encode() if name in added else _spell_word(name, structure) for name in names
        )
    place = np.full(int(ids.max(initial=-1)) + 1, len(strings))
    place[ids] = np.arange(len(strings))
    return joined([strings, ByteStrings.of([b""])]).take(place)


def _spell_word(token: str, structure: Structure) -> bytes:
    if structure.spelling is Spelling.WORDPIECE:
        starts_word = not token.startswith(structure.affix)
        return (" " + token if starts_word else token.removeprefix(structure.affix)).encode()
    if structure.spelling is Spelling.SUFFIX:
        ends_word = token.endswith(structure.affix)
        return (token.removesuffix(structure.affix) + " " if ends_word else token).encode()
    return token.encode()


def _spell_byte_level(names: list[str], added: Container[str]) -> ByteStrings:
    """A byte a character, by a table of all characters at once; added tokens are spelled one by one."""
    table = np.full(max(map(ord, byte_alphabet())) + 2, -1)
    for character, byte in byte_alphabet().items():
        table[ord(character)] = byte
    codes = np.frombuffer("".join(names).encode("utf-32-le"), "<u4")
    spelled = table[np.minimum(codes, len(table) - 1)]
    bounds = bounds_of(np.fromiter(map(len, names), np.int64, len(names)))
    verbatim = [place for place, name in enumerate(names) if name in added]
    foreign = np.zeros(len(names), bool)
    foreign[np.searchsorted(bounds, np.flatnonzero(spelled < 0), side="right") - 1] = True
    foreign[verbatim] = False
    if foreign.any():
        token = names[int(np.flatnonzero(foreign)[0])]
        character = next(character for character in token if character not in byte_alphabet())
        raise TokenizerError(
            f"token {token!r} holds {character!r}, which is not in the byte-level alphabet, although the "
            "tokenizer decodes byte by byte: its vocabulary cannot be mapped to bytes exactly"
        )
    plain = ByteStrings(data=np.maximum(spelled, 0).astype(np.uint8), bounds=bounds)
    return _replaced(plain, {place: names[place].encode() for place in verbatim})


def _spell_sentencepiece(names: list[str], byte_fallback: bool) -> ByteStrings:
    codes = np.frombuffer("".join(names).encode("utf-32-le"), "<u4")
    sizes = np.where(
        codes == ord(SPACE_MARK), 1, 1 + sum((codes >= least).astype(np.int64) for least in _UTF8)
    )
    ends = bounds_of(sizes)
    bounds = ends[bounds_of(np.fromiter(map(len, names), np.int64, len(names)))]
    data = "".join(names).replace(SPACE_MARK, " ").encode()
    found = ByteStrings(data=np.frombuffer(data, np.uint8), bounds=bounds)
    if not byte_fallback:
        return found
    matches = {
        place: _BYTE_TOKEN.fullmatch(names[place]) for place in np.flatnonzero(found.lengths == 6).tolist()
    }
    return _replaced(found, {place: bytes([int(match[1], 16)]) for place, match in matches.items() if match})


def _replaced(strings: ByteStrings, others: Mapping[int, bytes]) -> ByteStrings:
    """The strings with some of them, by place, replaced by others."""
    place = np.arange(len(strings))
    place[list(others)] = len(strings) + np.arange(len(others))
    return joined([strings, ByteStrings.of(others.values())]).take(place)
