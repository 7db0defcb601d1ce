"""Where a teacher scores."""

from __future__ import annotations

import torch

from dragoman.config import TeacherConfig
from dragoman.errors import UsageError
from dragoman.models.quantized import check_quantization


def teacher_device(config: TeacherConfig, student: torch.device) -> torch.device:
    """The device of teacher and reference: `teacher.device`, or the student's where it is null.

    Reads no weights. Raises UsageError for a device that this torch does not have, and for a quantization
    that cannot be had there.
    """
    device = student if config.device is None else _found(config.device)
    if config.quantization is not None:
        check_quantization(config.quantization, device)
    return device


def _found(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).tolist()  # a name alone says nothing of what the machine has
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"teacher.device is {name!r}, where the teacher cannot score: {reason}. Name a device that torch "
            "has, such as cpu or cuda:1, or set teacher.device=null for the student's"
        ) from error
    return device
