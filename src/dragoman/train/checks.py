"""What can be said of a configuration before anything is read."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from dragoman.config import Config
from dragoman.errors import UsageError
from dragoman.methods import Method, Writer, get_method
from dragoman.supervise.room import MOST_ROW_BYTES, REMEDY, row_bytes, row_room
from dragoman.types import TeacherLevel

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

_DIVIDED = {"DEEPSPEED", "FSDP", "MEGATRON_LM"}
"""What Accelerate calls processes that hold parts of the weights, or take a model apart for it."""


def checked_method(config: Config) -> Method:
    """The method of a configuration; raises UsageError where the rest of it does not go with it, or would be
    ignored."""
    method = get_method(config.method.name)
    if method.writer is Writer.TEACHER and config.rollout.engine != "sample":
        raise UsageError(
            f"method {method.name!r} trains on what the teacher writes, so rollout.engine="
            f"{config.rollout.engine!r} would be ignored; set it to 'sample', or choose another method"
        )
    if method.writer is Writer.TEACHER and config.train.max_staleness:
        raise UsageError(
            f"method {method.name!r} scores nothing, so there is nothing that train.max_staleness="
            f"{config.train.max_staleness} could have done beside an update; leave it out"
        )
    if config.teacher.reference is not None and method.level is not TeacherLevel.REFERENCE:
        raise UsageError(
            f"teacher.reference is {config.teacher.reference.model!r}, which method {method.name!r} would "
            "ignore; leave teacher.reference out, or choose a method of level 3, such as 'compass'"
        )
    method.check_settings(config.method)
    method.check_teacher(config.teacher)
    return method


def row_width(config: Config, method: Method, num_ids: int) -> int:
    """Candidates of a row that nothing but the student's vocabulary limits; 0 where `method.row_topk` does,
    or the method has no rows. Warns where a step of longest responses would be refused."""
    has_rows = method.reads is None or "row_topk" in method.reads
    if config.method.row_topk is not None or not has_rows:
        return 0
    step = config.train.prompts_per_step * config.rollout.samples_per_prompt * config.rollout.max_new_tokens
    if row_bytes(step, num_ids) > MOST_ROW_BYTES:
        logger.warning("%s; a step above it is refused: %s", row_room(step, num_ids), REMEDY)
    return num_ids


def check_whole_weights(accelerator: Accelerator) -> None:
    """Raise UsageError where processes hold parts of the weights, before any are read."""
    kind = accelerator.distributed_type.value
    if kind in _DIVIDED:
        raise UsageError(
            f"Accelerate was told to divide weights among processes ({kind}); expected replicas, each with "
            "all weights (accelerate launch --multi_gpu, or torchrun). The student also samples and scores "
            "between updates, outside of what gathers divided weights, and its loss is normalised over the "
            "whole vocabulary. Use adapters (student.lora) or train.mixed_precision 'bf16' if memory is short"
        )
