"""What the lab found as one self-contained HTML page, in the manner of the run's report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dragoman.lab.result import WorldResult
from dragoman.lab.worlds import KINDS
from dragoman.observe.files import write_text
from dragoman.report.formats import duration
from dragoman.report.lab_charts import cosine_chart, learning_charts
from dragoman.report.lab_overview import overview
from dragoman.report.lab_tables import (
    facts_table,
    gradient_table,
    headline_table,
    method_anchor,
    method_table,
    row_table,
    settings_facts,
    world_facts,
)
from dragoman.report.page import template_environment


def write_lab(results: Sequence[WorldResult], path: Path) -> None:
    """Write the page; needs no network, no font and no script."""
    write_text(path, lab_page(results))


def lab_page(results: Sequence[WorldResult]) -> str:
    """The page as text: of several worlds, first one table of all."""
    several = len(results) > 1
    first = [("Worlds", f"{len(results)}")] if several else world_facts(results[0])
    seconds = sum(method.seconds for result in results for method in result.methods)
    methods = method_table(results)
    page: str = (
        template_environment()
        .get_template("lab.html.jinja")
        .render(
            worlds=[_world(result) for result in results],
            identity=[*first, *settings_facts(results[0].settings), ("Time", duration(seconds))],
            quick=results[0].settings.quick,
            overview=overview([result.to_json() for result in results]) if several else None,
            methods=methods,
            anchors=[method_anchor(row[0].text) for row in methods.rows],
        )
    )
    return page


def _world(result: WorldResult) -> dict[str, Any]:
    """Everything the template shows of one world."""
    has_rows = any(method.rows is not None for method in result.methods)
    return {
        "name": result.world.name,
        "summary": KINDS[result.world.kind].summary,
        "identity": world_facts(result),
        "headline": headline_table(result),
        "learning": learning_charts(result),
        "gradients": gradient_table(result),
        "cosines": cosine_chart(result),
        "more": [*([row_table(result)] if has_rows else []), facts_table(result)],
    }
