"""Room for rows that keep every id (`method.row_topk: null`): positions x vocabulary, refused above a limit.

A row is made by a rule and learned from as it is, so one of all ids is V candidates while its step lasts.
"""

from __future__ import annotations

from dragoman.errors import ConfigError

CANDIDATE_BYTES = 12
"""An id and a log-prob. Batches hold them once more; sets of tokens (`canon`) take 8 to 12 bytes beyond."""
MOST_ROW_BYTES = 2**32
"""Of the rows of a step, in one process: 4 GiB."""


def row_bytes(num_tokens: int, width: int) -> int:
    """What the rows of so many student tokens take at most, with `width` candidates each."""
    return num_tokens * width * CANDIDATE_BYTES


def check_row_room(num_tokens: int, width: int) -> None:
    """Raise ConfigError for a step whose rows are above the limit; a width of 0 is that of no such rows."""
    if row_bytes(num_tokens, width) > MOST_ROW_BYTES:
        raise ConfigError(f"{row_room(num_tokens, width)}; {REMEDY}")


def row_room(num_tokens: int, width: int) -> str:
    """What the rows need and may have, in words."""
    return (
        f"method.row_topk is null, so rows keep every id: those of a step of {num_tokens:,} student tokens "
        f"take up to {num_tokens:,} x {width:,} x {CANDIDATE_BYTES} bytes, "
        f"{_gib(row_bytes(num_tokens, width))}, and the limit is {_gib(MOST_ROW_BYTES)}"
    )


REMEDY = (
    "set method.row_topk (default: 256; the mass of what is cut is part of a row's residual), or make steps "
    "smaller (train.prompts_per_step, rollout.samples_per_prompt, rollout.max_new_tokens)"
)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
