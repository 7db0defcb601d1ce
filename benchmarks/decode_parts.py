"""What a step of decoding one row consists of: bytes that it must read, and where its time goes.

A step reads all weights but an embedding that is looked up, and the keys and values of the row. The share of
time is by torch's profiler, of the steps it watches: products, attention, other operations, and what is left,
which is Python: transformers' modules, the cache, the compiler's checks. The profiler makes all but products
look larger than they are, so shares are upper bounds for these; the time of a step is measured without it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch.profiler import ProfilerActivity, profile

from dragoman.rollout import Sampling
from dragoman.rollout.decoder import Decoder, Job, _Batch
from dragoman.train.machine import measure_peaks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PRODUCTS = {"mkldnn::_linear_pointwise", "aten::addmm", "aten::mm", "aten::mv", "aten::addmv", "aten::matmul"}
ATTENTION = "scaled_dot_product"


def parts(model: PreTrainedModel, jobs: Sequence[Job], stop: int, *, compile: bool) -> dict[str, Any]:
    """Of the steps behind one prompt: seconds, bytes read a second, and shares of the profiled time."""
    decoder = Decoder(
        model, [stop], Sampling(max_new_tokens=64, batch_size=1, compile=compile), lambda i: b""
    )
    decoder.run(jobs)
    with watched() as seconds:
        decoder.run(jobs)
    step = median(seconds)
    peaks = measure_peaks(model.device, torch.float32, width=1024, wide=1024)
    read = weight_bytes(model) + cache_bytes(model, jobs[0])
    return {
        "compile": compile,
        "step_seconds": step,
        "bytes_a_step": read,
        "read_per_second": read / step,
        "copy_per_second": peaks.copy_bytes,
        "share_of_copy": read / step / peaks.copy_bytes,
        "shares": shares(decoder, jobs),
    }


@contextmanager
def watched() -> Iterator[list[float]]:
    """Seconds of every step within the block."""
    found: list[float] = []
    own = _Batch.step

    def step(self: _Batch) -> torch.Tensor:
        began = time.perf_counter()
        logits = own(self)
        found.append(time.perf_counter() - began)
        return logits

    _Batch.step = step  # type: ignore[method-assign]
    try:
        yield found
    finally:
        _Batch.step = own  # type: ignore[method-assign]


def weight_bytes(model: PreTrainedModel) -> int:
    """Of all weights, each once, but a table that is only looked up."""
    table = model.get_input_embeddings().weight
    unread = 0 if model.get_output_embeddings().weight is table else table.numel()
    return int(model.dtype.itemsize * (sum(p.numel() for p in model.parameters()) - unread))


def cache_bytes(model: PreTrainedModel, job: Job) -> int:
    """Of keys and values, half of the response written."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    columns = len(job.context) + job.limit // 2
    return int(2 * model.dtype.itemsize * config.num_hidden_layers * heads * width * columns)


def shares(decoder: Decoder, jobs: Sequence[Job]) -> dict[str, float]:
    """Of the time of steps under the profiler."""
    found: dict[str, float] = {"products": 0.0, "attention": 0.0, "other operations": 0.0}
    own, wall = _Batch.step, 0.0

    def step(self: _Batch) -> torch.Tensor:
        nonlocal wall
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            began = time.perf_counter()
            logits = own(self)
            wall += time.perf_counter() - began
        for event in profiler.key_averages():
            kind = "other operations"
            if event.key in PRODUCTS:
                kind = "products"
            elif ATTENTION in event.key:
                kind = "attention"
            elif not event.key.startswith("aten::"):
                continue  # regions of the compiler, which hold operations and Python alike
            found[kind] += event.self_cpu_time_total / 1e6
        return logits

    _Batch.step = step  # type: ignore[method-assign]
    try:
        decoder.run([job._replace(limit=min(job.limit, 9)) for job in jobs])
    finally:
        _Batch.step = own  # type: ignore[method-assign]
    found["python and compiled kernels"] = wall - sum(found.values())
    return {name: value / wall for name, value in found.items()}


def show_parts(found: dict[str, Any]) -> None:
    """Two lines."""
    way = "compiled" if found["compile"] else "not compiled"
    read, copy = found["read_per_second"] / 1e9, found["copy_per_second"] / 1e9
    print(
        f"       {way}: {1e3 * found['step_seconds']:.1f} ms a step, {read:.1f} GB/s of weights and cache, "
        f"{found['share_of_copy']:.0%} of the {copy:.1f} that a copy moves"
    )
    line = ", ".join(f"{name} {share:.0%}" for name, share in found["shares"].items())
    print(f"       of a step watched by the profiler: {line}", flush=True)
