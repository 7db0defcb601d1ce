"""Whose matrix products are the fastest on this processor."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import torch

_CPUINFO = Path("/proc/cpuinfo")


@cache
def mkl_is_at_home() -> bool:
    """Whether torch's own products in float32 are MKL's on an Intel processor.

    There they pass oneDNN's for many rows (scoring took 15 % less time); on others MKL leaves the widest
    instructions unused (decisions 0013 and 0015). Asked of the processor, not measured, so that a run gives
    the same bits each time.
    """
    known = _CPUINFO.read_text(encoding="utf-8", errors="replace") if _CPUINFO.exists() else ""
    has_mkl: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    return has_mkl and "Intel" in (known or platform.processor())
