"""The numbers of a recorded rollout, chunk by chunk, for the terminal and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dragoman.observe import Record
from dragoman.report.formats import NOT_RECORDED, measured
from dragoman.report.layout import chunk_slices, token_label
from dragoman.types import ChunkKind, DropReason, TokenText

if TYPE_CHECKING:
    from rich.table import Table


def chunk_numbers(record: Record) -> list[dict[str, Any]]:
    """One entry a chunk: kind, reason, tokens, and in nats the sums p and t and the advantage of each student
    token. None where nothing was recorded; an empty list for a record without an alignment.
    """
    rollout, view, alignment = record.rollout, record.view, record.alignment
    if view is None or alignment is None:
        return []
    credit = None if record.supervision is None else record.supervision.credit
    kept = None if record.supervision is None else record.supervision.weight > 0
    scores = None if record.scores is None else record.scores.logp
    found = []
    for chunk, (above, below) in enumerate(chunk_slices(alignment)):
        advantages = None
        if credit is not None and kept is not None:
            advantages = [float(credit[i]) if kept[i] else None for i in above]
        found.append(
            {
                "kind": ChunkKind(int(alignment.kind[chunk])).label,
                "reason": _reason(record, chunk, above),
                "student": _labels(rollout.completion, above),
                "teacher": _labels(view.completion, below),
                "p": _total(rollout.behaviour_logp, above),
                "t": _total(scores, below),
                "advantage": advantages,
            }
        )
    return found


def numbers_table(record: Record) -> Table:
    """The same as a table; where all advantages of a chunk are alike, they are one figure."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("kind", "student", "teacher"):
        table.add_column(name, overflow="fold")
    for name in ("p", "t", "advantage"):
        table.add_column(name, justify="right")
    table.add_column("no signal because of")
    for row in chunk_numbers(record):
        advantages = row["advantage"]
        cells = [NOT_RECORDED] if advantages is None else [measured(value) for value in advantages]
        alike = len(set(cells)) == 1
        table.add_row(
            row["kind"],
            "|".join(row["student"]),
            "|".join(row["teacher"]),
            measured(row["p"]),
            measured(row["t"]),
            cells[0] if alike else " ".join(cells),
            row["reason"] or "",
        )
    return table


def _reason(record: Record, chunk: int, above: range) -> str | None:
    assert record.alignment is not None
    code = int(record.alignment.reasons[chunk])
    if record.supervision is not None and len(above):
        code = int(record.supervision.reason[above.start])
    return DropReason(code).label if code else None


def _labels(text: TokenText, tokens: range) -> list[str]:
    return [token_label(text, token) for token in tokens]


def _total(values: np.ndarray | None, tokens: range) -> float | None:
    """The sum over some tokens; None where there is none."""
    if values is None or not len(tokens):
        return None
    return float(values[tokens.start : tokens.stop].sum(dtype=np.float64))
