"""A whole audit, as the command line runs it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from dragoman.assets import resolve
from dragoman.audit.gate import is_gated
from dragoman.audit.mapping import audit_mapping
from dragoman.audit.pair_facts import PairAudit
from dragoman.audit.result import Audit
from dragoman.audit.verdict import (
    MIN_COVERAGE,
    mapping_problems,
    pair_problems,
    refusal_problems,
    verdict,
)
from dragoman.config import Config, ModelConfig, TeacherConfig
from dragoman.methods import get_method
from dragoman.render import Renderer
from dragoman.types import Prompt


def run_audit(
    config: Config,
    prompts: Sequence[Prompt] = (),
    *,
    fast: bool = False,
    num_prompts: int = 8,
    max_new_tokens: int = 32,
    progress: Callable[[str], None] = lambda what: None,
) -> Audit:
    """Audit the pair of a configuration; `fast` leaves the weights alone.

    Where a side refuses prompts, nothing can be sampled and the full half is left out too. Refused prompts
    stop a run of any method; the rest of the mapping and the coverage of the samples speak only against
    methods that depend on them. Raises ConfigError, as a run does, for settings that the method would ignore.
    """
    start = time.perf_counter()
    method = get_method(config.method.name)
    method.check_settings(config.method)
    method.check_teacher(config.teacher)
    progress("reading the tokenizers")
    student = Renderer.from_config(config.student)
    teacher = Renderer.from_config(config.teacher)
    progress("mapping texts")
    mapping = audit_mapping(
        student,
        teacher,
        prompts,
        max_new_tokens=config.rollout.max_new_tokens,
        student_limit=context_limit(config.student),
        teacher_limit=context_limit(config.teacher),
    )
    gated = is_gated(method)
    least = (config.train.min_coverage or MIN_COVERAGE) if gated else 0.0
    problems = list(mapping_problems(mapping, least) if gated else refusal_problems(mapping))
    pair: PairAudit | None = None
    if not fast and not mapping.refusals:
        from dragoman.audit.pair import Effort, audit_pair

        effort = Effort(num_prompts=num_prompts, max_new_tokens=max_new_tokens, seed=config.run.seed)
        pair = audit_pair(config, student, teacher, prompts, effort=effort, progress=progress)
        problems += pair_problems(pair, min_coverage=least, max_new_tokens=max_new_tokens)
    return Audit(
        mapping=mapping,
        pair=pair,
        problems=tuple(problems),
        verdict=verdict(problems),
        seconds=time.perf_counter() - start,
    )


def context_limit(model: ModelConfig) -> int | None:
    """The longest conversation that is shown to a model: what it was made for, by its config alone, and of a
    teacher no more than `max_length`; None where neither says."""
    from transformers import AutoConfig

    limits: list[int | None] = [model.max_length if isinstance(model, TeacherConfig) else None]
    try:
        config = AutoConfig.from_pretrained(
            resolve(model.model), revision=model.revision, trust_remote_code=model.trust_remote_code
        )
        limits.append(getattr(config.get_text_config(), "max_position_embeddings", None))
    except (OSError, ValueError):
        pass  # a folder with a tokenizer alone says nothing of it
    return min((limit for limit in limits if limit is not None), default=None)
