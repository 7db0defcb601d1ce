"""What the full half of an audit finds, as frozen values. Units as in `audit.facts`; log-probs in nats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dragoman.audit.facts import Figures


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """What the student's own samples show: the figures training measures, on a few responses."""

    figures: Figures
    """What the mapping makes of the responses that the teacher was shown."""
    num_prompts: int
    coverage: float
    """Student tokens in comparable chunks that both sides gave a value; none of a refused turn."""
    coverage_interval: tuple[float, float]
    """Intervals are 95 % bootstraps over the prompts; NaN where there is one prompt only."""
    lost: Mapping[str, int]
    """The other student tokens, by reason."""
    inflation: float
    inflation_interval: tuple[float, float]
    noncanonical_rate: float
    noncanonical_interval: tuple[float, float]
    stop_rate: float
    repetition: float
    entropy: float | None
    kl_per_byte: float
    kl_interval: tuple[float, float]
    teacher_bits_per_byte: float
    student_stop: float | None
    """Mean probability of a stop where the student stopped; None where it never did. The teacher's is that
    of the stops it was shown."""
    teacher_stop: float | None


@dataclass(frozen=True, kw_only=True)
class SideMass:
    """Probability a side puts on what the other has as one token, at its sampled positions: at least
    `shared`, and at most that plus the `tail` beyond the k most likely tokens looked at."""

    shared: float
    tail: float
    num_positions: int
    k: int


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """What a method would need of this pair, and what it would cover."""

    name: str
    needs: str
    offered: bool
    remedy: str
    """What makes the teacher offer it, where it does not."""
    supervised: float | None
    """Share of the sampled tokens it would train on; None where it trains on other responses."""
    dropped: Mapping[str, int]
    configured: bool


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A training step as configured, at full response length: an estimate for this machine."""

    rollouts: int
    student_length: int
    """Context and response, student tokens; `teacher_length` in teacher tokens."""
    teacher_length: int
    flops: Mapping[str, int]
    seconds: Mapping[str, float]
    memory_bytes: Mapping[str, int]
    available_bytes: int
    speeds: Mapping[str, float]
    """FLOP/s measured during the audit."""

    @property
    def total_seconds(self) -> float:
        """Of a step."""
        return sum(self.seconds.values())

    @property
    def total_memory(self) -> int:
        """In bytes, all parts at once."""
        return sum(self.memory_bytes.values())


@dataclass(frozen=True, kw_only=True)
class SelfTestRow:
    """One check of the teacher; `passed` is None where it is not offered or was not tried."""

    name: str
    passed: bool | None
    detail: str
    worst: float | None


@dataclass(frozen=True, kw_only=True)
class PairAudit:
    """The full half: what needs the weights."""

    sampled: Sampled
    student_mass: SideMass
    teacher_mass: SideMass
    methods: tuple[MethodRow, ...]
    self_test: tuple[SelfTestRow, ...]
    cost: Cost
