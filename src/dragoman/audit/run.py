"""A whole audit, as the command line runs it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from dragoman.assets import resolve
from dragoman.audit.mapping import audit_mapping
from dragoman.audit.pair_facts import PairAudit
from dragoman.audit.result import Audit
from dragoman.audit.verdict import MIN_COVERAGE, mapping_problems, pair_problems, verdict
from dragoman.config import Config, ModelConfig
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

    Where a side refuses prompts, nothing can be sampled and the full half is left out too.
    """
    start = time.perf_counter()
    progress("reading the tokenizers")
    student = Renderer.from_config(config.student)
    teacher = Renderer.from_config(config.teacher)
    limit = context_limit(config.teacher)
    if config.teacher.max_length is not None:
        limit = min(config.teacher.max_length, limit or config.teacher.max_length)
    progress("mapping texts")
    mapping = audit_mapping(
        student,
        teacher,
        prompts,
        max_new_tokens=config.rollout.max_new_tokens,
        student_limit=context_limit(config.student),
        teacher_limit=limit,
    )
    least = config.train.min_coverage or MIN_COVERAGE
    problems = list(mapping_problems(mapping, least))
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
    """The longest conversation a model was made for, by its config alone; None where that does not say."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            resolve(model.model), revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError):
        return None
    limit: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit
