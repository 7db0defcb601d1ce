"""One table of several worlds: a row a world, a column a method.

It is made from what `dragoman lab --json` writes, so that files of earlier runs have it too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dragoman.report.cells import GOOD, PLAIN, Cell, Table
from dragoman.report.formats import NOT_RECORDED, percent

Tree = Mapping[str, Any]
"""A world as in the JSON file."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What a cell says of a method. `digits` are those behind the point; less is better.

    `start` names the fact of a world that is the figure's value before training.
    """

    name: str
    title: str
    note: str
    digits: int
    start: str | None = None
    share: str | None = None
    """A share to put in brackets behind the figure."""


FIGURES = {
    figure.name: figure
    for figure in (
        Figure(
            name="text_kl",
            title="Text KL at the end, nats a text",
            note="In brackets: share of non-canonical text.",
            digits=4,
            start="text_kl",
            share="noncanonical",
        ),
        Figure(
            name="total_variation",
            title="Total variation of rows to q*, before training",
            note="In brackets: share of places that have a row.",
            digits=3,
            share="row_rate",
        ),
        Figure(
            name="common_total_variation",
            title="Total variation of rows to q*, before training, where all methods have one",
            note="In brackets: share of such places.",
            digits=3,
            share="common_rate",
        ),
    )
}


def overview(
    trees: Sequence[Tree],
    *,
    figure: str = "text_kl",
    labels: Sequence[str] | None = None,
    intervals: bool = False,
) -> Table:
    """The table of a figure; the least of each world is marked as good.

    Methods stand in the order of `labels`, or as they come; those without the figure in any world are left
    out. With `intervals` cells have the 95 % interval where there is one.
    """
    shown = FIGURES[figure]
    known = labels if labels is not None else labels_of(trees)
    columns = [label for label in known if any(_value(tree, label, shown.name) is not None for tree in trees)]
    start = () if shown.start is None else ("start",)
    return Table(
        title=shown.title,
        columns=("world", *start, *columns),
        rows=tuple(
            _row(name, tree, columns, shown, intervals=intervals)
            for name, tree in zip(world_names(trees), trees, strict=True)
        ),
        note=shown.note,
    )


def labels_of(trees: Sequence[Tree]) -> list[str]:
    """The methods of all worlds, in the order in which they come."""
    return list(dict.fromkeys(label for tree in trees for label in tree["methods"]))


def world_names(trees: Sequence[Tree]) -> list[str]:
    """Names for a table: family and merges where these tell the worlds apart and all are of one seed."""
    worlds = [tree["world"] for tree in trees]
    short = [f"{world['kind']} {world['teacher_merges']}/{world['student_merges']}" for world in worlds]
    is_clear = len(set(short)) == len(short) and len({world["seed"] for world in worlds}) <= 1
    return short if is_clear else [world["name"] for world in worlds]


def _row(
    name: str, tree: Tree, labels: Sequence[str], figure: Figure, *, intervals: bool
) -> tuple[Cell, ...]:
    values = [_value(tree, label, figure.name) for label in labels]
    least = min((value for value in values if value is not None), default=None)
    cells = [
        Cell(
            text=NOT_RECORDED
            if value is None
            else _text(value, tree["methods"][label], figure, intervals=intervals),
            is_number=True,
            tone=GOOD if value is not None and value == least else PLAIN,
        )
        for label, value in zip(labels, values, strict=True)
    ]
    if figure.start is not None:
        cells.insert(0, Cell(text=f"{tree['facts'][figure.start]:.3f}", is_number=True))
    return (Cell(text=name), *cells)


def _text(value: float, method: Mapping[str, Any], figure: Figure, *, intervals: bool) -> str:
    text = fixed(value, figure.digits)
    bounds = method.get(f"{figure.name}_ci") if intervals else None
    if bounds is not None:
        text += f" [{fixed(bounds[0], figure.digits)}, {fixed(bounds[1], figure.digits)}]"
    return text if figure.share is None else f"{text} ({percent(method[figure.share])})"


def fixed(value: float, digits: int) -> str:
    """A figure with as many digits behind the point; one that would be written as 0 is below the last.

    >>> fixed(0.01234, 4), fixed(0.00001, 4), fixed(0.0, 4)
    ('0.0123', '<0.0001', '0.0000')
    """
    smallest = 10.0**-digits
    return f"<{smallest:.{digits}f}" if 0 < value < smallest / 2 else f"{value:.{digits}f}"


def _value(tree: Tree, label: str, figure: str) -> float | None:
    """A figure of a method; None where the method was not measured, or has no such figure."""
    method = tree["methods"].get(label)
    return None if method is None else method[figure]
