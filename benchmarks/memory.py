"""The most memory a piece of work holds beyond what was there before it (Linux)."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")


def peak_of(work: Callable[[], object]) -> int:
    """Bytes of resident memory at the highest, less those before."""
    forget_peak()
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before


def forget_peak() -> None:
    """From now on `VmHWM` is the most of what comes; see proc_pid_clear_refs(5)."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    CLEAR_REFS.write_text("5")


def resident(name: str) -> int:
    """A line of the process's status, in bytes."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)
