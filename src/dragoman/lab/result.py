"""What the lab found, as plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dragoman.lab.figures import GradientFigures
from dragoman.lab.row_figures import RowFigures
from dragoman.lab.worlds import WorldSettings

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class LabSettings:
    """How methods are compared, the same for all.

    Every method is trained with each of `rates` on `tuning_seeds` seeds, then with the rate that ended with
    the least text KL on `seeds` others. Rows are measured on the likeliest paths that have `cover` of the
    student's probability.
    """

    updates: int = 240
    samples: int = 128
    seeds: int = 10
    tuning_seeds: int = 2
    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.06, 0.1)
    cover: float = 0.995
    quick: bool = False
    """Whether this began as the settings of a first look, `QUICK`."""


QUICK = LabSettings(updates=120, samples=64, seeds=3, tuning_seeds=1, rates=(0.01, 0.03, 0.1), quick=True)
"""For a first look, and tests."""


@dataclass(frozen=True, kw_only=True)
class WorldFacts:
    """What a world is like. Tokens are those of a text of the teacher, its stop included; entropy in nats.
    Merges are those that the tokenizers really have. `shared` is the share of the teacher's text tokens that
    the student has, too."""

    num_texts: int
    num_paths: int
    num_states: int
    num_edges: int
    teacher_merges: int
    student_merges: int
    student_vocabulary: int
    teacher_vocabulary: int
    shared: float
    student_tokens: float
    teacher_tokens: float
    entropy: float
    text_kl: float
    token_kl: float
    noncanonical: float


@dataclass(frozen=True, kw_only=True)
class Point:
    """Means over seeds at one time of training, with 95 % intervals (None for a single seed)."""

    update: int
    text_kl: float
    text_kl_ci: Interval | None
    token_kl: float
    noncanonical: float
    noncanonical_ci: Interval | None


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """One method in one world. `tuning` is the mean text KL at the end by learning rate."""

    label: str
    name: str
    summary: str
    level: int | None
    signal: str
    lr: float
    tuning: dict[float, float]
    curve: tuple[Point, ...]
    early: Point
    by_seed: tuple[float, ...]
    noncanonical_by_seed: tuple[float, ...]
    gradient: GradientFigures
    rows: RowFigures | None
    seconds: float
    seconds_a_run: float

    @property
    def lr_at_border(self) -> bool:
        """Whether the best rate is the least or largest tried, so that a better one may lie beyond."""
        return len(self.tuning) > 1 and self.lr in (min(self.tuning), max(self.tuning))

    def to_json(self) -> dict[str, Any]:
        """All figures, the headline ones by their own names; null where one does not apply."""
        last, gradient, rows = self.curve[-1], self.gradient, self.rows
        return {
            "text_kl": last.text_kl,
            "text_kl_ci": None if last.text_kl_ci is None else list(last.text_kl_ci),
            "text_kl_start": self.curve[0].text_kl,
            "text_kl_early": self.early.text_kl,
            "early_update": self.early.update,
            "token_kl": last.token_kl,
            "noncanonical": last.noncanonical,
            "noncanonical_ci": None if last.noncanonical_ci is None else list(last.noncanonical_ci),
            "noncanonical_start": self.curve[0].noncanonical,
            "noncanonical_early": self.early.noncanonical,
            "cosine_token": gradient.token.cosine,
            "cosine_text": gradient.text.cosine,
            "norm_ratio": gradient.token.norm_ratio,
            "norm_ratio_text": gradient.text.norm_ratio,
            "bias": gradient.token.bias,
            "bias_text": gradient.text.bias,
            "rmse": gradient.token.rmse,
            "rmse_text": gradient.text.rmse,
            "variance": gradient.variance,
            "odd_push": gradient.odd_push,
            "gradient_covered": gradient.covered,
            "total_variation": None if rows is None else rows.total_variation,
            "student_total_variation": None if rows is None else rows.student_total_variation,
            "common_total_variation": None if rows is None else rows.common_total_variation,
            "common_rate": None if rows is None else rows.common_rate,
            "residual": None if rows is None else rows.residual,
            "row_rate": None if rows is None else rows.row_rate,
            "labels": None if rows is None else rows.labels,
            "labels_kept": None if rows is None else rows.kept,
            "lr": self.lr,
            "lr_at_border": self.lr_at_border,
            "tuning": {f"{rate:g}": value for rate, value in self.tuning.items()},
            "by_seed": list(self.by_seed),
            "noncanonical_by_seed": list(self.noncanonical_by_seed),
            "curve": [asdict(point) for point in self.curve],
            "method": self.name,
            "summary": self.summary,
            "teacher_level": self.level,
            "signal": self.signal,
            "seconds": self.seconds,
            "seconds_a_run": self.seconds_a_run,
        }


@dataclass(frozen=True, kw_only=True)
class WorldResult:
    """All methods in one world."""

    world: WorldSettings
    settings: LabSettings
    facts: WorldFacts
    methods: tuple[MethodResult, ...]

    def to_json(self) -> dict[str, Any]:
        """The world with its methods by label."""
        return {
            "world": {"name": self.world.name, **asdict(self.world)},
            "settings": asdict(self.settings),
            "facts": asdict(self.facts),
            "methods": {method.label: method.to_json() for method in self.methods},
        }
