"""Everything a run needs, built and checked from its configuration before the first step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator

from dragoman.audit import audit_mapping, is_gated, require_safe
from dragoman.audit.run import context_limit
from dragoman.config import Config
from dragoman.data import load_prompts
from dragoman.errors import UsageError
from dragoman.evaluate import ForwardKL
from dragoman.methods import Method, Signal, Sorts, Supervise, Writer, get_method
from dragoman.models import TokenScorer, load_teacher, teacher_device
from dragoman.models.loading import causal_lm, load_student
from dragoman.models.packing import packing_of
from dragoman.models.settings import use_settings
from dragoman.padding import Packing
from dragoman.pipeline import Pipeline, supervisor
from dragoman.render import Renderer
from dragoman.rollout import RecordedEngine, ReplayEngine, Sampler, Sampling, StudentReference
from dragoman.rollout.engine import RolloutEngine
from dragoman.teach import InProcessTeacher, check_reference, in_process_caps, load_reference
from dragoman.text.pair import PairTables
from dragoman.train.checks import check_whole_weights, checked_method, row_width
from dragoman.train.optimise import Updater, make_optimizer, sum_over_processes
from dragoman.train.threads import Threads
from dragoman.types import Prompt, TeacherLevel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Session:
    """A run ready to start."""

    config: Config
    method: Method
    accelerator: Accelerator
    student: Renderer
    model: PreTrainedModel
    teacher: InProcessTeacher
    optimizer: torch.optim.Optimizer
    updater: Updater
    pipeline: Pipeline
    heldout_pipeline: Pipeline
    forward: ForwardKL | None
    """The teacher's texts on the held-out prompts, where evaluations read them."""
    prompts: Sequence[Prompt]
    heldout: Sequence[Prompt]
    threads: Threads = field(default_factory=Threads)


def build_session(
    config: Config,
    run_path: Path,
    prompts: Sequence[Prompt] | None = None,
    heldout: Sequence[Prompt] | None = None,
) -> Session:
    """Load data and models, check that they fit each other, and wire the stages.

    Cheap checks come first: prompts and tokenizers are read before any weights. Raises the error of the
    part that fails.
    """
    use_settings(config.run)
    method = checked_method(config)
    prompts = _prompts(config, config.data.train, config.data.limit) if prompts is None else prompts
    if heldout is None and config.data.heldout is not None:
        heldout = _prompts(config, config.data.heldout, config.data.heldout_limit)
    student = Renderer.from_config(config.student)
    teacher_side = Renderer.from_config(config.teacher)
    objective = method.load_objective()
    _check_pair(config, method, student, teacher_side)
    tables = PairTables(student.tokenization, teacher_side.tokenization)
    supervise = supervisor(method, config.method, tables)
    if is_gated(method):
        _check_mapping(config, student, teacher_side, prompts)
    accelerator = _accelerator(config, run_path)
    _check_share(config, accelerator.num_processes)
    beside = teacher_device(config.teacher, accelerator.device)
    model = load_student(config.student, device=accelerator.device, seed=config.run.seed)
    teacher = InProcessTeacher(
        load_teacher(config.teacher, device=beside),
        teacher_side,
        config.teacher,
        student,
        load_reference(config.teacher, teacher_side, beside),
    )
    scorer = _scorer(config, model, student, supervise)
    wrapped, optimizer = accelerator.prepare(scorer, make_optimizer(scorer, config.train))
    packing = packing_of(model) if config.train.packing else Packing.PADDED
    sampler = Sampler(model, student, Sampling.from_config(config.rollout))
    pipeline = _training_pipeline(config, method, supervise, sampler, teacher)
    if method.signal in (Signal.CREDIT, Signal.MIXED):
        pipeline = replace(pipeline, add=partial(sum_over_processes, accelerator))
    heldout_pipeline = _heldout_pipeline(config, method, tables, sampler, teacher)
    _check_room(pipeline.engine, prompts)
    _check_room(heldout_pipeline.engine, heldout or ())
    return Session(
        config=config,
        method=method,
        accelerator=accelerator,
        student=student,
        model=model,
        teacher=teacher,
        optimizer=optimizer,
        updater=Updater(accelerator, wrapped, optimizer, objective, config, packing),
        pipeline=pipeline,
        heldout_pipeline=heldout_pipeline,
        forward=_forward(config, teacher, sampler, heldout or ()),
        prompts=prompts,
        heldout=heldout or (),
    )


def _check_pair(config: Config, method: Method, student: Renderer, teacher: Renderer) -> None:
    """What the method and the two sides are to each other, as far as it takes no weights to know. Raises
    CapabilityError."""
    method.check_tokenizers(student.tokenization, teacher.tokenization)
    method.check(in_process_caps(config.teacher, teacher.tokenization), config.teacher.model)
    check_reference(config.teacher, teacher.tokenization)


def _check_mapping(config: Config, student: Renderer, teacher: Renderer, prompts: Sequence[Prompt]) -> None:
    """The cheap half of an audit, before any weights are read: raise TrainingError where training would be
    unsafe, log what else was found. Prompts too long for the student are named one by one by its sampler."""
    mapping = audit_mapping(
        student,
        teacher,
        prompts,
        max_new_tokens=config.rollout.max_new_tokens,
        teacher_limit=context_limit(config.teacher),
    )
    for problem in require_safe(mapping, config.train.min_coverage):
        logger.warning("%s; %s", problem.what, problem.change)


def _accelerator(config: Config, run_path: Path) -> Accelerator:
    try:
        accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),
            mixed_precision=config.train.mixed_precision,
            log_with=list(config.run.trackers) or None,
            project_dir=str(run_path),
        )
    except ValueError as error:
        raise UsageError(
            f"Accelerate refuses run.trackers={list(config.run.trackers)} or "
            f"train.mixed_precision={config.train.mixed_precision}: {error}"
        ) from error
    check_whole_weights(accelerator)
    return accelerator


def _check_share(config: Config, processes: int) -> None:
    """Every process needs a rollout for each optimiser step, or the others would wait for it for ever."""
    rollouts = config.train.prompts_per_step * config.rollout.samples_per_prompt
    if rollouts // processes < config.train.minibatches:
        raise UsageError(
            f"a step has {rollouts} rollouts (train.prompts_per_step × rollout.samples_per_prompt), too few "
            f"for train.minibatches {config.train.minibatches} on each of {processes} processes; expected at "
            f"least {config.train.minibatches * processes}"
        )


def _scorer(
    config: Config, model: PreTrainedModel, student: Renderer, supervise: Supervise | None
) -> TokenScorer:
    """The student as what a loss is a function of; it sorts the ids that a supervision compares by rank."""
    ids = supervise.sorted_ids if isinstance(supervise, Sorts) else None
    scorer = TokenScorer(
        model,
        student.tokenization.stop_ids,
        logit_slice=config.train.logit_slice,
        sorted_ids=None if ids is None else ids.tolist(),
        loss_impl=config.train.loss_impl,
    )
    if scorer.head_shape is None:
        logger.warning(
            "what %s does to the logits of its head is not known, so logits of whole batches are made; lower "
            "train.micro_batch_tokens if memory runs out",
            type(causal_lm(model)).__name__,
        )
    return scorer


def _training_pipeline(
    config: Config,
    method: Method,
    supervise: Supervise | None,
    sampler: Sampler,
    teacher: InProcessTeacher,
) -> Pipeline:
    """The stages of a training step."""
    engine: RolloutEngine = sampler
    if method.writer is Writer.TEACHER:
        engine = Sampler(teacher.model, teacher.renderer, sampler.sampling)
    elif config.rollout.replay is not None:
        engine = ReplayEngine(Path(config.rollout.replay), sampler.renderer.tokenization)
    elif config.rollout.engine == "recorded":
        stops = sampler.renderer.tokenization.stop_ids
        batch_tokens = config.train.batch_tokens(sampler.model.device.type)
        reader = TokenScorer(sampler.model, stops, logit_slice=config.train.logit_slice, entropy=True)
        engine = RecordedEngine(reader, sampler.renderer, batch_tokens)
    return Pipeline(
        student=sampler.renderer,
        engine=engine,
        teacher=teacher,
        supervise=supervise,
        writer=teacher.renderer if method.writer is Writer.TEACHER else None,
        reference=_student_reference(config, method, sampler),
        row_width=row_width(config, method, sampler.renderer.tokenization.num_ids),
    )


def _heldout_pipeline(
    config: Config, method: Method, tables: PairTables, sampler: Sampler, teacher: InProcessTeacher
) -> Pipeline:
    """The stages of an evaluation: the student writes, and realised tokens suffice to measure it. What is
    left out is what the run's own method leaves out, where that has such credits, else what `chunk` does."""
    asked = config.teacher.model_copy(update={"topk": 0, "reference": None})
    plain = method.signal is Signal.CREDIT and method.level is TeacherLevel.REALISED
    return Pipeline(
        student=sampler.renderer,
        engine=Sampler(sampler.model, sampler.renderer, _heldout_sampling(config)),
        teacher=InProcessTeacher(teacher.model, teacher.renderer, asked, sampler.renderer),
        supervise=supervisor(method if plain else get_method("chunk"), config.method, tables),
    )


def _check_room(engine: RolloutEngine, prompts: Sequence[Prompt]) -> None:
    """Raise the engine's error for prompts that leave it no room; a replay has its own."""
    if isinstance(engine, Sampler | RecordedEngine):
        engine.check_prompts(prompts)


def _heldout_sampling(config: Config) -> Sampling:
    return Sampling.from_config(
        config.rollout, max_new_tokens=config.eval.max_new_tokens, batch_size=config.eval.batch_size
    )


def _forward(
    config: Config, teacher: InProcessTeacher, sampler: Sampler, heldout: Sequence[Prompt]
) -> ForwardKL | None:
    """The teacher as a writer of texts as long as the student's, but from its own distribution, which is what
    a forward KL is an expectation over. The student reads in the precision of its weights, as it samples.
    """
    if not (config.eval.forward and heldout):
        return None
    sampling = replace(_heldout_sampling(config), temperature=1.0, top_p=1.0, top_k=0, compile=False)
    writer = Sampler(teacher.model, teacher.renderer, sampling)
    writer.check_prompts(heldout)
    stops = sampler.renderer.tokenization.stop_ids
    return ForwardKL(
        write=writer.rollouts,
        teacher=teacher.renderer,
        student=sampler.renderer,
        scorer=TokenScorer(sampler.model, stops, logit_slice=config.train.logit_slice),
        batch_tokens=config.train.batch_tokens(sampler.model.device.type),
    )


def _student_reference(config: Config, method: Method, sampler: Sampler) -> StudentReference | None:
    """The student as it is now, where the method or a penalty asks for it."""
    if not (method.student_reference or config.method.reference_kl > 0):
        return None
    return StudentReference(
        sampler.model,
        sampler.renderer.tokenization.stop_ids,
        logit_slice=config.train.logit_slice,
        batch_tokens=config.train.batch_tokens(sampler.model.device.type),
    )


def _prompts(config: Config, source: str, limit: int | None) -> list[Prompt]:
    return load_prompts(
        source,
        prompt_field=config.data.prompt_field,
        messages_field=config.data.messages_field,
        split=config.data.split,
        limit=limit,
    )
