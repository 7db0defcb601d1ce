"""What is imported when: the data plane, and asking for help, load neither torch nor transformers."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
DATA_PLANE = (
    *("errors", "types", "config", "observe", "data", "assets", "text", "render", "alignment"),
    *("supervise", "methods"),
)
HEAVY = {"torch", "transformers"}
MOST_SECONDS = 0.5

COMMAND = str(Path(sys.executable).with_name("dragoman"))
QUICK = {"import": ("-c", "import dragoman"), "help": (COMMAND, "--help")}

# A line of `-X importtime`: "import time:  self [us] | cumulative | name", the name indented by depth.
IMPORT_LINE = re.compile(r"^import time:[\d |]+\|\s*([\w.]+)$", re.MULTILINE)


def run_python(*arguments: str) -> str:
    """Standard error of a fresh interpreter that must succeed."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stderr


def imported_by(*arguments: str) -> set[str]:
    """The top-level modules a fresh interpreter imports."""
    names = IMPORT_LINE.findall(run_python("-X", "importtime", *arguments))
    return {name.partition(".")[0] for name in names}


def modules_of(room: str) -> list[str]:
    """Every module of a room, by its dotted name."""
    place = SOURCE / "dragoman" / room
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    names = [".".join(file.relative_to(SOURCE).with_suffix("").parts) for file in files]
    return [name.removesuffix(".__init__") for name in names]


def test_the_list_of_imports_is_read() -> None:
    assert {"dragoman", "json"} <= imported_by("-c", "import dragoman.errors, json")


@pytest.mark.parametrize("arguments", QUICK.values(), ids=QUICK)
def test_starting_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    assert not imported_by(*arguments) & HEAVY


@pytest.mark.parametrize("arguments", QUICK.values(), ids=QUICK)
def test_starting_is_quick(arguments: tuple[str, ...]) -> None:
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        run_python(*arguments)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < MOST_SECONDS


@pytest.mark.parametrize("room", DATA_PLANE)
def test_the_data_plane_loads_nothing_heavy(room: str) -> None:
    modules = modules_of(room)
    assert modules
    assert not imported_by("-c", f"import {', '.join(modules)}") & HEAVY
