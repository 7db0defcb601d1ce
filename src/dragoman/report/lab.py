"""What the lab found as one self-contained HTML page, in the manner of the run's report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dragoman.lab.result import WorldResult
from dragoman.lab.worlds import KINDS
from dragoman.observe.files import write_text
from dragoman.report.audit_cells import GOOD, PLAIN, Cell, Table
from dragoman.report.formats import NOT_RECORDED, duration, measured
from dragoman.report.lab_charts import lab_charts
from dragoman.report.lab_tables import facts_table, lab_tables
from dragoman.report.page import template_environment


def write_lab(results: Sequence[WorldResult], path: Path) -> None:
    """Write the page; needs no network, no font and no script."""
    write_text(path, lab_page(results))


def lab_page(results: Sequence[WorldResult]) -> str:
    """The page as text."""
    page: str = (
        template_environment()
        .get_template("lab.html.jinja")
        .render(
            worlds=[_world(result) for result in results],
            overview=overview(results) if len(results) > 1 else None,
            settings=results[0].settings if results else None,
            seconds=duration(sum(method.seconds for result in results for method in result.methods)),
        )
    )
    return page


def overview(results: Sequence[WorldResult]) -> Table:
    """Text KL at the end by method and world; the least of each world is marked."""
    labels = list(dict.fromkeys(method.label for result in results for method in result.methods))
    found = [{m.label: m.curve[-1].text_kl for m in result.methods} for result in results]
    least = [min(one.values(), default=float("nan")) for one in found]
    return Table(
        title="Text KL at the end, nats",
        columns=("method", *(result.world.name for result in results)),
        rows=tuple(
            (
                Cell(text=label),
                *(
                    Cell(
                        text=measured(one[label]) if label in one else NOT_RECORDED,
                        is_number=True,
                        tone=GOOD if one.get(label) == best else PLAIN,
                    )
                    for one, best in zip(found, least, strict=True)
                ),
            )
            for label in labels
        ),
    )


def _world(result: WorldResult) -> dict[str, Any]:
    """Everything the template shows of one world."""
    return {
        "name": result.world.name,
        "summary": KINDS[result.world.kind].summary,
        "world": result.world,
        "tables": [*lab_tables(result), facts_table(result)],
        "charts": lab_charts(result),
    }
