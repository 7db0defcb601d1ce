"""How fast a teacher scores: tokens a second, and the share of the machine's best matrix products.

    python benchmarks/teacher_scoring.py --json FILE --plot FILE

Ways, in turns in one process, who begins changing each time, on the same ids:

* `dragoman`: `score_spans`.
* `plain`: `model(ids).logits.float().log_softmax(-1)`, gathered at the scored tokens, in batches of as many
  tokens.

The peak is that of the model's own layers: every shape of its weights, as often as it occurs, times rows of a
batch, by the fastest of torch's product, oneDNN's, and oneDNN's with packed weights; measured in each turn
too, since a shared machine is not equally fast all the time. Operations counted are those that have to be
done: layers for all tokens that a way reads, head for those that are scored, causal attention (half a
square).

Jobs:

* `views`: different texts of `--tokens` tokens, half of them scored.
* `samples`: `--samples` responses to one prompt. `dragoman` reads the prompt once, `whole` is the same
  without that.

Then where the time goes, by torch's profiler; texts of 256 tokens up to `--longest`; and random models of one
layer with vocabularies of 1,024 to `--largest` ids.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import torch
from growth_plot import plot_growth
from memory import peak_of
from products import BATCH_TOKENS, best_products, clock, model_flops

from dragoman.assets import resolve
from dragoman.models import Span, TokenScorer, score_spans
from dragoman.models import sharing as sharing_module
from dragoman.observe.environment import describe_environment
from dragoman.padding import length_buckets, right_padded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RANDOM = "random-0.5b"
"""A Qwen 3 in the shape of Qwen2-0.5B, as in `step_vs_trl.py`."""
KINDS = {
    "products": ("linear", "mm", "addmm", "bmm"),
    "attention": ("scaled_dot_product", "_softmax"),
}
"""Operations by what is in their name; all others are passes over memory, element by element."""


Way = Callable[[TokenScorer, Sequence[Span]], Any]


def main(argv: list[str] | None = None) -> int:
    """Measure, print a line for each job, write everything with --json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    models = ["assets:smollm2-135m-instruct", "assets:gemma-3-270m", RANDOM]
    parser.add_argument("--models", nargs="*", default=models)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--texts", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--longest", type=int, default=4096, help="longest text of the growth; 0 is none")
    parser.add_argument("--largest", type=int, default=2**18, help="largest vocabulary; 0 is none")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each way")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    jobs = [job for name in args.models for job in measure_model(name, args)]
    growth = grow(args)
    if args.json:
        result = {
            "environment": describe_environment(),
            "threads": args.threads,
            "dtype": args.dtype,
            "repeats": args.repeats,
            "jobs": jobs,
            "growth": growth,
        }
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if args.plot:
        plot_growth(args.plot, growth, "milliseconds a token")
    return 0


def load(name: str, dtype: str) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

    precision = getattr(torch, dtype)
    if name != RANDOM:
        return AutoModelForCausalLM.from_pretrained(resolve(name), dtype=precision).eval()
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        head_dim=64,
        tie_word_embeddings=True,
        max_position_embeddings=2**18,
    )
    return Qwen3ForCausalLM(config).eval().to(precision)


# --- jobs


def texts(num: int, size: int, scored: int, num_ids: int, shared: int = 0) -> list[Span]:
    """Arbitrary ids whose last `scored` ones are to be scored; `shared` are the same in all."""
    rng = np.random.default_rng(0)
    ids = rng.integers(5, num_ids, (num, size))
    ids[:, :shared] = ids[0, :shared]
    return [Span(ids=row, start=size - scored, is_stop=np.zeros(scored, bool)) for row in ids]


def measure_model(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Both jobs of a model."""
    model = load(name, args.dtype)
    scorer = TokenScorer(model, [1])
    num_ids = model.config.get_text_config().vocab_size
    views = texts(args.texts, args.tokens, args.tokens // 2, num_ids)
    prompt = args.tokens // 2
    samples = texts(args.samples, prompt + args.new_tokens, args.new_tokens, num_ids, shared=prompt)
    found = []
    for job, spans, shared, ways in (
        ("views", views, 0, {"dragoman": ours, "plain": plain}),
        ("samples", samples, prompt, {"dragoman": ours, "whole": whole, "plain": plain}),
    ):
        figures = {"model": name, "job": job, **compared(scorer, spans, shared, ways, args)}
        if job == "views":
            figures["where"] = where(scorer, spans)
        show(figures)
        found.append(figures)
    return found


def ours(scorer: TokenScorer, spans: Sequence[Span]) -> list[np.ndarray]:
    return [found.logp for found in score_spans(scorer, spans, batch_tokens=16384)]


def whole(scorer: TokenScorer, spans: Sequence[Span]) -> list[np.ndarray]:
    with patch.object(sharing_module, "GROUP_COST", {"cpu": 2**62}):
        return ours(scorer, spans)


def plain(scorer: TokenScorer, spans: Sequence[Span]) -> list[np.ndarray]:
    found: dict[int, np.ndarray] = {}
    for bucket in length_buckets([len(span.ids) for span in spans], BATCH_TOKENS):
        ids, mask = (torch.from_numpy(values) for values in right_padded([spans[i].ids for i in bucket]))
        with torch.no_grad():
            table = scorer.model(input_ids=ids, attention_mask=mask).logits.float().log_softmax(-1)
            logp = table[:, :-1].gather(-1, ids[:, 1:, None])[..., 0].numpy()
        for row, index in enumerate(bucket):
            found[index] = logp[row, spans[index].start - 1 : len(spans[index].ids) - 1]
    return [found[index] for index in range(len(spans))]


def compared(
    scorer: TokenScorer, spans: Sequence[Span], shared: int, ways: dict[str, Way], args: argparse.Namespace
) -> dict[str, Any]:
    """Seconds, memory and share of the peak of each way; a first turn is not counted.

    `dragoman` reads the first `shared` tokens of all spans once.
    """
    model, names = scorer.model, list(ways)
    seconds: dict[str, list[float]] = {way: [] for way in names}
    peaks: list[float] = []
    found = {way: ways[way](scorer, spans) for way in names}
    for turn in range(args.repeats):
        peaks.append(best_products(model, spans))
        for way in names[turn % len(names) :] + names[: turn % len(names)]:
            began = clock()
            ways[way](scorer, spans)
            seconds[way].append(clock() - began)
    tokens = sum(len(span.ids) for span in spans)
    flops = {way: model_flops(model, spans, shared if way == "dragoman" else 0) for way in names}
    exact = np.concatenate(found["plain"])
    return {
        "tokens": tokens,
        "scored": len(exact),
        "seconds": seconds,
        "tokens_per_second": {way: tokens / median(times) for way, times in seconds.items()},
        "peak_bytes": {way: peak_of(lambda way=way: ways[way](scorer, spans)) for way in names},
        "largest_difference": float(max(abs(np.concatenate(found["dragoman"]) - exact))),
        "peak_flops": median(peaks),
        "share_of_peak": {
            way: median(flops[way] / took / peak for took, peak in zip(times, peaks, strict=True))
            for way, times in seconds.items()
        },
    }


def where(scorer: TokenScorer, spans: Sequence[Span]) -> dict[str, float]:
    """Share of the time of each kind of operation."""
    with torch.profiler.profile() as profile:
        ours(scorer, spans)
    spent: Counter[str] = Counter()
    for event in profile.key_averages():
        kinds = [kind for kind, names in KINDS.items() if any(name in event.key for name in names)]
        spent[kinds[0] if kinds else "element by element"] += event.self_cpu_time_total
    return {kind: time_spent / spent.total() for kind, time_spent in spent.items()}


def show(job: dict[str, Any]) -> None:
    shares, memory = job["share_of_peak"], job["peak_bytes"]
    peak = f"{job['peak_flops'] / 1e9:.0f} GFLOP/s"
    line = ", ".join(
        f"{way} {speed:.0f} ({shares[way]:.0%} of {peak}, {memory[way] / 2**20:.0f} MiB)"
        for way, speed in job["tokens_per_second"].items()
    )
    print(f"{job['model']:<30}{job['job']:<8} tokens a second: {line}")
    if "where" in job:
        print(" " * 30 + ", ".join(f"{kind} {share:.0%}" for kind, share in job["where"].items()))
    sys.stdout.flush()


# --- growth


def grow(args: argparse.Namespace) -> dict[str, dict[str, dict[int, float]]]:
    """Milliseconds a token, by length of a text of a model's first four layers, and by vocabulary."""
    lengths = [2**power for power in range(8, 18) if 2**power <= args.longest]
    sizes = [2**power for power in range(10, 19, 2) if 2**power <= args.largest]
    return {
        "length": by_way(lambda size: (small(4, 4096, args.dtype), size, 128), lengths, args.repeats),
        "vocabulary": by_way(lambda size: (small(1, size, args.dtype), 512, 256), sizes, args.repeats),
    }


def by_way(
    problem: Callable[[int], tuple[TokenScorer, int, int]], sizes: Sequence[int], repeats: int
) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {"dragoman": {}, "plain": {}}
    for size in sizes:
        scorer, length, scored = problem(size)
        spans = texts(1, length, scored, 1000)
        seconds: dict[str, list[float]] = {way: [] for way in found}
        for turn in range(repeats + 1):
            for way, work in (("dragoman", ours), ("plain", plain)):
                began = clock()
                work(scorer, spans)
                if turn:
                    seconds[way].append(clock() - began)
        for way, times in seconds.items():
            found[way][size] = 1e3 * median(times) / length
        print(f"{size:>8}  " + "  ".join(f"{way} {v[size]:.2f} ms" for way, v in found.items()), flush=True)
    return found


def small(num_layers: int, num_ids: int, dtype: str) -> TokenScorer:
    """A random model as wide as SmolLM2."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=num_ids,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=num_layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=2**18,
    )
    return TokenScorer(LlamaForCausalLM(config).eval().to(getattr(torch, dtype)), [1])


if __name__ == "__main__":
    sys.exit(main())
