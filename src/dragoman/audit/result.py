"""A whole audit: what was found, what speaks against training, and all of it as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from dragoman.audit.facts import Figures, MappingAudit
from dragoman.audit.pair_facts import PairAudit
from dragoman.observe import finite


class Severity(StrEnum):
    """How bad a problem is."""

    ERROR = "error"
    """Training would be unsafe."""
    WARNING = "warning"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something found, and what to change."""

    severity: Severity
    what: str
    change: str


@dataclass(frozen=True, kw_only=True)
class Audit:
    """A whole audit."""

    mapping: MappingAudit
    pair: PairAudit | None
    problems: tuple[Problem, ...]
    verdict: str
    seconds: float

    @property
    def safe(self) -> bool:
        """Whether nothing speaks against training."""
        return not any(problem.severity is Severity.ERROR for problem in self.problems)

    def to_json(self) -> dict[str, Any]:
        """Everything, with derived figures, ready for JSON; null for what is not a number."""
        values = asdict(self) | {"safe": self.safe}
        for name in ("total", "own"):
            figures = getattr(self.mapping, name)
            if figures is not None:
                values["mapping"][name] |= _derived(figures)
        for row, figures in zip(values["mapping"]["texts"], self.mapping.texts, strict=True):
            row |= _derived(figures)
        context = self.mapping.context
        values["mapping"]["context"] |= {
            "student_need": context.student_need,
            "teacher_need": context.teacher_need,
        }
        if self.pair is not None:
            values["pair"]["cost"] |= {
                "total_seconds": self.pair.cost.total_seconds,
                "total_memory": self.pair.cost.total_memory,
            }
        found: dict[str, Any] = finite(values)
        return found


def _derived(figures: Figures) -> dict[str, float]:
    return {"coverage": figures.coverage, "inflation": figures.inflation}
