"""Fail where a file or a function is too long to be read in one go.

    python tools/check_sizes.py

A file holds at most 300 lines (a test file 400), a function at most 60, docstring included, decorators
not.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("src", "tests", "tools", "benchmarks")
MOST_LINES = 300
MOST_LINES_OF_TESTS = 400
MOST_LINES_OF_FUNCTION = 60


def main() -> int:
    """Print one line for each file or function over its limit; 1 if there is any, else 0."""
    root = Path(__file__).parents[1]
    paths = sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py"))
    found = [f"{path.relative_to(root)}{excess}" for path in paths for excess in oversized(path, root)]
    if found:
        print(*found, sep="\n")
        print(f"{len(found)} too long; divide each by idea, or say it shorter", file=sys.stderr)
    return 1 if found else 0


def oversized(path: Path, root: Path) -> Iterator[str]:
    """What is too long in one file, as text to append to its name."""
    text = path.read_text(encoding="utf-8")
    limit = MOST_LINES_OF_TESTS if path.is_relative_to(root / "tests") else MOST_LINES
    num_lines = len(text.splitlines())
    if num_lines > limit:
        yield f": {num_lines} lines (at most {limit})"
    for node in ast.walk(ast.parse(text, filename=str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            size = node.end_lineno - node.lineno + 1
            if size > MOST_LINES_OF_FUNCTION:
                yield f":{node.lineno}: {node.name} has {size} lines (at most {MOST_LINES_OF_FUNCTION})"


if __name__ == "__main__":
    sys.exit(main())
