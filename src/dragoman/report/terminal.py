"""An alignment for the terminal, and the same as JSON.

Two token rows stand over one byte ruler. Borders are drawn with `|`, so that the picture survives without
colour; colours alternate from chunk to chunk and tell the kinds of chunk apart.
"""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from dragoman.report.layout import Unit, chunk_slices, lay_out
from dragoman.types import Alignment, ChunkKind, TokenText

# Both colours are set, so that the rows are legible on dark and on light terminals alike.
_STYLES = {
    ChunkKind.ONE_TO_ONE: ("black on grey85", "black on grey74"),
    ChunkKind.ONE_TO_MANY: ("black on sky_blue2", "black on steel_blue1"),
    ChunkKind.MANY_TO_ONE: ("black on dark_sea_green2", "black on dark_sea_green3"),
    ChunkKind.MANY_TO_MANY: ("black on plum2", "black on plum3"),
    ChunkKind.EVENT: ("black on light_goldenrod2", "black on light_goldenrod3"),
    ChunkKind.NORMALISED: ("black on light_salmon1", "black on light_salmon3"),
}
_WARNING_STYLES = ("bold white on red3", "bold white on dark_red")
_NAME_CELLS = 14
_MIN_ROW_CELLS = 16


def alignment_text(
    student: TokenText,
    teacher: TokenText,
    alignment: Alignment,
    *,
    width: int,
    student_name: str,
    teacher_name: str,
) -> Text:
    """Both token rows over a byte ruler, wrapped to `width` cells, and a summary below.

    Spaces, line ends and partial characters are visible (`·`, `⏎`, `\\xc3`); events are named; tokens that
    are not canonical are underlined; impure and one-sided chunks stand out. Offsets are the student's.
    A column that alone is wider than `width` is not cut.
    """
    names = (_clip(student_name), _clip(teacher_name))
    label = max(cell_len(name) for name in (*names, "bytes")) + 1
    rows = max(width - label - 1, _MIN_ROW_CELLS)
    texts = (student, teacher)
    blocks = []
    lines = _wrap(lay_out(student, teacher, alignment), rows)
    for line, following in zip(lines, [*lines[1:], []], strict=True):
        closing = following[0].borders if following else (True, True)
        block = Text(_pad("bytes", label) + _ruler(line), style="dim", end="")
        for side, (name, text) in enumerate(zip(names, texts, strict=True)):
            block.append("\n")
            block.append(_pad(name, label), style="bold not dim")
            block.append_text(_row(line, side, text, alignment))
            if any(closing):
                block.append("|" if closing[side] else " ", style="not dim")
        blocks.append(block)
    summary = _summary(student, teacher, alignment, student_name, teacher_name)
    blocks.append(Text("\n".join(_pack(summary, width))))
    return Text("\n\n", no_wrap=True, overflow="ignore").join(blocks)


def alignment_json(student: TokenText, teacher: TokenText, alignment: Alignment) -> dict[str, Any]:
    """The alignment as plain ints, floats and strings; chunks are `[s0, s1, t0, t1, kind]` (half-open)."""
    return {
        "student": {"ids": student.ids.tolist(), "bounds": student.bounds.tolist()},
        "teacher": {"ids": teacher.ids.tolist(), "bounds": teacher.bounds.tolist()},
        "chunks": [
            [above.start, above.stop, below.start, below.stop, ChunkKind(int(kind)).label]
            for (above, below), kind in zip(chunk_slices(alignment), alignment.kind, strict=True)
        ],
        "coverage": alignment.coverage,
    }


def _wrap(units: list[Unit], width: int) -> list[list[Unit]]:
    """Lines of at most `width` cells; a chunk is broken only if it does not fit on a line of its own."""
    lines: list[list[Unit]] = [[]]
    used = 0
    for i, unit in enumerate(units):
        chunk_cells = unit.cells
        if i == 0 or units[i - 1].chunk != unit.chunk:
            chunk_cells = sum(other.cells for other in _same_chunk(units, i))
        needed = chunk_cells if chunk_cells <= width else unit.cells
        if lines[-1] and used + needed > width:
            lines.append([])
            used = 0
        lines[-1].append(unit)
        used += unit.cells
    return lines


def _same_chunk(units: list[Unit], start: int) -> list[Unit]:
    """The units from `start` on that belong to its chunk."""
    end = start
    while end < len(units) and units[end].chunk == units[start].chunk:
        end += 1
    return units[start:end]


def _ruler(line: list[Unit]) -> str:
    """Byte offsets at token borders, left out where they would touch their neighbour."""
    ruler = ""
    column = 0
    for i, unit in enumerate(line):
        if i == 0 or (any(unit.borders) and column > len(ruler)):
            ruler = ruler.ljust(column) + str(unit.offset)
        column += unit.cells
    return ruler


def _row(line: list[Unit], side: int, text: TokenText, alignment: Alignment) -> Text:
    """One token row of one line, but for its last border."""
    parts: list[tuple[str, str]] = []
    for unit in line:
        runs = unit.rows[side]
        if unit.borders[side]:
            parts.append(("|", ""))
        elif any(unit.borders):
            parts.append((" ", _style(unit.chunk, runs[0].token, text, alignment)))
        parts += [(run.text, _style(unit.chunk, run.token, text, alignment)) for run in runs]
    row = Text(style="not dim", end="")
    for style, run_parts in groupby(parts, key=lambda part: part[1]):
        row.append("".join(drawn for drawn, _ in run_parts), style=style)
    return row


def _style(chunk: int, token: int | None, text: TokenText, alignment: Alignment) -> str:
    """Colour of the chunk, and an underline under tokens that are not canonical."""
    if token is None:
        return ""
    style = _STYLES.get(ChunkKind(int(alignment.kind[chunk])), _WARNING_STYLES)[chunk % 2]
    return style if text.canonical[token] else f"{style} underline"


def _summary(
    student: TokenText, teacher: TokenText, alignment: Alignment, student_name: str, teacher_name: str
) -> list[str]:
    """The counts, one string a fact."""
    kinds = Counter(ChunkKind(int(kind)).label for kind in alignment.kind)
    chunks = ", ".join(f"{kind.label} × {kinds[kind.label]}" for kind in ChunkKind if kinds[kind.label])
    return [
        f"{student_name}: {len(student)} tokens",
        f"{teacher_name}: {len(teacher)} tokens",
        f"{len(student.data)} bytes",
        f"{alignment.num_chunks} chunks: {chunks}" if chunks else "0 chunks",
        f"coverage {alignment.coverage:.1%}",
        f"non-canonical {student.num_noncanonical} and {teacher.num_noncanonical}",
    ]


def _pack(facts: list[str], width: int) -> list[str]:
    """Facts joined by a dot, as many on a line as fit."""
    lines = [facts[0]]
    for fact in facts[1:]:
        joined = f"{lines[-1]} · {fact}"
        if cell_len(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(fact)
    return lines


def _clip(name: str) -> str:
    """A name short enough to stand before a row."""
    return name if cell_len(name) <= _NAME_CELLS else set_cell_size(name, _NAME_CELLS - 1).rstrip() + "…"


def _pad(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))
