"""Reading a tokenizer's own files, from a folder or a hub repository; nothing of it is executed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from dragoman.assets import resolve
from dragoman.errors import TokenizerError
from dragoman.text.spelling import Structure, read_structure, spell_vocabulary
from dragoman.text.stored import fingerprint, stored
from dragoman.text.strings import ByteStrings


@dataclass(frozen=True, kw_only=True)
class TokenizerFiles:
    """A parsed `tokenizer.json` with the configuration files beside it (`{}` where there is none)."""

    name: str
    backend: Tokenizer
    config: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    digest: str | None = None
    """The sha256 of `tokenizer.json`; None where it was read from none."""

    @cached_property
    def structure(self) -> Structure:
        """How the tokenizer's components spell bytes."""
        return read_structure(self.backend)

    @cached_property
    def spelled(self) -> ByteStrings:
        """The bytes of every id, control tokens included; none for an id without a token."""

        def make() -> Mapping[str, np.ndarray]:
            strings = spell_vocabulary(self.backend, self.structure)
            return {"data": strings.data, "bounds": strings.bounds}

        key = None if self.digest is None else fingerprint("tokenizer", self.digest)
        found = stored(key, "spelled", make)
        return ByteStrings(data=found["data"], bounds=found["bounds"])

    @property
    def num_ids(self) -> int:
        """Ids of the model's embedding, which may be padded beyond the tokenizer's."""
        nested = self.model.get("text_config")
        size = (nested if isinstance(nested, dict) else self.model).get("vocab_size", 0)
        return max(size if isinstance(size, int) else 0, len(self.spelled))


def read_tokenizer_files(name_or_path: str, revision: str | None = None) -> TokenizerFiles:
    """Read a tokenizer from a folder, `assets:NAME` or a hub id.

    Raises TokenizerError where there is no `tokenizer.json` or it cannot be parsed.
    """
    place = resolve(name_or_path)
    path = _locate(place, "tokenizer.json", revision)
    if path is None:
        raise TokenizerError(
            f"no tokenizer.json in {name_or_path!r}: dragoman needs a fast tokenizer to know the bytes of "
            "every id. Convert it once: AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)"
        )
    content = path.read_bytes()  # once: another process may write the file anew
    # The binding raises bare Exception for anything it cannot parse.
    try:
        backend = Tokenizer.from_buffer(content)
    except Exception as error:
        raise TokenizerError(f"{path} is not a readable tokenizer.json: {error}") from error
    return TokenizerFiles(
        name=name_or_path,
        digest=hashlib.sha256(content).hexdigest(),
        backend=backend,
        config=_read_json(place, "tokenizer_config.json", revision),
        generation=_read_json(place, "generation_config.json", revision),
        model=_read_json(place, "config.json", revision),
    )


def _locate(place: str, name: str, revision: str | None) -> Path | None:
    folder = Path(place)
    if folder.is_dir():
        path = folder / name
        return path if path.is_file() else None
    if folder.is_absolute() or place.startswith((".", "~")):
        raise TokenizerError(f"no folder {place!r}: give a folder, a hub id or assets:NAME")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(hf_hub_download(place, name, revision=revision))
    except LocalEntryNotFoundError as error:
        raise TokenizerError(
            f"{place!r} is no folder here and the hub cannot be reached to look it up as a hub id"
        ) from error
    except EntryNotFoundError:
        return None
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise TokenizerError(f"{place!r} is neither a folder here nor a repository on the hub") from error


def _read_json(place: str, name: str, revision: str | None) -> Mapping[str, Any]:
    path = _locate(place, name, revision)
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TokenizerError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise TokenizerError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def token_content(value: Any) -> str | None:
    """The string of a special-token entry, which files write as text or as an AddedToken object."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None


def stop_token_ids(files: TokenizerFiles) -> frozenset[int]:
    """The ids that end a turn, by the tokenizer's `eos_token` and the generation config.

    `config.json` is asked only where there is no generation config, as `generate` does.
    """
    found: set[int] = set()
    eos = token_content(files.config.get("eos_token"))
    if eos is not None and (index := files.backend.token_to_id(eos)) is not None:
        found.add(index)
    settings = files.generation or files.model
    ids = settings.get("eos_token_id")
    found.update(ids if isinstance(ids, list) else [] if ids is None else [ids])
    return frozenset(found)
