"""Settings of this process that models run under."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dragoman.config import RunConfig


def use_settings(run: RunConfig) -> None:
    """Take the number of threads, where a run names one, and the precision of float32 products."""
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    torch.set_float32_matmul_precision(run.matmul_precision)


@contextmanager
def settings_kept() -> Iterator[None]:
    """Whatever is set within, threads and precision are what they were behind it; for functions too."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
