"""How many threads pay, by measurement: for sampling, with products of a few rows, and for everything else.

Threads that wait for each other at every small product can make sampling slower than one thread does, most of
all on a busy machine; updates, with hundreds of rows, gain from each processor. So both kinds of work are
timed for 1, 2, 4 and so on threads, in turns, so that a disturbance meets all of them. A sum over
threads may differ in the last bits from that of another number: the choice is recorded with the run, and a
resumed run takes it over.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch
from accelerate.utils import broadcast_object_list
from torch import nn

from dragoman.models.onednn import fast_linears, fastest_linears
from dragoman.observe.environment import available_cpus
from dragoman.rollout import Request
from dragoman.train.machine import layer_widths
from dragoman.types import Rollout

if TYPE_CHECKING:
    from dragoman.train.setup import Session

GAIN = 0.9
"""Share of the time of fewer threads that more threads may take at most."""
ROUNDS = 9
SECONDS = 0.4
"""Of one kind of work, after which no further round begins."""
MOST_WIDTH, MOST_WIDE = 768, 1536
"""Of the layers that are timed, whatever the student has: larger products gain from threads all the more."""
LAYER_VALUES = 2**24
"""Weights of all layers together: 64 MB in float32, more than a cache of one core holds."""
MOST_LAYERS = 32
ROWS = 512
"""Of a product like those of an update."""


@dataclass(frozen=True, kw_only=True)
class Threads:
    """Threads within an operation while responses are sampled, and at all other times; None leaves the number
    that torch has."""

    sampling: int | None = None
    other: int | None = None


@dataclass(frozen=True, kw_only=True)
class Timed:
    """Seconds of each kind of work by number of threads, and its operations."""

    sampling: Mapping[int, float]
    other: Mapping[int, float]
    sampling_flops: int
    other_flops: int

    @property
    def best(self) -> Threads:
        """The number that pays for each kind."""
        return Threads(sampling=fewest(self.sampling), other=fewest(self.other))


@contextmanager
def using(count: int | None) -> Iterator[None]:
    """That many threads within the block; None leaves the number as it is."""
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fewest(seconds: Mapping[int, float]) -> int:
    """The number of threads that pays, of times by number: a larger one has to save a tenth of the time.

    >>> fewest({1: 1.0, 2: 0.95, 4: 0.5, 8: 0.48})
    4
    """
    best = min(seconds)
    for count in sorted(seconds):
        if seconds[count] <= GAIN * seconds[best]:
            best = count
    return best


def counts(most: int) -> list[int]:
    """1, 2, 4 and so on, and `most`."""
    return sorted({min(2**power, most) for power in range(most.bit_length() + 1)})


def most_threads() -> int:
    """Threads that this process may have at most: a processor each, of its share where launched with others
    on the machine, and no more than torch, `OMP_NUM_THREADS` or the caller has set."""
    share = available_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(share, torch.get_num_threads()))


def time_threads(*, width: int, wide: int, rows: int, dtype: torch.dtype) -> Timed:
    """Time layers like those of a model `width` values wide, `wide` within a layer: all of them on `rows`
    rows, as in sampling, and one of them on `ROWS` rows. Takes a second or two, and 128 MB."""
    width, wide = min(width, MOST_WIDTH), min(wide, MOST_WIDE)
    size = 2 * width * (width + wide)
    depth = min(max(1, LAYER_VALUES // size), MOST_LAYERS)
    layers = nn.Sequential(*(_layer(width, wide, dtype) for _ in range(depth)))
    few, many = (torch.ones(number, width, dtype=dtype) for number in (rows, ROWS))
    with torch.no_grad(), fast_linears(layers, packed=True):
        sampling = alternated(lambda: layers(few), counts(most_threads()))
    with torch.no_grad(), fastest_linears(layers[0]):
        other = alternated(lambda: layers[0](many), counts(most_threads()))
    return Timed(
        sampling=sampling,
        other=other,
        sampling_flops=2 * rows * size * len(layers),
        other_flops=2 * ROWS * size,
    )


def alternated(
    work: Callable[[], object], numbers: Sequence[int], clock: Callable[[], float] = time.perf_counter
) -> dict[int, float]:
    """The median time of some work by number of threads, in `ROUNDS` rounds, or fewer that last `SECONDS`."""
    began = clock()
    work()
    taken: dict[int, list[float]] = {number: [] for number in numbers}
    for _ in range(ROUNDS):
        for number in numbers:
            with using(number):
                work()  # threads are started, and stopped, on the way
                start = clock()
                work()
                taken[number].append(clock() - start)
        if clock() - began > SECONDS:
            break
    return {number: median(times) for number, times in taken.items()}


def _layer(width: int, wide: int, dtype: torch.dtype) -> nn.Module:
    """The products of a layer of a transformer that are not between keys and queries; nothing is drawn."""
    shapes = ((width, width), (width, width), (width, wide), (wide, width))
    linears = [nn.Linear(*shape, bias=False, dtype=dtype, device="meta") for shape in shapes]
    layer = nn.Sequential(nn.LayerNorm(width, dtype=dtype), *linears[:3], nn.SiLU(), linears[3])
    layer.to_empty(device="cpu")
    for weight in layer.parameters():
        nn.init.constant_(weight, 1.0 / width)
    return layer


def tuned(session: Session, known: Threads | None = None) -> Session:
    """The session with the numbers of threads that pay, measured now unless `known` from the start of a run;
    as it is where `run.threads` says the number, or the device is no CPU.

    All processes take what the first one has found. With `train.max_staleness` one number serves for all, as
    a second thread is at work while responses are sampled.
    """
    if session.config.run.threads is not None or session.accelerator.device.type != "cpu":
        return session
    chosen = [known or _measured(session) if session.accelerator.is_main_process else Threads()]
    threads: Threads = broadcast_object_list(chosen)[0]
    if session.config.train.max_staleness:
        threads = replace(threads, sampling=threads.other)
    held, forward = session.heldout_pipeline, session.forward
    pipeline = session.pipeline
    if session.config.rollout.engine == "sample":
        pipeline = replace(pipeline, engine=_Sampling(pipeline.engine.rollouts, threads.sampling))
    if forward is not None:
        forward = replace(forward, write=_Sampling(forward.write, threads.sampling).rollouts)
    return replace(
        session,
        threads=threads,
        pipeline=pipeline,
        heldout_pipeline=replace(held, engine=_Sampling(held.engine.rollouts, threads.sampling)),
        forward=forward,
    )


class _Sampling:
    """A `RolloutEngine` that has its own number of threads."""

    def __init__(self, write: Callable[..., list[Rollout]], count: int | None) -> None:
        self._write = write
        self._count = count

    def rollouts(self, requests: Sequence[Request], *, seed: int, step: int) -> list[Rollout]:
        with using(self._count):
            return self._write(requests, seed=seed, step=step)


def _measured(session: Session) -> Threads:
    """Nothing is measured where there is nothing to choose from."""
    if most_threads() == 1:
        return Threads(sampling=1, other=1)
    width, wide = layer_widths(session.model)
    rows = session.config.rollout.batch_size
    return time_threads(width=width, wide=wide, rows=rows, dtype=session.model.dtype).best


def recorded_threads(run: Path) -> Threads | None:
    """What a run has written of its threads to `env.json`; None where it has not."""
    try:
        written = json.loads((run / "env.json").read_text(encoding="utf-8"))["threads"]
    except (OSError, ValueError, KeyError):
        return None
    found = Threads(**written)
    return None if found == Threads() else found
