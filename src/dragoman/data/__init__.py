"""Prompts: read and checked before a run begins, drawn in an order that depends only on seed and step."""

from __future__ import annotations

from dragoman.data.conversations import BadValueError
from dragoman.data.order import occurrences, prompt_indices
from dragoman.data.prompts import load_prompts, read_prompt

__all__ = ["BadValueError", "load_prompts", "occurrences", "prompt_indices", "read_prompt"]
