"""The exception tree. Every message says what was got and expected, where, why it matters and what to do.

The command line prints any `DragomanError` as one paragraph and exits 1 (`UsageError`: 2); a traceback
is shown only for defects of dragoman itself.
"""

from __future__ import annotations


class DragomanError(Exception):
    """Base of everything dragoman raises on purpose."""


class UsageError(DragomanError):
    """The user asked for something that cannot be meant: a bad flag, key, path or combination."""


class ConfigError(UsageError):
    """A configuration key or value is unknown, of the wrong type or contradicts another."""


class DataError(UsageError):
    """A prompt file or recorded rollout cannot be used; the message names file and line."""


class AssetError(DragomanError):
    """A model or tokenizer file is missing, corrupt or could not be fetched."""


class TokenizerError(DragomanError):
    """A tokenizer cannot be mapped to bytes, or ids do not belong to it."""


class RenderError(DragomanError):
    """A conversation cannot be rendered by a model's template, or does not fit its context."""


class AlignmentError(DragomanError):
    """Two token sequences cannot be aligned because the values given contradict themselves."""


class CapabilityError(UsageError):
    """A method needs more than the teacher offers (checked before the first step)."""


class TeacherError(DragomanError):
    """A teacher answered with something that is not a log-probability of what was asked."""


class TrainingError(DragomanError):
    """Training must stop: a non-finite loss, no signal at all, or diverging replicas."""


class CheckpointError(DragomanError):
    """A checkpoint could not be written or read; the previous one is untouched."""
