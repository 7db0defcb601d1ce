"""What each method would need of the teacher, whether it is offered, and what the method would train on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from dragoman.audit.pair_facts import MethodRow
from dragoman.config import Config, MethodConfig
from dragoman.errors import CapabilityError
from dragoman.methods import Method, Writer, methods, remedy
from dragoman.observe import Record
from dragoman.pipeline import supervisor
from dragoman.teach import in_process_caps
from dragoman.text import Tokenization
from dragoman.text.pair import PairTables
from dragoman.types import TeacherCaps, TeacherLevel

SECTION = "method."


def method_rows(config: Config, records: Sequence[Record], tables: PairTables) -> tuple[MethodRow, ...]:
    """One row a method, for a teacher in this process: of that, a run with the method may ask for more or
    less than the audit did (`teacher.topk`)."""
    return tuple(_row(config, method, records, tables) for method in methods().values())


def _row(config: Config, method: Method, records: Sequence[Record], tables: PairTables) -> MethodRow:
    offered, change = True, ""
    try:
        method.check(_caps_in_a_run(config, method, tables.teacher), config.teacher.model)
        method.check_tokenizers(tables.student, tables.teacher)
    except CapabilityError:
        offered = False
        unequal = method.equal_tokenizers and not tables.same_ids
        change = "equal tokenizers" if unequal or method.level is None else remedy(method.level)
    supervised, dropped = _supervised(config, method, records, tables) if offered else (None, {})
    return MethodRow(
        name=method.name,
        needs=method.needs,
        offered=offered,
        remedy=change,
        supervised=supervised,
        dropped=dropped,
        configured=method.name == config.method.name,
    )


def _caps_in_a_run(config: Config, method: Method, teacher: Tokenization) -> TeacherCaps:
    """What the teacher offers under the configuration, which the method's defaults complete."""
    asked = config.teacher.topk
    if method.name != config.method.name:
        asked = method.defaults.get("teacher.topk", asked)
    return in_process_caps(config.teacher.model_copy(update={"topk": asked}), teacher)


def _supervised(
    config: Config, method: Method, records: Sequence[Record], tables: PairTables
) -> tuple[float | None, dict[str, int]]:
    """Share of sampled tokens with a signal under the method's own settings, and the rest by reason; None
    where it takes more than the most likely tokens that the audit has asked for."""
    if method.level is None or method.level > TeacherLevel.TOPK:
        return None, {}
    supervise = supervisor(method, _settings(config, method), tables)
    if supervise is None or method.writer is not Writer.STUDENT:
        return None, {}
    kept, tokens, dropped = 0, 0, Counter[str]()
    for record in records:
        if record.view is None or record.scores is None or record.alignment is None:
            refusal = record.supervision
            tokens += len(record.rollout.completion)
            dropped.update(refusal.dropped if refusal is not None else {})
            continue
        known = replace(record.scores, tokens=record.view.completion)
        found = supervise(record.rollout, known, record.alignment)
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
