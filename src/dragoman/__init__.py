"""On-policy distillation between language models that do not share a tokenizer.

>>> import dragoman
>>> student = dragoman.Tokenization.from_pretrained("assets:smollm2-135m-instruct")
>>> teacher = dragoman.Tokenization.from_pretrained("assets:gemma-3-270m")
>>> text = "naïve 🙂".encode()
>>> dragoman.align(student.encode(text), teacher.encode(text)).coverage
1.0

Names are loaded when first used, so importing the package is cheap and imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dragoman.alignment import align
    from dragoman.api import Distillation, distill
    from dragoman.errors import DragomanError
    from dragoman.text import Tokenization
    from dragoman.types import Alignment, TokenText

__version__ = "0.1.0"
__all__ = ["Alignment", "Distillation", "DragomanError", "TokenText", "Tokenization", "align", "distill"]

_HOMES = {
    "Alignment": "dragoman.types",
    "Distillation": "dragoman.api",
    "DragomanError": "dragoman.errors",
    "TokenText": "dragoman.types",
    "Tokenization": "dragoman.text",
    "align": "dragoman.alignment",
    "distill": "dragoman.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dragoman' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
