"""What a run leaves behind: metrics that merge exactly, recorded rollouts, compute spent, the run folder."""

from __future__ import annotations

from dragoman.observe.flops import Flops, transformer_flops
from dragoman.observe.metrics import Metrics, Ratio
from dragoman.observe.records import Record, read_records, write_records
from dragoman.observe.run import RunDirectory, finite, read_metrics

__all__ = [
    "Flops",
    "Metrics",
    "Ratio",
    "Record",
    "RunDirectory",
    "finite",
    "read_metrics",
    "read_records",
    "transformer_flops",
    "write_records",
]
