"""An audit for the terminal; its last line is the verdict."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from dragoman.audit.result import Audit
from dragoman.report.audit_tables import audit_tables, differing
from dragoman.report.rich_tables import rich_table

_SEVERITIES = {"error": "bold red", "warning": "yellow"}


def audit_terminal(audit: Audit) -> RenderableType:
    """All tables, the conversation as both sides write it, the problems, and the verdict."""
    parts: list[RenderableType] = [
        Text.assemble(
            (audit.mapping.student.model, "bold"), " learning from ", (audit.mapping.teacher.model, "bold")
        )
    ]
    for table in audit_tables(audit):
        parts += [Text(), rich_table(table)]
        if table.note:
            parts.append(Text(table.note, style="dim"))
        if table.title == "Templates by probe":
            parts.append(_side_by_side(audit))
    parts += [Text(), *_problems(audit)]
    parts.append(Text(audit.verdict, style="bold green" if audit.safe else "bold red"))
    return Group(*parts)


def _side_by_side(audit: Audit) -> RichTable:
    shown = RichTable(box=None, pad_edge=False, show_header=True)
    for name in ("", "student is shown", "teacher is shown"):
        shown.add_column(name, header_style="dim", overflow="fold", ratio=1 if name else None)
    for row in differing(audit, between_sides=True):
        shown.add_row(Text(row.name, style="dim"), Text(row.student.rstrip()), Text(row.teacher.rstrip()))
        shown.add_row()
    return shown


def _problems(audit: Audit) -> list[Text]:
    return [
        Text.assemble(
            (f"{problem.severity}: ", _SEVERITIES[problem.severity]),
            f"{problem.what}\n    change: {problem.change}",
        )
        for problem in audit.problems
    ]
