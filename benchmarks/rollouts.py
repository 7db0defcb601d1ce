"""How fast responses are sampled: dragoman's decoder against `generate` of transformers.

    python benchmarks/rollouts.py --json FILE --plot FILE

For every number of rows the two take turns in one process, who begins changing each time, on the same prompts
and limits. Reported are medians of tokens a second and the ratio of them. Ways:

* `dragoman`: responses with log-probs, entropies and stop mass at the time of sampling.
* `dragoman, compiled`: the same with `rollout.compile: true`.
* `generate`: `model.generate(do_sample=True)`, ids alone.
* `generate, scored`: the same, and a pass over what was written for the log-probs that training needs.

Jobs:

* `equal`: different prompts of 32 tokens, all responses as long as `--new-tokens`. For one row it is said how
  fast weights and cache are read, how fast memory is copied, and where a step's time goes.
* `uneven`: twice as many responses as rows, whose lengths vary from an eighth to the whole; `generate` takes
  them in two batches, in the order given.
* `shared`: all rows continue one prompt of `--prompt-tokens` tokens.

Then a token of four rows behind contexts of 256 tokens up to `--longest`, and of random models of one layer
with vocabularies of 1,024 to `--largest` ids. Stops are suppressed, so that both write as many tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from decode_parts import parts, show_parts
from growth_plot import plot_growth

from dragoman.assets import resolve
from dragoman.models import Span, TokenScorer, score_spans
from dragoman.observe.environment import describe_environment
from dragoman.padding import left_padded
from dragoman.rollout import Sampling
from dragoman.rollout.decoder import Decoder, Job

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LIMITS = (2, 34)
"""New tokens of the two runs whose difference is the growth's."""
STOP = 0
"""The only stop id, whose logit is always -inf."""


def main(argv: list[str] | None = None) -> int:
    """Measure, print one line for each job, write with --json what there is after each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", default="assets:smollm2-135m-instruct")
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 8, 16])
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument(
        "--longest", type=int, default=2048, help="longest context of the growth; 0 leaves it out"
    )
    parser.add_argument("--largest", type=int, default=2**18, help="largest vocabulary; 0 leaves it out")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each way")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    model = load(args.model)
    result: dict[str, Any] = {
        "environment": describe_environment(),
        "model": args.model,
        "threads": args.threads,
        "repeats": args.repeats,
        "jobs": [],
        "growth": {},
    }
    for rows in args.rows:
        for name, make in JOBS.items():
            result["jobs"].append(measure(model, name, make(rows, args), rows, args.repeats))
            save(args.json, result)
    result["growth"] = grow(model, args)
    save(args.json, result)
    if args.plot:
        plot_growth(args.plot, result["growth"], "milliseconds a token")
    return 0


def save(file: Path | None, result: dict[str, Any]) -> None:
    if file is not None:
        file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def load(name: str) -> PreTrainedModel:
    """In float32, its stop impossible."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(resolve(name), dtype=torch.float32).eval()
    return without_stop(model)


def without_stop(model: PreTrainedModel) -> PreTrainedModel:
    """The model with a stop that it never writes."""

    def suppress(module: object, given: object, logits: torch.Tensor) -> torch.Tensor:
        logits[..., STOP] = -torch.inf
        return logits

    model.get_output_embeddings().register_forward_hook(suppress)
    return model


# --- jobs


def contexts(num: int, size: int) -> list[np.ndarray]:
    """Prompts of arbitrary ids."""
    rng = np.random.default_rng(0)
    return [rng.integers(5, 900, size) for _ in range(num)]


def equal(rows: int, args: argparse.Namespace) -> list[Job]:
    return [Job(ids, args.new_tokens, seed) for seed, ids in enumerate(contexts(rows, 32))]


def uneven(rows: int, args: argparse.Namespace) -> list[Job]:
    shares = np.random.default_rng(1).permutation(np.linspace(0.125, 1.0, 2 * rows))
    limits = np.maximum(1, (shares * args.new_tokens).astype(int)).tolist()
    return [
        Job(ids, limit, seed)
        for seed, (ids, limit) in enumerate(zip(contexts(2 * rows, 32), limits, strict=True))
    ]


def shared(rows: int, args: argparse.Namespace) -> list[Job]:
    return [Job(contexts(1, args.prompt_tokens)[0], args.new_tokens, seed) for seed in range(rows)]


JOBS: dict[str, Callable[[int, argparse.Namespace], list[Job]]] = {
    "equal": equal,
    "uneven": uneven,
    "shared": shared,
}


# --- ways


def by_dragoman(model: PreTrainedModel, jobs: Sequence[Job], rows: int, compile: bool = False) -> None:
    sampling = Sampling(max_new_tokens=max(job.limit for job in jobs), batch_size=rows, compile=compile)
    found = Decoder(model, [STOP], sampling, lambda index: b"").run(jobs)
    assert [len(draws.ids) for draws in found] == [job.limit for job in jobs]


def by_generate(model: PreTrainedModel, jobs: Sequence[Job], rows: int) -> list[np.ndarray]:
    """Whole sequences. A batch is written up to the longest of its limits, the rest of a row thrown away."""
    found = []
    for first in range(0, len(jobs), rows):
        batch = jobs[first : first + rows]
        ids, mask = (torch.from_numpy(v) for v in left_padded([job.context for job in batch], STOP))
        written = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            top_p=1.0,
            max_new_tokens=max(job.limit for job in batch),
            pad_token_id=STOP,
            eos_token_id=STOP,
        )
        for job, row in zip(batch, written.numpy(), strict=True):
            end = ids.shape[1] + job.limit
            found.append(row[ids.shape[1] - len(job.context) : end])
    return found


def by_generate_scored(model: PreTrainedModel, jobs: Sequence[Job], rows: int) -> None:
    written = by_generate(model, jobs, rows)
    spans = [
        Span(ids=ids, start=len(job.context), is_stop=np.zeros(job.limit, bool))
        for ids, job in zip(written, jobs, strict=True)
    ]
    score_spans(TokenScorer(model, [STOP]), spans, batch_tokens=4096)


WAYS: dict[str, Callable[[PreTrainedModel, Sequence[Job], int], Any]] = {
    "dragoman": by_dragoman,
    "dragoman, compiled": partial(by_dragoman, compile=True),
    "generate": by_generate,
    "generate, scored": by_generate_scored,
}


def measure(
    model: PreTrainedModel, name: str, jobs: Sequence[Job], rows: int, repeats: int
) -> dict[str, Any]:
    """Tokens a second of each way; a first turn is not counted."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    names = list(WAYS)
    for turn in range(repeats + 1):
        for way in names[turn % len(names) :] + names[: turn % len(names)]:
            torch.manual_seed(turn)
            began = time.perf_counter()
            WAYS[way](model, jobs, rows)
            if turn:
                seconds[way].append(time.perf_counter() - began)
    tokens = sum(job.limit for job in jobs)
    found: dict[str, Any] = {
        "job": name,
        "rows": rows,
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": {way: tokens / median(times) for way, times in seconds.items()},
    }
    if name == "equal" and rows == 1:
        found["parts"] = [parts(model, jobs, STOP, compile=compile) for compile in (False, True)]
    show(found)
    return found


def show(found: dict[str, Any]) -> None:
    speeds = found["tokens_per_second"]
    line = ", ".join(f"{way} {speed:.1f}" for way, speed in speeds.items())
    ratio = speeds["dragoman"] / speeds["generate"]
    print(f"{found['job']:<7}{found['rows']:>4} rows  tokens a second: {line}  ({ratio:.2f} times generate)")
    for part in found.get("parts", ()):
        show_parts(part)
    sys.stdout.flush()


# --- growth


def grow(model: PreTrainedModel, args: argparse.Namespace) -> dict[str, dict[str, dict[int, float]]]:
    """Milliseconds a token of four rows, by length of the context and size of the vocabulary."""
    lengths = [2**power for power in range(8, 18) if 2**power <= args.longest]
    sizes = [2**power for power in range(10, 19, 2) if 2**power <= args.largest]
    return {
        "context": by_way(lambda size: (model, size), lengths, args.repeats),
        "vocabulary": by_way(lambda size: (one_layer(size), 32), sizes, args.repeats),
    }


def by_way(
    problem: Callable[[int], tuple[PreTrainedModel, int]], sizes: Sequence[int], repeats: int
) -> dict[str, dict[int, float]]:
    """Time of a token behind a context that has been read: the difference of two limits, far enough apart to
    stand out from how much reading takes. A first turn is not counted."""
    found: dict[str, dict[int, float]] = {"dragoman": {}, "generate": {}}
    for size in sizes:
        model, length = problem(size)
        prompt = contexts(1, length)[0]
        seconds: dict[str, list[float]] = {way: [] for way in found}
        for turn in range(repeats + 1):
            for way in found:
                took = [timed(WAYS[way], model, prompt, limit) for limit in LIMITS]
                if turn:
                    seconds[way].append((took[1] - took[0]) / (LIMITS[1] - LIMITS[0]))
        for way, times in seconds.items():
            found[way][size] = 1e3 * median(times)
        print(
            f"{size:>8}  " + "  ".join(f"{way} {values[size]:.1f} ms" for way, values in found.items()),
            flush=True,
        )
    return found


def timed(way: Callable[..., Any], model: PreTrainedModel, prompt: np.ndarray, limit: int) -> float:
    jobs = [Job(prompt, limit, seed) for seed in range(4)]
    began = time.perf_counter()
    way(model, jobs, 4)
    return time.perf_counter() - began


def one_layer(num_ids: int) -> PreTrainedModel:
    """A random model of one narrow layer, in which the vocabulary is what costs."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=num_ids, hidden_size=256, intermediate_size=256, num_hidden_layers=1, num_attention_heads=4
    )
    return without_stop(LlamaForCausalLM(config).eval())


if __name__ == "__main__":
    sys.exit(main())
