"""An audit as one self-contained HTML page, in the manner of the run's report."""

from __future__ import annotations

from pathlib import Path

from dragoman.audit.result import Audit
from dragoman.observe.files import write_text
from dragoman.report.audit_tables import audit_tables, differing
from dragoman.report.formats import duration
from dragoman.report.page import template_environment


def write_audit(audit: Audit, path: Path) -> None:
    """Write the page; needs no network, no font and no script."""
    write_text(path, audit_page(audit))


def audit_page(audit: Audit) -> str:
    """The page as text; everything a template or a model wrote is escaped."""
    page: str = (
        template_environment()
        .get_template("audit.html.jinja")
        .render(
            student=audit.mapping.student.model,
            teacher=audit.mapping.teacher.model,
            safe=audit.safe,
            verdict=audit.verdict.removeprefix("verdict: "),
            problems=audit.problems,
            tables=audit_tables(audit),
            renderings=list(differing(audit)),
            seconds=duration(audit.seconds),
            has_weights=audit.pair is not None,
        )
    )
    return page
