"""What `train` asks before it loads any weights."""

from __future__ import annotations

from dragoman.audit.facts import MappingAudit
from dragoman.audit.result import Problem, Severity
from dragoman.audit.verdict import mapping_problems
from dragoman.errors import TrainingError
from dragoman.methods import Method


def is_gated(method: Method) -> bool:
    """Whether a run with a method depends on what the mapping makes of a pair. Answers that are imitated are
    compared with nothing, so neither coverage nor the teacher's context is in their way."""
    return method.level is not None


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
