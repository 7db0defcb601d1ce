"""Tables on disk, so that a pair's are made once: numpy arrays by a fingerprint, mapped into memory.

    $DRAGOMAN_HOME/tables/KEY/NAME/         the arrays of one table, NAME by KEY, and manifest.json

A table is written to a hidden folder, its manifest last, and renamed into place, so that any number of
processes may make it at once. Its arrays are compared with the manifest's sha256 when they are opened: a
table that is damaged is made again. Nothing that is read is executed or unpickled.

`DRAGOMAN_TABLES=off` makes every table anew and writes none. Folders may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

import numpy as np

from dragoman.assets import home
from dragoman.errors import TokenizerError

logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).parents[1]
SOURCES = ("text/*.py", "padding.py", "kinds.py", "supervise/xtoken.py", "supervise/rows/longer.py")
"""The code that says what a table holds, within the package: when it changes, tables are made anew."""
LEAST_BYTES = 1 << 14
"""Most tables below this are made in less time than it takes to open them, and not written."""
SWITCH = "DRAGOMAN_TABLES"
MANIFEST = "manifest.json"
ABANDONED = 24 * 3600
"""Seconds after which a hidden folder is taken to be that of a process that was killed."""

Arrays = Mapping[str, np.ndarray]


def fingerprint(*parts: str | bytes) -> str:
    """A key for tables that depend on some values, on the code and on the `tokenizers` library."""
    return _sha256(sources_digest(PACKAGE), version("tokenizers"), *parts)[:40]


@cache
def sources_digest(package: Path) -> str:
    """Of the files that `SOURCES` names in a folder of the package."""
    files = sorted(file.relative_to(package).as_posix() for name in SOURCES for file in package.glob(name))
    return _sha256(*(part for file in files for part in (file, (package / file).read_bytes())))


def _sha256(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def folder() -> Path | None:
    """Where tables are kept; None where they are not, or there is no home folder. Raises TokenizerError if
    the switch says neither."""
    choice = os.environ.get(SWITCH, "").lower()
    if choice in ("off", "0"):
        return None
    if choice in ("", "on", "1"):
        try:
            return home() / "tables"
        except RuntimeError as error:  # nobody's home folder, as in some containers
            logger.info("tables are not kept: %s. Set DRAGOMAN_HOME to a folder", error)
            return None
    raise TokenizerError(
        f"{SWITCH} is {choice!r}, expected 'on' or 'off': it says whether tables of tokenizers are kept"
    )


def stored(key: str | None, name: str, make: Callable[[], Arrays], *, least: int | None = None) -> Arrays:
    """The arrays that `make` gives, read from disk if they are there, else made and written.

    Without a key nothing is read or written, below `least` bytes (`LEAST_BYTES`) nothing is written: a table
    that is small and slow to make says so. They must not be changed.
    """
    root = folder()
    if key is None or root is None:
        return make()
    place = root / key / name
    if (found := _read(place)) is not None:
        return found
    made = make()
    least = LEAST_BYTES if least is None else least
    if made and sum(array.nbytes for array in made.values()) >= least:
        _write(place, made)
    return made


def _read(place: Path) -> Arrays | None:
    """The arrays of a folder, mapped; None where there is none, or where they are not what was written."""
    try:
        if not place.is_dir():
            return None
        listed = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        there = {file.stem for file in place.glob("*.npy")}
        if not listed or listed.keys() != there:
            raise ValueError(f"the manifest names {sorted(listed)}, the folder holds {sorted(there)}")
        return {name: _mapped(place / f"{name}.npy", digest) for name, digest in listed.items()}
    # What is no manifest fails in one of these ways, whatever it is.
    except (OSError, ValueError, AttributeError, TypeError) as error:
        logger.warning("the tables in %s cannot be used and are made again: %s", place, error)
        return None


def _mapped(file: Path, digest: str) -> np.ndarray:
    if (found := _digest(file)) != digest:
        raise ValueError(f"{file.name} has the sha256 {found}, its manifest says {digest}")
    # A plain array on the same memory: slices of a memmap cost several times as much.
    return np.load(file, mmap_mode="r", allow_pickle=False).view(np.ndarray)


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _write(place: Path, arrays: Arrays) -> None:
    """Write a table; where that is not possible it will be made again."""
    # An ordinary folder, so that the umask says who may read it.
    made = place.with_name(f".{place.name}-{uuid4().hex}")
    try:
        made.mkdir(parents=True)
    except OSError as error:
        logger.info("tables are not kept in %s: %s", place.parent, error)
        return
    try:
        _tidy(place)
        for name, array in arrays.items():
            np.save(made / f"{name}.npy", array, allow_pickle=False)
        listed = {name: _digest(made / f"{name}.npy") for name in arrays}
        (made / MANIFEST).write_text(json.dumps(listed, indent=1), encoding="utf-8")
        _put(made, place)
    except OSError as error:
        logger.info("tables are not kept in %s: %s", place, error)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _tidy(place: Path) -> None:
    """Remove hidden folders of this table that a killed process left."""
    for left in place.parent.glob(f".{place.name}-*"):
        with suppress(OSError):  # another process may have removed it
            if left.stat().st_mtime < time.time() - ABANDONED:
                shutil.rmtree(left, ignore_errors=True)


def _put(made: Path, place: Path) -> None:
    """Rename a folder into place, where another process may have put the same. What is damaged gives way."""
    try:
        made.rename(place)
    except OSError:
        if not place.is_dir() or _read(place) is not None:
            return
        aside = made.with_name(f"{made.name}-damaged")
        place.rename(aside)
        try:
            made.rename(place)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
