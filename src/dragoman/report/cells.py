"""Tables as text, for the terminal and the HTML page alike."""

from __future__ import annotations

from dataclasses import dataclass

GOOD, BAD, PLAIN = "good", "bad", ""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell; `tone` is `good`, `bad` or nothing, and `is_number` says that it stands on the right.

    `href` is where a page links it to; a terminal shows the text alone.
    """

    text: str
    tone: str = PLAIN
    is_number: bool = False
    href: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A titled table; the first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


def texts(*values: str) -> tuple[Cell, ...]:
    """A row of text."""
    return tuple(Cell(text=value) for value in values)


def numbers(name: str, *values: str) -> tuple[Cell, ...]:
    """A named row of numbers."""
    return (Cell(text=name), *(Cell(text=value, is_number=True) for value in values))
