"""What the lab found, for the terminal."""

from __future__ import annotations

from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from dragoman.lab.result import WorldResult
from dragoman.report.audit_cells import BAD, GOOD, Table
from dragoman.report.lab_tables import lab_tables

_WIDEST = 24
_TONES = {GOOD: "green", BAD: "red"}


def lab_terminal(result: WorldResult) -> RenderableType:
    """All tables of a world."""
    parts: list[RenderableType] = [Text(result.world.name, style="bold")]
    for table in lab_tables(result):
        parts += [Text(), _table(table), Text(table.note, style="dim")]
    return Group(*parts, Text())


def _table(table: Table) -> RichTable:
    shown = RichTable(title=table.title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for place, name in enumerate(table.columns):
        on_right = bool(table.rows) and table.rows[0][place].is_number
        justify: Literal["right", "left"] = "right" if on_right else "left"
        # Wide enough for its cells: only headers and notes may be broken.
        widest = max((len(row[place].text) for row in table.rows), default=0)
        shown.add_column(name, justify=justify, header_style="dim", min_width=min(widest, _WIDEST))
    for row in table.rows:
        shown.add_row(*(Text(cell.text, style=_TONES.get(cell.tone, "")) for cell in row))
    return shown
