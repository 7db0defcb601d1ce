"""Tables on disk: what is read is what was written, whatever happens to the folder."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import tiny
from dragoman.errors import TokenizerError
from dragoman.supervise.rows.longer import Continued
from dragoman.supervise.xtoken import stored_projection
from dragoman.text import PairTables, Tokenization, stored
from dragoman.text.encoding import Encoder
from dragoman.types import Event

ARRAYS = {"numbers": np.arange(40_000), "flags": np.zeros((7, 3), bool), "none": np.zeros(0, np.float64)}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where tables are kept; they are, however small."""
    monkeypatch.setenv("DRAGOMAN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(stored.SWITCH, "on")
    monkeypatch.setattr(stored, "LEAST_BYTES", 0)
    return tmp_path / "home" / "tables"


def never() -> Mapping[str, np.ndarray]:
    raise AssertionError("made although it is there")


def same(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray] = ARRAYS) -> bool:
    return found.keys() == wanted.keys() and all(
        np.array_equal(found[name], array) and found[name].dtype == array.dtype
        for name, array in wanted.items()
    )


def test_a_table_is_made_once_and_mapped(root: Path) -> None:
    assert stored.stored("key", "table", lambda: ARRAYS) is ARRAYS
    found = stored.stored("key", "table", never)
    assert same(found)
    # mapped, not read; and not to be written to
    assert isinstance(found["numbers"].base, np.memmap) and type(found["numbers"]) is np.ndarray
    assert not found["numbers"].flags.writeable
    assert sorted(path.name for path in (root / "key").iterdir()) == ["table"]
    # another key, another name
    for key, name in (("other", "table"), ("key", "other")):
        assert same(stored.stored(key, name, lambda: {"a": np.ones(1)}), {"a": np.ones(1)})


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-9] ^= 1
    file.write_bytes(data)


def first_of(listed: dict[str, str]) -> dict[str, str]:
    """A manifest that is right about one array and leaves out the others."""
    return dict([*listed.items()][:1])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("numbers.npy", cut),
        ("numbers.npy", flip),
        ("numbers.npy", lambda file: file.unlink()),
        ("manifest.json", lambda file: file.unlink()),
        ("manifest.json", cut),
        ("manifest.json", lambda file: file.write_text("[]")),
        ("manifest.json", lambda file: file.write_text('{"numbers": 3}')),
        ("manifest.json", lambda file: file.write_text("{}")),
        ("manifest.json", lambda file: file.write_text(json.dumps(first_of(json.loads(file.read_text()))))),
        ("manifest.json", lambda file: file.write_bytes(b"\xff\xfe")),
    ],
)
def test_a_damaged_table_is_made_again(
    root: Path, caplog: pytest.LogCaptureFixture, name: str, damage: object
) -> None:
    stored.stored("key", "table", lambda: ARRAYS)
    damage(root / "key" / "table" / name)  # type: ignore[operator]
    with caplog.at_level(logging.WARNING):
        assert stored.stored("key", "table", lambda: ARRAYS) is ARRAYS
    assert "cannot be used and are made again" in caplog.text and str(root) in caplog.text
    caplog.clear()
    assert same(stored.stored("key", "table", never)) and not caplog.text
    assert [path.name for path in (root / "key").iterdir()] == ["table"]


def test_no_pickle_is_opened(root: Path) -> None:
    stored.stored("key", "table", lambda: {"a": np.ones(3)})
    place = root / "key" / "table"
    np.save(place / "a.npy", np.array([{}], object), allow_pickle=True)
    digest = stored._digest(place / "a.npy")
    (place / "manifest.json").write_text(json.dumps({"a": digest}))
    assert stored.stored("key", "table", lambda: {"a": np.ones(2)})["a"].tolist() == [1.0, 1.0]


def test_a_folder_that_cannot_be_written_is_no_error(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    root.parent.mkdir()
    root.write_text("a file where the folder would be")
    with caplog.at_level(logging.INFO):
        assert stored.stored("key", "table", lambda: ARRAYS) is ARRAYS
    assert "are not kept" in caplog.text


def test_a_folder_that_cannot_be_looked_at_is_no_error(root: Path) -> None:
    # No file system has names of so many bytes: every question about it is an OSError.
    assert stored.stored("k" * 5000, "table", lambda: ARRAYS) is ARRAYS


def test_without_a_home_folder_no_table_is_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(stored.SWITCH, "on")
    monkeypatch.setenv("DRAGOMAN_HOME", "~nobody-of-this-name/dragoman")
    with caplog.at_level(logging.INFO):
        assert stored.stored("key", "table", lambda: ARRAYS) is ARRAYS
    assert "are not kept" in caplog.text


def test_others_may_read_what_the_umask_lets_them(root: Path) -> None:
    before = os.umask(0o022)
    try:
        stored.stored("key", "table", lambda: ARRAYS)
    finally:
        os.umask(before)
    place = root / "key" / "table"
    assert place.stat().st_mode & 0o777 == 0o755
    assert {file.stat().st_mode & 0o777 for file in place.iterdir()} == {0o644}


def test_what_a_killed_process_left_is_removed_a_day_later(root: Path) -> None:
    for name, hours in ((".table-old", 25), (".table-new", 23), (".other-old", 25)):
        left = root / "key" / name
        left.mkdir(parents=True)
        (left / "numbers.npy").write_bytes(b"half")
        then = time.time() - 3600 * hours
        os.utime(left, (then, then))
    stored.stored("key", "table", lambda: ARRAYS)
    assert {path.name for path in (root / "key").iterdir()} == {".table-new", ".other-old", "table"}


def test_a_damaged_folder_that_cannot_be_replaced_leaves_nothing_behind(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stored.stored("key", "table", lambda: ARRAYS)
    cut(root / "key" / "table" / "numbers.npy")
    rename = Path.rename

    def renamed(self: Path, target: Path) -> Path:
        if target.name == "table":
            raise OSError("no renaming to the table's own name")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", renamed)
    with caplog.at_level(logging.INFO):
        assert stored.stored("key", "table", lambda: ARRAYS) is ARRAYS
    assert "no renaming" in caplog.text
    assert not [*(root / "key").iterdir()]


def test_switched_off_nothing_is_read_or_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored.stored("key", "table", lambda: ARRAYS)
    monkeypatch.setenv(stored.SWITCH, "off")
    assert stored.stored("key", "table", dict) == {}
    assert stored.stored("other", "table", lambda: ARRAYS) is ARRAYS
    assert [path.name for path in root.iterdir()] == ["key"]
    monkeypatch.setenv(stored.SWITCH, "no idea")
    with pytest.raises(TokenizerError, match="DRAGOMAN_TABLES is 'no idea', expected 'on' or 'off'"):
        stored.stored("key", "table", never)


def test_without_a_key_or_when_small_nothing_is_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stored.stored(None, "table", lambda: ARRAYS) is ARRAYS
    monkeypatch.setattr(stored, "LEAST_BYTES", 1 << 14)
    assert stored.stored("key", "table", lambda: {"a": np.zeros(100)})["a"].sum() == 0
    assert not root.exists()
    # but for what says that it is worth it
    stored.stored("key", "table", lambda: {"a": np.zeros(100)}, least=0)
    assert same(stored.stored("key", "table", never, least=0), {"a": np.zeros(100)})


def test_white_space_is_asked_about_once_however_small_the_table(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "LEAST_BYTES", 1 << 14)
    tiny.byte_level(tmp_path / "s")
    tiny.sentencepiece(tmp_path / "t")
    assert len(Continued(pair(tmp_path)).unsettled) == 3
    assert [path.name for path in root.glob("*/unsettled")] == ["unsettled"]


def make_slowly(barrier: object) -> Mapping[str, np.ndarray]:
    barrier.wait()  # type: ignore[attr-defined]
    return ARRAYS


def make_in_process(barrier: object, home: str) -> None:
    os.environ.update({"DRAGOMAN_HOME": home, stored.SWITCH: "on"})
    for number in range(20):
        assert same(stored.stored(f"key{number}", "table", lambda: make_slowly(barrier)))
        assert same(stored.stored(f"key{number}", "table", never))


def test_two_processes_at_once(root: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    workers = [context.Process(target=make_in_process, args=(barrier, str(root.parent))) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert {path.name for folder in root.iterdir() for path in folder.iterdir()} == {"table"}


# --- tokenizers


def pair(tmp_path: Path) -> PairTables:
    return PairTables(
        Tokenization.from_pretrained(str(tmp_path / "s")), Tokenization.from_pretrained(str(tmp_path / "t"))
    )


def all_tables(tables: PairTables) -> dict[str, np.ndarray]:
    """Every table that is kept, and some that follow from them."""
    found = {}
    for name, side in (("there", tables), ("back", tables.reversed)):
        found |= {
            f"{name} same": side.student_of_teacher,
            f"{name} longest": side.longest_prefix,
            f"{name} shared": side.shared.student_ids,
            f"{name} bounds": side.spelling_bounds,
            f"{name} ids": side.spelling_ids,
            f"{name} order": side.spelling_order.ids,
            f"{name} keys": side.spelling_order.keys.data,
        }
    found |= {f"words {key}": array for key, array in tables.student.words.arrays.items()}
    found |= {f"projection {key}": array for key, array in stored_projection(tables).arrays.items()}
    found["unsettled"] = np.concatenate(Continued(tables).unsettled)
    return found


def test_tables_of_a_pair_come_back_without_a_tokenizer_asked(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.byte_level(tmp_path / "s")
    tiny.sentencepiece(tmp_path / "t")
    made = all_tables(pair(tmp_path))

    def refuse(self: Encoder, data: object) -> None:
        raise AssertionError("a warm table tokenises nothing")

    monkeypatch.setattr(Encoder, "many", refuse)
    assert same(all_tables(pair(tmp_path)), made)


def test_what_tables_depend_on_is_in_the_fingerprint(root: Path, tmp_path: Path) -> None:
    one = Tokenization.from_pretrained(str(tiny.sentencepiece(tmp_path / "s", extra=("<in>",))))
    again = Tokenization.from_pretrained(str(tmp_path / "s"))
    other = Tokenization.from_pretrained(str(tiny.sentencepiece(tmp_path / "o", extra=("<out>",))))
    index = one.token_id("<in>")
    assert index is not None
    marked = one.with_markers({index: Event.THINK_OPEN})
    stopped = one.with_stops([*one.stop_ids, index])
    assert one.fingerprint == again.fingerprint is not None
    assert len({side.fingerprint for side in (one, other, marked, stopped)}) == 4


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package's sources."""
    skip = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(stored.PACKAGE, tmp_path / "package", ignore=skip))


def test_what_makes_the_tables_is_in_the_fingerprint(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = stored.sources_digest.__wrapped__(stored.PACKAGE)
    assert stored.sources_digest.__wrapped__(package) == before
    files = [file for pattern in stored.SOURCES for file in package.glob(pattern)]
    assert all([*package.glob(pattern)] for pattern in stored.SOURCES)
    for file in files:
        text = file.read_text(encoding="utf-8")
        file.write_text(f"{text}\n", encoding="utf-8")
        assert stored.sources_digest.__wrapped__(package) != before, file
        file.write_text(text, encoding="utf-8")
    (package / "errors.py").write_text("")
    assert stored.sources_digest.__wrapped__(package) == before
    key = stored.fingerprint("part")
    assert stored.fingerprint("part") == key
    monkeypatch.setattr(stored, "sources_digest", lambda package: "of another version")
    assert stored.fingerprint("part") != key


def test_every_module_that_keeps_tables_is_in_the_fingerprint(package: Path) -> None:
    files = {file for pattern in stored.SOURCES for file in package.glob(pattern)}
    keeping = {file for file in package.rglob("*.py") if re.search(r"\bstored\(", file.read_text("utf-8"))}
    assert len(keeping) >= 6 and keeping <= files
