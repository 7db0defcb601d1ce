"""The full half of an audit: a few responses of the student, scored by the teacher as in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from dragoman.audit.cost import estimate_cost, time_update
from dragoman.audit.figures import Mapped, figures_of
from dragoman.audit.mass import NUM_LIKELY, SharedIds, side_mass
from dragoman.audit.offers import method_rows
from dragoman.audit.pair_facts import PairAudit, Sampled, SelfTestRow
from dragoman.audit.texts import PROMPTS
from dragoman.config import Config
from dragoman.evaluate import Evaluation, measure, ratio_interval
from dragoman.methods import get_method
from dragoman.models import TokenScorer, load_model
from dragoman.models.loading import load_student
from dragoman.observe import Metrics, Ratio, Record
from dragoman.pipeline import Pipeline, Stopwatch, supervisor
from dragoman.render import Renderer
from dragoman.rollout import RecordedEngine, Request, Sampler, Sampling
from dragoman.teach import InProcessTeacher, LocalProbe, self_test
from dragoman.teach.selftest import TOLERANCE
from dragoman.types import Event, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EXACT_TOLERANCE = 1e-3
"""Nats between two askings of a teacher in float32."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is sampled: one response for each of `num_prompts` prompts, tokens at most."""

    num_prompts: int = 8
    max_new_tokens: int = 32
    seed: int = 0


def audit_pair(
    config: Config,
    student: Renderer,
    teacher: Renderer,
    prompts: Sequence[Prompt] = (),
    *,
    effort: Effort | None = None,
    progress: Callable[[str], None] = lambda what: None,
) -> PairAudit:
    """Load both models, put the teacher to the test, sample, score, and estimate a step.

    Sampling, views, scoring and alignment are those of training under `config`, so that what is claimed
    here is what a run then measures. The weights are not changed.
    """
    effort = effort or Effort()
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = device or torch.device("cpu")
    progress("loading the models")
    model = load_student(config.student, device=device, seed=effort.seed)
    scored = config.teacher.model_copy(update={"topk": max(config.teacher.topk, NUM_LIKELY)})
    in_process = InProcessTeacher(load_model(config.teacher).to(device), teacher, scored, student)
    progress("testing the teacher")
    exact = next(in_process.model.parameters()).dtype == torch.float32
    tested = self_test(LocalProbe(in_process), student, tolerance=EXACT_TOLERANCE if exact else TOLERANCE)
    progress("sampling and scoring")
    records, watch = _records(config, model, student, in_process, prompts or PROMPTS, effort)
    progress("timing an update")
    stops = sorted(student.tokenization.stop_ids)
    update = time_update(model, stops, records, config.train.logit_slice)
    sampled = _sampled(records)
    shared = SharedIds.of(student, teacher)
    return PairAudit(
        sampled=sampled,
        student_mass=side_mass(shared.student, [(update.topk_ids, update.topk_logp)]),
        teacher_mass=side_mass(shared.teacher, _likely(records)),
        methods=method_rows(config, in_process.caps, records),
        self_test=tuple(
            SelfTestRow(name=one.name, passed=one.passed, detail=one.detail, worst=one.worst)
            for one in tested.checks
        ),
        cost=estimate_cost(
            config, (model, in_process.model), records, watch.seconds, update, sampled.figures.inflation
        ),
    )


def _records(
    config: Config,
    model: PreTrainedModel,
    student: Renderer,
    teacher: InProcessTeacher,
    prompts: Sequence[Prompt],
    effort: Effort,
) -> tuple[list[Record], Stopwatch]:
    pipeline = Pipeline(
        student=student,
        engine=_engine(config, model, student, effort.max_new_tokens),
        teacher=teacher,
        supervise=supervisor(get_method("chunk"), config.method),
    )
    order = np.random.default_rng(effort.seed).permutation(len(prompts))
    requests = [
        Request(prompt=prompts[order[n % len(prompts)]], sample=n // len(prompts))
        for n in range(effort.num_prompts)
    ]
    watch = Stopwatch()
    return pipeline.records(requests, seed=effort.seed, step=0, watch=watch), watch


def _engine(
    config: Config, model: PreTrainedModel, student: Renderer, max_new_tokens: int
) -> RecordedEngine | Sampler:
    """What gives the responses: recorded turns where the run takes those, else the student."""
    if config.rollout.engine == "recorded":
        scorer = TokenScorer(model, student.tokenization.stop_ids, logit_slice=config.train.logit_slice)
        return RecordedEngine(scorer, student, config.train.micro_batch_tokens)
    return Sampler(model, student, Sampling.from_config(config.rollout, max_new_tokens=max_new_tokens))


def _sampled(records: Sequence[Record]) -> Sampled:
    by_prompt: dict[str, Metrics] = {}
    for record in records:
        key = record.rollout.prompt.key
        by_prompt[key] = by_prompt.get(key, Metrics()).merge(measure(record))
    found = Evaluation(by_prompt=tuple(by_prompt.values()), records=tuple(records))
    mapped = [
        Mapped(student=r.rollout.completion, teacher=r.view.completion, alignment=r.alignment)
        for r in records
        if r.view is not None and r.alignment is not None
    ]
    inflations = [Ratio(len(one.teacher), len(one.student)) for one in mapped]
    stops = _stop_probabilities(records)
    entropy = found.value("entropy")
    return Sampled(
        figures=figures_of("the student's samples", mapped),
        num_prompts=len(by_prompt),
        noncanonical_rate=found.value("noncanonical_rate"),
        noncanonical_interval=found.interval("noncanonical_rate"),
        inflation_interval=ratio_interval(inflations),
        stop_rate=found.value("stop_rate"),
        repetition=found.value("repetition"),
        entropy=entropy if np.isfinite(entropy) else None,
        kl_per_byte=found.value("kl_per_byte"),
        kl_interval=found.interval("kl_per_byte"),
        teacher_bits_per_byte=found.value("teacher_bits_per_byte"),
        student_stop=stops[0],
        teacher_stop=stops[1],
    )


def _stop_probabilities(records: Sequence[Record]) -> tuple[float | None, float | None]:
    """Geometric means of both sides' probability of an end where the student ended."""
    student: list[float] = []
    teacher: list[float] = []
    for record in records:
        rollout, view, scores = record.rollout, record.view, record.scores
        if rollout.behaviour_logp is None or view is None or scores is None:
            continue
        student += rollout.behaviour_logp[rollout.completion.event == Event.STOP].tolist()
        teacher += scores.logp[view.completion.event == Event.STOP].tolist()
    return tuple(  # type: ignore[return-value]
        float(np.exp(np.mean(values))) if values and np.isfinite(values).all() else None
        for values in (student, teacher)
    )


def _likely(records: Sequence[Record]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (record.scores.topk_ids, record.scores.topk_logp)
        for record in records
        if record.scores is not None
        and record.scores.topk_ids is not None
        and record.scores.topk_logp is not None
    ]
