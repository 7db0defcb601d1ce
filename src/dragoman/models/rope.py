"""Rotary positions whose frequencies depend on how long the longest sequence of a call is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dragoman.models.loading import causal_lm

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def rope_border(model: PreTrainedModel) -> int | None:
    """The length beyond which a model turns all keys of a call otherwise (`longrope`, `dynamic`): what was
    read on one side of it is of no use on the other. None for a model without one."""
    config = causal_lm(model).config.get_text_config()
    given: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    # Of all layers, or of each kind of layer
    kinds = [given, *(value for value in given.values() if isinstance(value, dict))]
    borders = [
        int(kind.get("original_max_position_embeddings") or config.max_position_embeddings)
        for kind in kinds
        if _depends_on_length(str(kind.get("rope_type", "")))
    ]
    return min(borders, default=None)


def _depends_on_length(rope_type: str) -> bool:
    return rope_type == "longrope" or "dynamic" in rope_type
