"""Tables of text for the terminal."""

from __future__ import annotations

from rich.table import Table as RichTable
from rich.text import Text

from dragoman.report.cells import BAD, GOOD, Table

TONES = {GOOD: "green", BAD: "red"}


def rich_table(table: Table, *, unbroken: int = 0) -> RichTable:
    """A table as wide as it needs to be, or as there is room.

    In a narrow terminal text goes on in the next line, but cells of up to `unbroken` characters stay whole.
    """
    shown = RichTable(title=table.title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for place, name in enumerate(table.columns):
        cells = [row[place] for row in table.rows]
        on_right = bool(cells) and all(cell.is_number for cell in cells)
        shown.add_column(
            Text(name),  # a label has brackets, which are no markup
            justify="right" if on_right else "left",
            header_style="dim",
            overflow="fold",
            min_width=min(max((len(cell.text) for cell in cells), default=0), unbroken) or None,
        )
    for row in table.rows:
        shown.add_row(*(Text(cell.text, style=TONES.get(cell.tone, "")) for cell in row))
    return shown
