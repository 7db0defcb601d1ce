"""The Python blocks of the documentation run, in order, and print what stands below them."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d+\.\d+(?:e[-+]?\d+)?")
TOLERANCE = 0.05
"""Processors sum in different orders: printed decimals may differ, ids and counts may not."""

Blocks = list[tuple[str, str]]


def blocks(document: Path) -> Blocks:
    """Kind and content of the `python` and `text` blocks of a document."""
    return [(match[1], match[2]) for match in BLOCK.finditer(document.read_text(encoding="utf-8"))]


def check_output(document: str, got: str, shown: str) -> None:
    """Assert equality of all but decimals, and of these to `TOLERANCE`."""
    assert NUMBER.sub("#", got) == NUMBER.sub("#", shown), f"{document} shows another output:\n{got}"
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in (got, shown)]
    assert numbers[0] == pytest.approx(numbers[1], abs=TOLERANCE), f"{document} shows other numbers:\n{got}"


def run(document: str, found: Blocks) -> None:
    """Run the Python blocks in one namespace; a block that prints is followed by what it prints."""
    namespace: dict[str, object] = {"__name__": document}
    for (kind, code), (next_kind, shown) in pairwise([*found, ("end", "")]):
        if kind == "python":
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(code, document, "exec"), namespace)
            check_output(document, output.getvalue(), shown if next_kind == "text" else "")


@pytest.mark.assets
@pytest.mark.slow
@pytest.mark.parametrize("name", ["concepts.md", "python.md"])
def test_blocks_run_and_print_what_is_shown(
    name: str, asset: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asset("smollm2-135m-instruct")
    asset("gemma-3-270m")
    monkeypatch.chdir(tmp_path)
    found = blocks(ROOT / "docs" / name)
    assert [kind for kind, _ in found].count("python") >= 5
    run(name, found)


def test_the_readme_shows_the_first_block_of_the_python_page() -> None:
    readme = [code for kind, code in blocks(ROOT / "README.md") if kind == "python"]
    assert readme == [blocks(ROOT / "docs" / "python.md")[0][1]]


def test_a_wrong_output_is_found() -> None:
    run("right", [("python", "print(1, 2.51)\n"), ("text", "1 2.50\n")])
    for shown in ("1 2.60\n", "2 2.51\n", "1 2.51 3.0\n", ""):
        with pytest.raises(AssertionError, match="wrong shows"):
            run("wrong", [("python", "print(1, 2.51)\n"), ("text", shown)])
