"""Conversations as ids: one model's side of a rollout, by its own template and with its own stop tokens.

Importing this module imports neither torch nor transformers.
"""

from __future__ import annotations

from dragoman.render.renderer import Renderer
from dragoman.render.templates import PLAIN_TEMPLATE, Template

__all__ = ["PLAIN_TEMPLATE", "Renderer", "Template"]
