"""What every teacher offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from dragoman.types import Rollout, TeacherCaps, TeacherScores, TeacherView


@runtime_checkable
class Teacher(Protocol):
    """A scorer of responses in its own tokens and its own conversation."""

    name: str
    caps: TeacherCaps

    def view(self, rollout: Rollout) -> TeacherView:
        """The same response bytes inside the teacher's own conversation."""
        ...

    def score(self, views: Sequence[TeacherView]) -> list[TeacherScores]:
        """Log-probs of every view's completion, in order."""
        ...


@runtime_checkable
class Resting(Protocol):
    """A teacher that is told when it has been asked for the last time in a step."""

    def rest(self) -> None:
        """Let go of what is not needed until it is asked again."""
        ...
