"""What a method is: its needs, its supervision, its objective and its vetted settings, as plain data.

Nothing heavy is imported to list methods: supervision and objective are named as `module:function` and
imported when a run begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from dragoman.config import MethodConfig, TeacherConfig
from dragoman.errors import CapabilityError, ConfigError
from dragoman.supervise.sampled import Build as Build
from dragoman.supervise.sampled import Supervise as Supervise
from dragoman.text import Tokenization
from dragoman.text.pair import PairTables
from dragoman.types import TeacherCaps, TeacherLevel

if TYPE_CHECKING:
    from dragoman.objective import Objective

TOPK = 128
"""Most likely tokens asked of a teacher by methods that need them."""

ROW_SETTINGS = frozenset(
    {"divergence", "beta", "row_topk", "row_floor", "row_coef", "mask_whitespace"}
    | {"entropy_switch", "reliability"}
)
"""What every method reads whose loss is `row_divergence`."""

OWN_SETTINGS = ROW_SETTINGS | frozenset({"student_topk", "negative", "credit_coef", "reference_alpha", "tau"})
"""Keys of `method` that only some methods read (`Method.settings`)."""

CREDIT_SETTINGS = frozenset(
    {"clamp", "guard_penalty", "clip_low", "clip_high", "dual_clip", "log_ratio_clamp"}
)
"""What every method reads that has credits."""

SCORED_SETTINGS = frozenset(
    {"guard", "normalised", "max_chunk_tokens", "reference_kl", "max_policy_shift", "log_ratio_clamp"}
)
"""What every method reads in which the student writes and the teacher scores."""


@runtime_checkable
class Sorts(Protocol):
    """A supervision that compares probabilities by rank."""

    @property
    def sorted_ids(self) -> Int64[np.ndarray, " n"] | None:
        """The student's ids whose probabilities are sorted; None for all."""
        ...


class Writer(StrEnum):
    """Who writes the responses that are trained on."""

    STUDENT = "student"
    TEACHER = "teacher"


class Signal(StrEnum):
    """What the loss learns from."""

    CREDIT = "credit"
    """An advantage for each sampled token."""
    ROWS = "rows"
    """Rows of teacher mass on student tokens."""
    MIXED = "credit and rows"
    UNITS = "units"
    """Stretches of text taken as wholes."""
    SORTED = "sorted"
    """Sorted probabilities, without regard to which token they belong to."""
    ANSWERS = "answers"
    """Answers to be imitated."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to distil.

    `supervise` names a `Build` (from tables of the pair and settings to what supervises a response),
    `objective` a function of `dragoman.objective`'s form, both as `module:function`. `defaults` are dotted
    configuration keys, which the user's own settings override.
    """

    name: str
    summary: str
    """What it does, in a line."""
    formula: str
    """The signal of a token, in the notation of `docs/methods.md`, in a line."""
    source: str
    level: TeacherLevel | None
    """Level needed of the teacher; None where it does not score at all."""
    writer: Writer = Writer.STUDENT
    signal: Signal
    supervise: str | None
    objective: str
    credit: str | None = None
    """The rule in `supervise.CREDITS` that its credits are made by; None for methods without credit, or with
    a rule of their own."""
    caveat: str = ""
    """What to know before choosing it, in a line."""
    equal_tokenizers: bool = False
    """Whether student and teacher must have the same token ids."""
    student_reference: bool = False
    """Whether it needs the log-probs of the student before training."""
    settings: frozenset[str] | None = frozenset()
    """Which of `OWN_SETTINGS` it reads; None says that this is not known, and nothing is checked."""
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needs(self) -> str:
        """What it needs, in words."""
        if self.level is None:
            return "answers of the teacher"
        words = f"level {int(self.level)} ({self.level.name.lower()})"
        return f"{words}, equal tokenizers" if self.equal_tokenizers else words

    def build(self, tables: PairTables, config: MethodConfig) -> Supervise | None:
        """The supervision of a run; None where answers are imitated and nothing is scored.

        Raises ConfigError where what `supervise` names is not there.
        """
        if self.supervise is None:
            return None
        builder: Build = load_named(self.supervise, self.name)
        return builder(tables, config)

    def load_objective(self) -> Objective:
        """The loss. Raises ConfigError where what `objective` names is not there."""
        found: Objective = load_named(self.objective, self.name)
        return found

    def check(self, caps: TeacherCaps, teacher: str) -> None:
        """Raise CapabilityError if the teacher offers less than the method needs."""
        if self.level is not None and not offers(caps, self.level):
            raise CapabilityError(
                f"method {self.name!r} needs a teacher of level {int(self.level)} "
                f"({self.level.name.lower()}), but {teacher!r} offers level {int(caps.level)} "
                f"({caps.level.name.lower()}); {remedy(self.level)}, or choose another method (`dragoman "
                "methods` lists what each needs)"
            )
        if self.writer is Writer.TEACHER and not caps.generates:
            raise CapabilityError(
                f"method {self.name!r} trains on answers that the teacher writes, but {teacher!r} only "
                "scores; use a teacher that generates, or a method in which the student writes"
            )

    def check_tokenizers(self, student: Tokenization, teacher: Tokenization) -> None:
        """Raise CapabilityError if the method needs equal token ids and the two differ."""
        if self.equal_tokenizers and not student.same_ids_as(teacher):
            raise CapabilityError(
                f"method {self.name!r} compares distributions id by id, so student and teacher must have the "
                f"same token ids and stop set, but those of {student.name!r} and {teacher.name!r} differ; "
                "choose a method that maps tokens by their bytes, such as 'retok' or 'bpm'"
            )

    @property
    def reads(self) -> frozenset[str] | None:
        """The keys of `method` that it reads, beside `name` and `normalise`; None where that is not known."""
        if self.settings is None:
            return None
        has_credit = self.signal in (Signal.CREDIT, Signal.MIXED)
        by_signal = CREDIT_SETTINGS if has_credit else frozenset[str]()
        by_writer = SCORED_SETTINGS if self.writer is Writer.STUDENT else frozenset[str]()
        return self.settings | by_signal | by_writer

    def check_settings(self, config: MethodConfig) -> None:
        """Raise ConfigError for a setting that the method would ignore although it was asked for: one that
        is neither the schema's default nor the method's own."""
        for key, why in sorted(self._ignored(config).items()):
            value = getattr(config, key)
            schema = MethodConfig.model_fields[key].get_default()
            if value not in (schema, self.defaults.get(f"method.{key}", schema)):
                raise ConfigError(
                    f"method.{key} is {value!r}, which method {self.name!r} would ignore{why}; leave "
                    f"method.{key} out, or choose a method that reads it (`dragoman methods NAME` shows what "
                    "one reads)"
                )

    def check_teacher(self, config: TeacherConfig) -> None:
        """Raise ConfigError for likely tokens that are asked of the teacher and read by nobody."""
        if config.topk and self.level not in (TeacherLevel.TOPK, TeacherLevel.LOGITS):
            raise ConfigError(
                f"teacher.topk is {config.topk!r}, but method {self.name!r} needs {self.needs} and would "
                "ignore the likely tokens, which take time and room; leave teacher.topk out, or choose a "
                "method of level 1 or 2"
            )

    def _ignored(self, config: MethodConfig) -> dict[str, str]:
        """Keys that the method does not read, or not under these settings, and why."""
        reads = self.reads
        if reads is None:
            return {}
        known = OWN_SETTINGS | CREDIT_SETTINGS | SCORED_SETTINGS
        found = dict.fromkeys(known - reads, f", as it learns from {self.signal.value} in another way")
        if self.writer is Writer.TEACHER:
            found |= dict.fromkeys(SCORED_SETTINGS, ", as the teacher writes and nothing is scored")
        if config.guard != "penalty":
            found.setdefault("guard_penalty", f" while method.guard is {config.guard!r}")
        if config.divergence not in ("jsd", "skewed"):
            found.setdefault("beta", f" while method.divergence is {config.divergence!r}")
        if config.divergence != "reverse":
            found.setdefault("row_floor", f" while method.divergence is {config.divergence!r}")
        if self.signal not in (Signal.CREDIT, Signal.MIXED) and not config.reference_kl > 0:
            found.setdefault("log_ratio_clamp", " without credits while method.reference_kl is 0")
        return found


def offers(caps: TeacherCaps, level: TeacherLevel) -> bool:
    """Whether a teacher offers a level; a reference model comes on top of any other."""
    return caps.has_reference if level is TeacherLevel.REFERENCE else caps.level >= level


def remedy(level: TeacherLevel) -> str:
    """What to set to get a level of a teacher in this process."""
    match level:
        case TeacherLevel.TOPK:
            return f"set teacher.topk={TOPK}"
        case TeacherLevel.LOGITS:
            return "set teacher.topk=all, which takes a teacher in this process"
        case TeacherLevel.REFERENCE:
            return "name a smaller model of the teacher's family in teacher.reference.model"
        case _:
            return "use another teacher"


def load_named(path: str, method: str) -> Any:
    """What `module:name` names. Raises ConfigError where it is not there."""
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"method {method!r} names {path!r}, which cannot be imported: {error}; expected module:function"
        ) from error
