"""What `train` asks before it loads any weights."""

from __future__ import annotations

from dragoman.audit.facts import MappingAudit
from dragoman.audit.result import Problem, Severity
from dragoman.audit.verdict import mapping_problems
from dragoman.errors import TrainingError


def require_safe(mapping: MappingAudit, min_coverage: float) -> tuple[Problem, ...]:
    """The warnings about a pair; raises TrainingError where training it would be unsafe.

    `min_coverage` is `train.min_coverage`; 0 refuses nothing for its coverage.
    """
    problems = mapping_problems(mapping, min_coverage)
    errors = [problem for problem in problems if problem.severity is Severity.ERROR]
    if errors:
        lines = [f"{problem.what}. To change it, {problem.change}" for problem in errors]
        raise TrainingError(
            "\n  ".join(
                ["this pair is not safe to train (`dragoman audit --config ...` shows all of it):", *lines]
            )
        )
    return problems
