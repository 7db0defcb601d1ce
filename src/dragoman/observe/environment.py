"""What a run ran on: enough to reproduce it, nothing that names a person, a machine or a folder."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_OPENMP = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_PACKAGES = (
    "dragoman",
    "accelerate",
    "datasets",
    "numpy",
    "peft",
    "pydantic",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)


def describe_environment() -> dict[str, Any]:
    """Versions, processor, memory (bytes), threads and commit, ready for JSON.

    PyTorch is asked for its threads only if it is loaded already.
    """
    import psutil

    torch = sys.modules.get("torch")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cpus": os.cpu_count(),
        "cpus_available": available_cpus(),
        "memory_bytes": psutil.virtual_memory().total,
        "torch_threads": torch.get_num_threads() if torch is not None else None,
        "openmp": {name: os.environ[name] for name in _OPENMP if name in os.environ},
        "commit": _commit(),
    }


def available_cpus(
    groups: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> int:
    """Processors that this process may use: those it is bound to, as far as the quotas of its control groups
    (Linux, cgroups v2) last for them; a started one counts."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *_quotas(groups, membership)]))


def _quotas(groups: Path, membership: Path) -> Iterator[int]:
    """The processors that each control group of this process may keep busy, of those with a limit."""
    lines = membership.read_text().splitlines() if membership.is_file() else []
    own = [line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    for group in (groups / name for name in own):
        for folder in (group, *group.parents):
            limit = folder / "cpu.max"
            if folder.is_relative_to(groups) and limit.is_file():
                quota, period = limit.read_text().split()
                if quota != "max":
                    yield math.ceil(int(quota) / int(period))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the working directory, with `-dirty` if files differ from it; None outside git."""
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
