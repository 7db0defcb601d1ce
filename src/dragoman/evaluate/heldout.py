"""Evaluation on held-out prompts: the same prompts and seeds every time, so that runs compare in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dragoman.evaluate.forward import ForwardKL, TeacherText
from dragoman.evaluate.intervals import Interval, ratio_interval
from dragoman.evaluate.measures import measure
from dragoman.observe import Metrics, Ratio, Record
from dragoman.pipeline import Pipeline
from dragoman.rollout import Request
from dragoman.types import Prompt

REPORTED = (
    "kl_per_byte",
    "teacher_bits_per_byte",
    "coverage",
    "noncanonical_rate",
    "stop_rate",
    "stop_probability/student",
    "stop_probability/teacher",
    "length_tokens",
    "length_bytes",
    "entropy",
    "repetition",
)
FORWARD = ("forward_kl_per_byte", "forward_coverage")
"""Reported too where the teacher's texts were read."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures of one evaluation, kept apart by prompt."""

    by_prompt: tuple[Metrics, ...]
    records: tuple[Record, ...]
    texts: tuple[TeacherText, ...] | None = None
    """The teacher's texts that the student read; None where it was not asked to."""

    @property
    def reported(self) -> tuple[str, ...]:
        """The names of its figures."""
        return REPORTED if self.texts is None else REPORTED + FORWARD

    def ratios(self, name: str) -> list[Ratio]:
        """One ratio a prompt, in the order of the prompts."""
        return [metrics.ratios.get(name, Ratio(0.0, 0.0)) for metrics in self.by_prompt]

    def value(self, name: str) -> float:
        """The figure over all prompts; NaN where nothing was counted."""
        ratios = self.ratios(name)
        return Ratio(sum(r.numerator for r in ratios), sum(r.denominator for r in ratios)).value

    def interval(self, name: str) -> Interval:
        """Its 95 % confidence interval."""
        return ratio_interval(self.ratios(name))

    def flat(self) -> dict[str, float]:
        """Figures and the bounds of their intervals (`_low`, `_high`), for `metrics.jsonl`."""
        values: dict[str, float] = {}
        for name in self.reported:
            low, high = self.interval(name)
            values |= {name: self.value(name), f"{name}_low": low, f"{name}_high": high}
        return values

    def summary(self) -> dict[str, Any]:
        """Figures and their intervals (`_ci`: low, high), for `summary.json`."""
        values: dict[str, Any] = {}
        for name in self.reported:
            values |= {name: self.value(name), f"{name}_ci": list(self.interval(name))}
        return values


def evaluate(
    pipeline: Pipeline,
    prompts: Sequence[Prompt],
    *,
    samples: int,
    seed: int,
    batch: int = 64,
    forward: ForwardKL | None = None,
) -> Evaluation:
    """Sample `samples` responses to every prompt (of a conversation, all its turns), score them and measure
    them. The figures of a prompt are those of all its rollouts; keys of prompts are unique.

    Seeds do not depend on the step: before and after are compared on common random numbers. With `forward`
    the student is measured on the teacher's texts as well.
    """
    by_prompt: list[Metrics] = []
    records: list[Record] = []
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        requests = [Request(prompt=prompt, sample=k) for prompt in part for k in range(samples)]
        found = pipeline.records(requests, seed=seed, step=0)
        figures: dict[str, list[Metrics]] = {prompt.key: [] for prompt in part}
        for record in found:
            figures[record.rollout.prompt.key].append(measure(record))
        by_prompt.extend(Metrics().merge(*figures[prompt.key]) for prompt in part)
        records.extend(found)
    if forward is None:
        return Evaluation(by_prompt=tuple(by_prompt), records=tuple(records))
    read = forward.measured(prompts, seed=seed)
    return Evaluation(
        by_prompt=tuple(own.merge(other) for own, other in zip(by_prompt, read, strict=True)),
        records=tuple(records),
        texts=tuple(text for own in forward.texts(prompts, seed=seed) for text in own),
    )
