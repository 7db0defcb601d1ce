"""A response in stretches, and what the tokenizer was given for each. Imports nothing of dragoman."""

from __future__ import annotations

import re
from collections.abc import Iterator

from normalise import TruthError

Unit = tuple[bytes, str | bytes]
"""Bytes of the response, and what the tokenizer was given for them (bytes: as they are)."""


def given_units(data: bytes, text: str | None) -> Iterator[Unit]:
    """The response in stretches of valid text and others; together they are all of it.

    `text` is what was given to the tokenizer; None if the bytes themselves. A text decoded from ids has
    U+FFFD in place of broken bytes (one for a piece or for each byte) and may lack a first space. Raises
    TruthError for any other difference.
    """
    if text is None:
        yield from ((run.encode() if isinstance(run, str) else run, run) for run in runs(data))
        return
    parts = re.split("(\ufffd+)", text)
    pattern = b"".join(
        b"(.+?)" if i % 2 else b"(" + re.escape(part.encode()) + b")" for i, part in enumerate(parts)
    )
    found = re.fullmatch(pattern, data, re.DOTALL)
    if found is None:
        found = re.fullmatch(b" " + pattern, data, re.DOTALL)
        if found is None:
            raise TruthError(f"the teacher was given {text[:40]!r} for {data[:40]!r}")
        yield b" ", ""
    yield from ((source, part) for source, part in zip(found.groups(), parts, strict=True) if source)


def runs(data: bytes) -> Iterator[str | bytes]:
    """Valid UTF-8 as text, each maximal broken piece as bytes."""
    while data:
        try:
            valid, bad, data = data.decode("utf-8"), b"", b""
        except UnicodeDecodeError as error:
            valid, bad = data[: error.start].decode("utf-8"), data[error.start : error.end]
            data = data[error.end :]
        if valid:
            yield valid
        if bad:
            yield bad
