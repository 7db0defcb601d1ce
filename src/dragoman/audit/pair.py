"""The full half of an audit: a few responses of the student, scored by the teacher as in training."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from dragoman.audit.cost import estimate_cost, time_update
from dragoman.audit.figures import Mapped, figures_of
from dragoman.audit.mass import NUM_LIKELY, SharedIds, side_mass
from dragoman.audit.offers import method_rows
from dragoman.audit.pair_facts import PairAudit, Sampled, SelfTestRow
from dragoman.audit.texts import PROMPTS
from dragoman.config import Config, MethodConfig
from dragoman.evaluate import Evaluation, measure
from dragoman.methods import get_method
from dragoman.models import TokenScorer, load_teacher, teacher_device
from dragoman.models.loading import load_student
from dragoman.models.settings import settings_kept, use_settings
from dragoman.observe import Metrics, Record
from dragoman.pipeline import Pipeline, Stopwatch, supervisor
from dragoman.render import Renderer
from dragoman.rollout import RecordedEngine, Request, Sampler, Sampling
from dragoman.teach import InProcessTeacher, LocalProbe, self_test
from dragoman.teach.selftest import TOLERANCE
from dragoman.text.pair import PairTables
from dragoman.types import Prompt

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


@settings_kept()
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
    use_settings(config.run)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = device or torch.device("cpu")
    beside = teacher_device(config.teacher, device)
    progress("loading the models")
    model = load_student(config.student, device=device, seed=effort.seed)
    likely = config.teacher.topk if config.teacher.topk != "all" else 0
    scored = config.teacher.model_copy(update={"topk": max(likely, NUM_LIKELY)})
    in_process = InProcessTeacher(load_teacher(config.teacher, device=beside), teacher, scored, student)
    progress("testing the teacher")
    exact = next(in_process.model.parameters()).dtype == torch.float32
    tested = self_test(LocalProbe(in_process), student, tolerance=EXACT_TOLERANCE if exact else TOLERANCE)
    progress("sampling and scoring")
    tables = PairTables(student.tokenization, teacher.tokenization)
    records, watch = _records(config, model, tables, student, in_process, prompts or PROMPTS, effort)
    progress("timing an update")
    stops = sorted(student.tokenization.stop_ids)
    update = time_update(model, stops, records, config.train.logit_slice)
    sampled = _sampled(records)
    shared = SharedIds.of(student, teacher)
    return PairAudit(
        sampled=sampled,
        student_mass=side_mass(shared.student, [(update.topk_ids, update.topk_logp)]),
        teacher_mass=side_mass(shared.teacher, _likely(records)),
        methods=method_rows(config, records, tables),
        self_test=tuple(
            SelfTestRow(name=one.name, passed=one.passed, detail=one.detail, worst=one.worst)
            for one in tested.checks
        ),
        cost=estimate_cost(
            config, (model, in_process.model), records, watch.seconds, update, sampled.inflation
        ),
    )


def _records(
    config: Config,
    model: PreTrainedModel,
    tables: PairTables,
    student: Renderer,
    teacher: InProcessTeacher,
    prompts: Sequence[Prompt],
    effort: Effort,
) -> tuple[list[Record], Stopwatch]:
    """Responses as in training. Their supervision leaves out nothing by choice, so that a token without a
    signal is one that could not be compared."""
    pipeline = Pipeline(
        student=student,
        engine=_engine(config, model, student, effort.max_new_tokens),
        teacher=teacher,
        supervise=supervisor(get_method("chunk"), MethodConfig(), tables),
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
        return RecordedEngine(scorer, student, config.train.batch_tokens(model.device.type))
    sampling = Sampling.from_config(config.rollout, max_new_tokens=max_new_tokens)
    return Sampler(model, student, replace(sampling, compile=False))


def _sampled(records: Sequence[Record]) -> Sampled:
    """The figures of an evaluation of these records."""
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
    lost: Counter[str] = Counter()
    for record in records:
        lost.update(record.supervision.dropped if record.supervision is not None else {})
    return Sampled(
        figures=figures_of("the student's samples", mapped),
        num_prompts=len(by_prompt),
        coverage=found.value("coverage"),
        coverage_interval=found.interval("coverage"),
        lost=dict(lost),
        inflation=found.value("token_inflation"),
        inflation_interval=found.interval("token_inflation"),
        noncanonical_rate=found.value("noncanonical_rate"),
        noncanonical_interval=found.interval("noncanonical_rate"),
        stop_rate=found.value("stop_rate"),
        repetition=found.value("repetition"),
        entropy=_known(found.value("entropy")),
        kl_per_byte=found.value("kl_per_byte"),
        kl_interval=found.interval("kl_per_byte"),
        teacher_bits_per_byte=found.value("teacher_bits_per_byte"),
        student_stop=_known(found.value("stop_probability/student")),
        teacher_stop=_known(found.value("stop_probability/teacher")),
    )


def _known(value: float) -> float | None:
    """A figure; None where nothing was counted."""
    return value if math.isfinite(value) else None


def _likely(records: Sequence[Record]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (record.scores.topk_ids, record.scores.topk_logp)
        for record in records
        if record.scores is not None
        and record.scores.topk_ids is not None
        and record.scores.topk_logp is not None
    ]
