"""What the lab found, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from dragoman.lab.result import WorldResult
from dragoman.report.cells import GOOD, Table
from dragoman.report.lab_overview import overview
from dragoman.report.lab_tables import lab_tables
from dragoman.report.rich_tables import rich_table

_UNBROKEN = 24
_NAMES = 2
"""Columns of the overview that say what a row is: the world, and where it starts."""
_GAP = 2


def lab_terminal(result: WorldResult) -> RenderableType:
    """All tables of a world."""
    parts: list[RenderableType] = [Text(result.world.name, style="bold")]
    for table in lab_tables(result):
        parts += [Text(), rich_table(table, unbroken=_UNBROKEN), Text(table.note, style="dim")]
    return Group(*parts, Text())


def lab_overview(results: Sequence[WorldResult]) -> RenderableType:
    """All methods in all worlds; the least of each world has a star, so that it shows without colour."""
    found = overview([result.to_json() for result in results])
    rows = tuple(
        (
            row[0],
            *(replace(cell, text=cell.text + ("*" if cell.tone == GOOD else " ")) for cell in row[1:]),
        )
        for row in found.rows
    )
    return _Overview(replace(found, rows=rows, note=f"{found.note} * the least of its world."))


@dataclass(frozen=True)
class _Overview:
    """A table that is cut between methods where the terminal is not wide enough."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for part in _parts(self.table, options.max_width):
            yield rich_table(part, unbroken=_UNBROKEN)
            yield Text()
        yield Text(self.table.note, style="dim")


def _parts(table: Table, width: int) -> Iterator[Table]:
    """Parts of a table, each with its first columns and as many of the others as there is room for."""
    widths = [
        max(len(name), *(len(row[place].text) for row in table.rows)) + _GAP
        for place, name in enumerate(table.columns)
    ]
    names = list(range(_NAMES))
    used, places = sum(widths[:_NAMES]), list(names)
    title = table.title
    for place in range(_NAMES, len(widths)):
        if used + widths[place] - _GAP > width and len(places) > _NAMES:
            yield _columns(table, places, title)
            used, places, title = sum(widths[:_NAMES]), list(names), ""
        used += widths[place]
        places.append(place)
    yield _columns(table, places, title)


def _columns(table: Table, places: Sequence[int], title: str) -> Table:
    return replace(
        table,
        title=title,
        columns=tuple(table.columns[place] for place in places),
        rows=tuple(tuple(row[place] for place in places) for row in table.rows),
    )
