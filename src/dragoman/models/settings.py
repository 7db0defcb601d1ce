"""Settings of this process that models run under."""

from __future__ import annotations

import ctypes
import sys

import torch

from dragoman.config import RunConfig

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Parameters of mallopt(3)."""
_LARGEST_KEPT = 2**25
"""Bytes: the most that glibc takes for the second."""


def use_settings(run: RunConfig) -> None:
    """Take the number of threads, where a run names one, and the precision of float32 products; on CPU, keep
    freed memory."""
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    torch.set_float32_matmul_precision(run.matmul_precision)
    if not torch.accelerator.is_available():
        keep_freed_memory()


def keep_freed_memory() -> bool:
    """Keep blocks of up to 32 MB that are freed for the next that are asked for, in place of giving them back
    to the system, which fills each with zeros anew: a tenth of an update's processor time (decision 0019).

    Returns whether the C library can be told so (glibc).
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # The backward pass has a thread of its own; what it frees is to be there for the main thread.
    wanted = ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _LARGEST_KEPT), (_TRIM_THRESHOLD, 2**31 - 1))
    refused = [name for name, value in wanted if mallopt(name, value) != 1]
    return not refused
