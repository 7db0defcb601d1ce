"""The reference of a teacher: a smaller model of its family that reads the very same ids."""

from __future__ import annotations

import torch

from dragoman.config import TeacherConfig
from dragoman.errors import CapabilityError, TokenizerError
from dragoman.models import load_model
from dragoman.render import Renderer
from dragoman.teach.in_process import InProcessTeacher
from dragoman.text import Tokenization


def check_reference(config: TeacherConfig, teacher: Tokenization) -> None:
    """Raise CapabilityError for a reference whose ids mean other things than the teacher's, before any
    weights are read. Without a reference there is nothing to check."""
    if config.reference is None:
        return
    own = Tokenization.from_pretrained(config.reference.model, revision=config.reference.revision)
    try:
        fits = own.with_stops(teacher.stop_ids).with_markers(teacher.markers).same_ids_as(teacher)
    except TokenizerError:
        fits = False
    if not fits:
        raise CapabilityError(
            f"teacher.reference {config.reference.model!r} has other token ids than the teacher "
            f"{config.model!r}, so its log-probs of the teacher's tokens would be of other text; expected a "
            "smaller model of the same family, with the same tokenizer"
        )


def load_reference(
    config: TeacherConfig, renderer: Renderer, device: torch.device
) -> InProcessTeacher | None:
    """The reference as a teacher of its own behind the teacher's `renderer`; None where none is named.
    Whether it fits is for `check_reference`, which needs no weights."""
    if config.reference is None:
        return None
    settings = config.model_copy(update={"topk": 0, "reference": None})
    return InProcessTeacher(load_model(config.reference).to(device), renderer, settings)
