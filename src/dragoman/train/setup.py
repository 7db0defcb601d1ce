"""Everything a run needs, built and checked from its configuration before the first step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator

from dragoman.config import Config
from dragoman.data import load_prompts
from dragoman.methods import Method, Writer, get_method
from dragoman.models import TokenScorer, load_model
from dragoman.models.loading import add_lora, causal_lm
from dragoman.pipeline import Pipeline, supervisor
from dragoman.render import Renderer
from dragoman.rollout import ReplayEngine, Sampler, Sampling
from dragoman.rollout.engine import RolloutEngine
from dragoman.teach import InProcessTeacher
from dragoman.train.optimise import Updater, load_objective, make_optimizer
from dragoman.types import Prompt

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
    prompts: Sequence[Prompt]
    heldout: Sequence[Prompt]


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
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    method = get_method(config.method.name)
    prompts = _prompts(config, config.data.train, config.data.limit) if prompts is None else prompts
    if heldout is None:
        heldout = (
            _prompts(config, config.data.heldout, config.data.heldout_limit) if config.data.heldout else []
        )
    student = Renderer.from_config(config.student)
    teacher_renderer = Renderer.from_config(config.teacher)
    accelerator = Accelerator(
        mixed_precision=config.train.mixed_precision,
        log_with=list(config.run.trackers) or None,
        project_dir=str(run_path),
        cpu=not (torch.cuda.is_available() or torch.backends.mps.is_available()),
    )
    model = load_model(config.student).to(accelerator.device)
    if config.student.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    if config.student.lora is not None:
        torch.manual_seed(config.run.seed)
        model = add_lora(model, config.student.lora)
    teacher_model = load_model(config.teacher).to(accelerator.device)
    teacher = InProcessTeacher(teacher_model, teacher_renderer, config.teacher)
    method.check(teacher.caps, teacher.name)
    scorer = TokenScorer(model, student.tokenization.stop_ids, logit_slice=config.train.logit_slice)
    if not scorer.has_plain_head:
        logger.warning(
            "%s does more to its logits than a linear head, so logits of whole batches are made; lower "
            "train.micro_batch_tokens if memory runs out",
            type(causal_lm(model)).__name__,
        )
    wrapped, optimizer = accelerator.prepare(scorer, make_optimizer(scorer, config.train))
    sampling = _sampling(config, config.rollout.max_new_tokens, config.rollout.batch_size)
    engine = _engine(config, method, model, student, teacher, sampling)
    held_sampler = Sampler(
        model,
        student,
        _sampling(
            config,
            config.eval.max_new_tokens or config.rollout.max_new_tokens,
            config.eval.batch_size or config.rollout.batch_size,
        ),
    )
    if isinstance(engine, Sampler):
        engine.check_prompts(prompts)
    held_sampler.check_prompts(heldout)
    supervise = supervisor(method, config.method)
    return Session(
        config=config,
        method=method,
        accelerator=accelerator,
        student=student,
        model=model,
        teacher=teacher,
        optimizer=optimizer,
        updater=Updater(accelerator, wrapped, optimizer, load_objective(method.objective), config),
        pipeline=Pipeline(student=student, engine=engine, teacher=teacher, supervise=supervise),
        heldout_pipeline=Pipeline(
            student=student,
            engine=held_sampler,
            teacher=teacher,
            supervise=supervise or supervisor(get_method("chunk"), config.method),
        ),
        prompts=prompts,
        heldout=heldout,
    )


def _prompts(config: Config, source: str, limit: int | None) -> list[Prompt]:
    return load_prompts(
        source,
        prompt_field=config.data.prompt_field,
        messages_field=config.data.messages_field,
        split=config.data.split,
        limit=limit,
    )


def _sampling(config: Config, max_new_tokens: int, batch_size: int) -> Sampling:
    rollout = config.rollout
    return Sampling(
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
    )


def _engine(
    config: Config,
    method: Method,
    model: PreTrainedModel,
    student: Renderer,
    teacher: InProcessTeacher,
    sampling: Sampling,
) -> RolloutEngine:
    if method.writer is Writer.TEACHER:
        return Sampler(teacher.model, teacher.renderer, sampling)
    if config.rollout.replay is not None:
        return ReplayEngine(Path(config.rollout.replay), student.tokenization)
    return Sampler(model, student, sampling)
