"""How threads wait for each other: what OpenMP reads once, when torch is imported."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping

import psutil

SPINS = 10_000
"""Rounds that a thread waits awake before it sleeps, some tenths of a millisecond (decision 0022)."""
IDLE_CORES = 0.25
"""Cores in use, at most, of a machine that is called idle."""
_LOOK = 0.1
"""Seconds of looking at the machine."""


def prepare() -> None:
    """Set the environment of this process. To be called before torch is imported."""
    os.environ.update(waiting(os.environ))


def waiting(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables for a process with this environment; none where the user has set one of them.

    Waking a thread that sleeps takes longer than a small product, so threads stay awake for a moment on an
    idle machine; beside others' work they sleep at once, as those that wait awake would keep each other from
    running.
    """
    if not environ.keys().isdisjoint(("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")):
        return {}
    has_several = environ.get("OMP_NUM_THREADS") != "1"
    if has_several and sys.platform == "linux" and busy_cores() <= IDLE_CORES:
        # The second is that of another OpenMP than torch's wheels have, which would stay awake for 200 ms
        return {"GOMP_SPINCOUNT": str(SPINS), "KMP_BLOCKTIME": "0"}
    return {"OMP_WAIT_POLICY": "PASSIVE"}


def busy_cores() -> float:
    """Cores in use by whatever runs on the machine while this process sleeps for a moment; infinite where the
    system does not tell."""
    try:
        return sum(psutil.cpu_percent(_LOOK, percpu=True)) / 100
    except (OSError, psutil.Error):
        return math.inf
