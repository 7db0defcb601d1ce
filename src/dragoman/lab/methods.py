"""Methods of the lab: the shipped ones by name, with settings of their own if wanted, as signals on a world.

dpca    chunk[guard=off]    bpm[mask_whitespace=false;teacher.topk=16]
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dragoman.config import MethodConfig, load_config
from dragoman.errors import UsageError
from dragoman.lab.bench import Bench
from dragoman.lab.sampled import PathCredits
from dragoman.lab.scores import ScoreBook
from dragoman.lab.signals import CreditSignal, Signal, imitation
from dragoman.methods import Method, Writer, get_method, methods
from dragoman.methods.method import Signal as MethodSignal
from dragoman.methods.sampled import POLICY_GRADIENT
from dragoman.supervise import CREDITS
from dragoman.types import TeacherLevel

_UNREAD = ("method.name", "method.normalise", "method.normalised")
"""Keys of `method` that change nothing in a world: its loss is divided by tokens, its bytes are all kept."""
_SPEC = re.compile(r"(?P<name>[^\[\]]+)(\[(?P<settings>[^\[\]]*)\])?")


@dataclass(frozen=True, kw_only=True, eq=False)
class LabMethod:
    """A method with the settings it has in the lab. `label` is what it was asked for by."""

    label: str
    method: Method
    config: MethodConfig
    topk: int | str
    """`teacher.topk`."""

    @property
    def by_teacher(self) -> bool:
        """Whether the teacher writes what is learnt from."""
        return self.method.writer is Writer.TEACHER

    @property
    def rule(self) -> str | None:
        """The credit rule behind it, in `CREDITS`; None if it has none."""
        return self.method.credit


def parse_methods(text: str) -> list[LabMethod]:
    """Methods by a comma-separated list. Raises UsageError or ConfigError for what cannot be meant."""
    specs = [spec.strip() for spec in re.split(r",(?![^\[]*\])", text)]
    if twice := sorted({spec for spec in specs if specs.count(spec) > 1}):
        raise UsageError(f"got {', '.join(twice)} twice; name every method once")
    return [parse_method(spec) for spec in specs]


def parse_method(spec: str) -> LabMethod:
    """One method, `name` or `name[key=value;...]`; keys are those of `method`, or whole as in
    `teacher.topk`."""
    found = _SPEC.fullmatch(spec)
    if found is None:
        raise UsageError(f"got the method {spec!r}, expected a name, or name[key=value;...]")
    settings = [part.strip() for part in (found["settings"] or "").split(";") if part.strip()]
    return _configured(spec, get_method(found["name"].strip()), settings)


def _configured(label: str, method: Method, settings: Sequence[str] = ()) -> LabMethod:
    """A method with some `key=value`. Raises UsageError for one that the lab cannot run."""
    overrides = [part if "." in part.partition("=")[0] else f"method.{part}" for part in settings]
    for key in (override.partition("=")[0].strip() for override in overrides):
        if key in _UNREAD or not (key.startswith("method.") or key == "teacher.topk"):
            raise UsageError(
                f"got {key!r} for method {method.name!r}, which the lab would ignore; expected a key of "
                "`method` that says how it learns, or teacher.topk"
            )
    plain = {
        "method": {"name": method.name},
        "data": {"train": "lab"},
        "train": {"steps": 1},
        "student": {"model": "lab"},
        "teacher": {"model": "lab"},
    }
    config = load_config(plain, overrides, lambda name: method.defaults)
    method.check_settings(config.method)
    method.check_teacher(config.teacher)
    if method.level is TeacherLevel.REFERENCE:
        raise UsageError(
            f"method {method.name!r} compares with a reference model of the teacher's family, which worlds "
            "do not have; leave it out of the lab"
        )
    if not _has_known_credit(method):
        raise UsageError(
            f"method {method.name!r} learns from {method.signal.value}, but its Method.credit is "
            f"{method.credit!r}, expected one of {', '.join(CREDITS)}: the lab makes credits of many paths "
            "at once, and must know by which rule; set it, or leave the method out of the lab"
        )
    return LabMethod(label=label, method=method, config=config.method, topk=config.teacher.topk)


def default_methods(bench: Bench) -> list[LabMethod]:
    """All methods that can be had in a world."""
    found = [
        _configured(name, method)
        for name, method in methods().items()
        if method.level is not TeacherLevel.REFERENCE and _has_known_credit(method)
    ]
    return [one for one in found if not one.method.equal_tokenizers or bench.tables.same_ids]


def _has_known_credit(method: Method) -> bool:
    """Whether the credits of a method, if it learns from any, are those of a rule that worlds can apply."""
    has_credit = method.signal in (MethodSignal.CREDIT, MethodSignal.MIXED)
    return not has_credit or method.credit in CREDITS


def signal_of(bench: Bench, method: LabMethod) -> Signal:
    """A method on a world. Raises CapabilityError where it needs equal tokenizers and they are not."""
    method.method.check_tokenizers(bench.world.student, bench.world.teacher)
    if method.by_teacher:
        return imitation(bench)
    scores = ScoreBook(bench, method.topk)
    rule, config = method.rule, method.config
    credits = None if rule is None else PathCredits(bench, rule, config, scores)
    plain = method.method.objective == POLICY_GRADIENT and config.reference_kl == 0
    if credits is not None and plain:
        return CreditSignal(bench, credits.credit)
    from dragoman.lab.dense import ObjectiveSignal

    return ObjectiveSignal(bench, method.method, config, scores, credits)
