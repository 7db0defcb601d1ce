"""`dragoman doctor`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

_WIDTH, _WIDE, _ROWS = 576, 1536, 8
"""Of a student of 135M parameters that writes eight responses at once."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def doctor(as_json: bool) -> None:
    """Look at the machine: versions, devices, memory, threads and how fast they really are."""
    facts = _facts()
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            click.echo(name)
            for key, item in value.items():
                click.echo(f"    {key:20} {item}")
        else:
            click.echo(f"{name:24} {value}")


def _facts() -> dict[str, Any]:
    import torch

    from dragoman.assets import CATALOGUE, is_present
    from dragoman.observe.environment import describe_environment
    from dragoman.train.threads import time_threads

    timed = time_threads(width=_WIDTH, wide=_WIDE, rows=_ROWS, dtype=torch.float32)
    return {
        **describe_environment(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["cpu"],
        "threads_chosen": asdict(timed.best),
        "sampling_gflops": _speeds(timed.sampling, timed.sampling_flops),
        "other_gflops": _speeds(timed.other, timed.other_flops),
        "advice": "chosen anew at the start of each run; set run.threads for runs equal to the last bit, and "
        "measure again when the machine is idle",
        "assets": [name for name in CATALOGUE if is_present(name)],
    }


def _speeds(seconds: Mapping[int, float], flops: int) -> dict[str, float]:
    """GFLOP/s by number of threads."""
    return {f"{threads} threads": round(flops / taken / 1e9, 1) for threads, taken in seconds.items()}
