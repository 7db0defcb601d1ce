"""Settings of this process that models run under."""

from __future__ import annotations

import torch

from dragoman.config import RunConfig


def use_settings(run: RunConfig) -> None:
    """Take the number of threads, where a run names one, and the precision of float32 products."""
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    torch.set_float32_matmul_precision(run.matmul_precision)
