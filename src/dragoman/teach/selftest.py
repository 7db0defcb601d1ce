"""Does a teacher return what the supervision takes it to return? Found by asking, before any training.

Served log-probs go wrong in known ways: the most likely token's value instead of the realised one's, an
offset of one, logarithms to another base, a missing value read as 0, values that change with prefix caching
or with what else is in the request. Each check looks for one of them and names it. A check that builds on
one that failed is not tried, so that what failed first is what is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

from dragoman.errors import TeacherError
from dragoman.render import Renderer
from dragoman.teach import questions
from dragoman.teach.teacher import Teacher

TOLERANCE = 0.1
"""Nats by which a value may differ between two askings; a server in bfloat16 needs about that."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question put to a teacher. `passed` is None where it is not offered or was not tried; `worst` is
    the largest difference found, in nats (of the `mass` checks: of probability)."""

    name: str
    passed: bool | None
    detail: str
    worst: float | None = None


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """All checks, in the order in which they build on each other."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return all(check.passed is not False for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """What failed."""
        return tuple(check for check in self.checks if check.passed is False)

    def check(self, name: str) -> Check:
        """One check by name."""
        return next(check for check in self.checks if check.name == name)


_STABLE = ("logarithms", "repeated", "order", "batch")
_CHECKS: tuple[tuple[str, tuple[str, ...], questions.Question], ...] = (
    ("logarithms", (), questions.logarithms),
    ("repeated", ("logarithms",), questions.repeated),
    ("order", ("repeated",), questions.reordered),
    ("batch", ("order",), questions.batched),
    ("realised", _STABLE, questions.realised),
    ("mass", ("realised",), questions.mass),
    ("row", ("mass",), questions.row),
    ("known answer", ("mass",), questions.known),
    ("greedy", ("realised",), questions.greedy),
)
"""Name, the checks it builds on, and the question itself."""


def self_test(
    teacher: Teacher, student: Renderer, *, tolerance: float = TOLERANCE, nonce: str = ""
) -> SelfTest:
    """Put a few short texts to a teacher and check its answers.

    `generate` and `full_row` are used where the teacher has them (`Generates`, `FullRows`). A `nonce`
    keeps a server's cache from having seen the texts before. Takes about thirty sequences of twenty tokens
    and one much longer.
    """
    asked = questions.Asked(teacher=teacher, student=student, tolerance=tolerance, nonce=nonce)
    done: dict[str, Check] = {}
    for name, needs, ask in _CHECKS:
        broken = next((need for need in needs if done[need].passed is not True), None)
        if broken is not None:
            done[name] = Check(name=name, passed=None, detail=f"not tried, as {broken!r} did not pass")
            continue
        try:
            passed, detail, worst = ask(asked)
        except TeacherError as error:
            passed, detail, worst = False, str(error), None
        done[name] = Check(name=name, passed=passed, detail=detail, worst=worst)
    return SelfTest(checks=tuple(done.values()))
