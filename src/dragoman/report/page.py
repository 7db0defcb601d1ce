"""One self-contained HTML page a run: headline, curves, cost, aligned rollouts, drops, configuration.

The page needs no network, no font and no script to be read; a few lines of script add the rollout selector
and the details of the token in focus. Everything a model wrote is escaped.
"""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dragoman.observe.files import write_text
from dragoman.report import facts
from dragoman.report.curves import draw_curves
from dragoman.report.formats import number
from dragoman.report.passages import MAX_TOKENS, credit_scale, passage
from dragoman.report.source import RunSource, read_run

if TYPE_CHECKING:
    from jinja2 import Environment

ROLLOUTS_A_STEP = 3


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run folder and return its path.

    A run that stopped early gets a page that says what is missing. The same files give the same page.
    Raises DataError if the folder is not that of a run, or if a file in it cannot be read.
    """
    source = read_run(run_dir, rollouts_a_step=ROLLOUTS_A_STEP)
    page = template_environment().get_template("report.html.jinja").render(_context(source))
    path = run_dir / "report.html"
    write_text(path, page)
    return path


def _context(source: RunSource) -> dict[str, Any]:
    """Everything the template shows."""
    student, teacher = facts.names(source)
    scale = credit_scale(source.rollouts)
    passages = [passage(record, scale) for record in source.rollouts]
    return {
        "name": source.name,
        "student": student,
        "teacher": teacher,
        "finished": bool(source.summary),
        "missing": source.missing,
        "last_step": source.last_step,
        "headline": facts.headline(source),
        "identity": facts.identity(source),
        "measures": facts.measures(source),
        "charts": draw_curves(source.train, source.held_out),
        "stages": facts.stages(source),
        "compute": facts.compute(source),
        "tokens": source.summary.get("tokens") or {},
        "dropped": facts.dropped(source),
        "scale": scale,
        "max_tokens": MAX_TOKENS,
        "steps": [(step, list(group)) for step, group in groupby(passages, key=lambda one: one.step)],
        "config": json.dumps(source.config, indent=2, ensure_ascii=False) if source.config else "",
        "env": facts.environment(source.env),
    }


def template_environment() -> Environment:
    """Templates of this package, with everything escaped and nothing undefined."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("dragoman.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment
