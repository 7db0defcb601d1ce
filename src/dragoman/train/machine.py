"""What a device can do at best, and the memory that work on it has held."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dragoman.audit.cost import seconds_when_done
from dragoman.models.loading import causal_lm
from dragoman.models.onednn import linear

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """Operations and bytes a second: of a large matrix product, and of a copy (bytes read and written)."""

    matmul_flops: float
    copy_bytes: float


def measure_peaks(
    device: torch.device, dtype: torch.dtype, *, width: int, wide: int, repeats: int = 5
) -> Peaks:
    """The best of some products [1024, width] x [width, wide], torch's and oneDNN's, and of some copies of
    256 MB."""
    left = torch.ones(1024, width, device=device, dtype=dtype)
    weight = torch.ones(wide, width, device=device, dtype=dtype)
    products = (lambda: left @ weight.T, lambda: linear(left, weight, None))
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    with torch.no_grad():
        product = min(_seconds(work, device) for work in products for _ in range(repeats))
    copy = min(_seconds(lambda: target.copy_(source), device) for _ in range(repeats))
    return Peaks(matmul_flops=2 * 1024 * width * wide / product, copy_bytes=2 * 4 * source.numel() / copy)


def layer_widths(model: Any) -> tuple[int, int]:
    """How wide a model's hidden states are, and how wide its layers within."""
    config = causal_lm(model).config.get_text_config()
    wide = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return config.hidden_size, wide


def forget_peak(device: torch.device) -> None:
    """From now on `peak_memory` is that of what comes, where the system can be told so (CUDA, Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif os.access(_CLEAR_REFS, os.W_OK):
        _CLEAR_REFS.write_text("5")  # proc_pid_clear_refs(5)


def peak_memory(device: torch.device) -> int:
    """Bytes held at the highest: of the accelerator, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    began = seconds_when_done(device)
    work()
    return seconds_when_done(device) - began
