"""Methods: a named triple of what it needs, how it supervises and its objective, with vetted defaults.

The whole list is in this file; third parties add theirs by an entry point in the group
`dragoman.methods` that names a `Method`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any

from dragoman.errors import CapabilityError, ConfigError
from dragoman.supervise import CREDITS
from dragoman.supervise.credit import CreditRule
from dragoman.types import TeacherCaps, TeacherLevel


class Writer(StrEnum):
    """Who writes the responses that are trained on."""

    STUDENT = "student"
    TEACHER = "teacher"


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to distil. `objective` is `module:function` of a loss in `dragoman.objective`'s form;
    `defaults` are dotted configuration keys, which the user's own settings override."""

    name: str
    summary: str
    source: str
    level: TeacherLevel | None
    """Level needed of the teacher; None where it does not score at all."""
    writer: Writer
    credit: CreditRule | None
    objective: str
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def check(self, caps: TeacherCaps, teacher: str) -> None:
        """Raise CapabilityError if the teacher offers less than the method needs."""
        if self.level is not None and caps.level < self.level:
            raise CapabilityError(
                f"method {self.name!r} needs a teacher of level {int(self.level)} "
                f"({self.level.name.lower()}), but {teacher!r} offers level {int(caps.level)} "
                f"({caps.level.name.lower()}); choose another method (`dragoman methods` lists what each "
                "needs) or another teacher"
            )
        if self.writer is Writer.TEACHER and not caps.generates:
            raise CapabilityError(
                f"method {self.name!r} trains on answers that the teacher writes, but {teacher!r} only "
                "scores; use a teacher that generates, or a method in which the student writes"
            )


POLICY_GRADIENT = "dragoman.objective.policy_gradient:policy_gradient"
CROSS_ENTROPY = "dragoman.objective.cross_entropy:cross_entropy"

PAPER_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "method.guard": "off",
        "method.max_chunk_tokens": 6,
        "method.clamp": 10.0,
        "method.clip_low": 0.2,
        "method.clip_high": 0.28,
        "method.dual_clip": 10.0,
        "method.log_ratio_clamp": 20.0,
        "method.normalise": "token",
        "train.lr": 1e-6,
        "train.warmup_steps": 10,
        "train.prompts_per_step": 128,
        "train.steps": 500,
        "rollout.samples_per_prompt": 1,
        "rollout.temperature": 1.0,
    }
)
"""The full recipe of arXiv 2606.09456: no KL or entropy bonus, one response a prompt."""

GUARDED: Mapping[str, Any] = MappingProxyType(
    {"method.guard": "penalty", "method.guard_penalty": 3.0, "method.clamp": 10.0}
)
"""The guard and clamp with which credit rules were compared in `docs/methods.md`."""

_BUILT_IN = (
    Method(
        name="chunk",
        summary="every token of a chunk receives the whole log-ratio; odd segmentations are penalised",
        source="score-function gradient of the chunk-level KL; docs/methods.md",
        level=TeacherLevel.REALISED,
        writer=Writer.STUDENT,
        credit=CREDITS["chunk"],
        objective=POLICY_GRADIENT,
        defaults=GUARDED,
    ),
    Method(
        name="dpca",
        summary="dual-pointer chunk alignment: the chunk's log-ratio in proportion to the student's surprise",
        source="arXiv 2606.09456",
        level=TeacherLevel.REALISED,
        writer=Writer.STUDENT,
        credit=CREDITS["semantic_prior"],
        objective=POLICY_GRADIENT,
        defaults=PAPER_DEFAULTS,
    ),
    Method(
        name="uniform",
        summary="the chunk's log-ratio in equal parts; odd segmentations are penalised",
        source="baseline; docs/methods.md",
        level=TeacherLevel.REALISED,
        writer=Writer.STUDENT,
        credit=CREDITS["uniform"],
        objective=POLICY_GRADIENT,
        defaults=GUARDED,
    ),
    Method(
        name="sft",
        summary="cross-entropy on answers the teacher writes, re-tokenised for the student",
        source="baseline: sequence-level distillation, Kim and Rush 2016 (arXiv 1606.07947)",
        level=None,
        writer=Writer.TEACHER,
        credit=None,
        objective=CROSS_ENTROPY,
    ),
)


@cache
def methods() -> Mapping[str, Method]:
    """All methods by name: the built-in ones, then those of installed entry points."""
    found = {method.name: method for method in _BUILT_IN}
    for entry in entry_points(group="dragoman.methods"):
        method = entry.load()
        if not isinstance(method, Method) or method.name in found:
            raise ConfigError(
                f"entry point {entry.name!r} ({entry.value}) must name a dragoman.methods.Method with a new "
                f"name, got {method!r}"
            )
        found[method.name] = method
    return MappingProxyType(found)


def get_method(name: str) -> Method:
    """A method by name; raises ConfigError that suggests the nearest one."""
    known = methods()
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known methods: {', '.join(known)}"
        raise ConfigError(f"method.name is {name!r}, which is no method; {hint}")
    return known[name]


def method_defaults(name: str) -> Mapping[str, Any]:
    """The configuration defaults a method brings, by dotted key."""
    return get_method(name).defaults
