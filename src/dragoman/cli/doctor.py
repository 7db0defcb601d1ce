"""`dragoman doctor`."""

from __future__ import annotations

import json
import time
from typing import Any

import click


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

    speeds = _matmul_speeds()
    fastest = max(speeds, key=lambda threads: speeds[threads])
    return {
        **describe_environment(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["cpu"],
        "threads_in_use": torch.get_num_threads(),
        "matmul_gflops": {f"{threads} threads": round(speed, 1) for threads, speed in speeds.items()},
        "advice": f"run.threads={fastest} was fastest just now; measure again when the machine is idle",
        "assets": [name for name in CATALOGUE if is_present(name)],
    }


def _matmul_speeds(size: int = 1024, repeats: int = 5) -> dict[int, float]:
    """Best of `repeats` float32 products of two size x size matrices, in GFLOP/s, by thread count."""
    import torch

    before = torch.get_num_threads()
    matrix = torch.ones(size, size)
    speeds = {}
    for threads in sorted({1, before}):
        torch.set_num_threads(threads)
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            matrix @ matrix
            seconds.append(time.perf_counter() - start)
        speeds[threads] = 2 * size**3 / min(seconds) / 1e9
    torch.set_num_threads(before)
    return speeds
