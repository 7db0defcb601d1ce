"""What a run ran on: enough to reproduce it, nothing that names a person, a machine or a folder."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from typing import Any

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
        "memory_bytes": psutil.virtual_memory().total,
        "torch_threads": torch.get_num_threads() if torch is not None else None,
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "commit": _commit(),
    }


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
