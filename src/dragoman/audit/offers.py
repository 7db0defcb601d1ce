"""What each method would need of the teacher, whether it is offered, and what the method would train on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from dragoman.audit.pair_facts import MethodRow
from dragoman.config import Config, MethodConfig
from dragoman.errors import CapabilityError
from dragoman.methods import Method, Writer, methods
from dragoman.observe import Record
from dragoman.pipeline import supervisor
from dragoman.types import TeacherCaps, TeacherLevel

SECTION = "method."


def method_rows(config: Config, caps: TeacherCaps, records: Sequence[Record]) -> tuple[MethodRow, ...]:
    """One row a method. `caps` are those of a teacher that was asked for its most likely tokens, which the
    run's own may not be (`teacher.topk`)."""
    if not config.teacher.topk and caps.level is TeacherLevel.TOPK:
        caps = replace(caps, level=TeacherLevel.REALISED)
    return tuple(_row(config, method, caps, records) for method in methods().values())


def _row(config: Config, method: Method, caps: TeacherCaps, records: Sequence[Record]) -> MethodRow:
    offered, remedy = True, ""
    try:
        method.check(caps, config.teacher.model)
    except CapabilityError:
        offered = False
        is_topk = method.level is TeacherLevel.TOPK
        remedy = "set teacher.topk, e.g. teacher.topk=16" if is_topk else "another teacher"
    supervised, dropped = _supervised(config, method, records)
    level = method.level
    return MethodRow(
        name=method.name,
        needs="answers of the teacher" if level is None else f"level {int(level)} ({level.name.lower()})",
        offered=offered,
        remedy=remedy,
        supervised=supervised,
        dropped=dropped,
        configured=method.name == config.method.name,
    )


def _supervised(
    config: Config, method: Method, records: Sequence[Record]
) -> tuple[float | None, dict[str, int]]:
    """Share of sampled tokens with a signal under the method's own settings, and the rest by reason."""
    supervise = supervisor(method, _settings(config, method))
    if supervise is None or method.writer is not Writer.STUDENT:
        return None, {}
    kept, tokens, dropped = 0, 0, Counter[str]()
    for record in records:
        if record.scores is None or record.alignment is None:
            continue
        found = supervise(record.rollout, record.scores, record.alignment)
        kept += int((found.weight > 0).sum())
        tokens += len(found.weight)
        dropped.update(found.dropped)
    return (kept / tokens if tokens else 0.0), dict(dropped)


def _settings(config: Config, method: Method) -> MethodConfig:
    """The configuration's settings for its own method, a method's defaults for any other."""
    if method.name == config.method.name:
        return config.method
    own = {
        key.removeprefix(SECTION): value for key, value in method.defaults.items() if key.startswith(SECTION)
    }
    return MethodConfig(name=method.name, **own)
