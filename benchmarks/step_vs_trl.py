"""A whole training step against that of TRL's GOLD trainer, on a pair that GOLD takes.

    python benchmarks/step_vs_trl.py --json benchmarks/results/step_vs_trl.json

The student is SmolLM2-135M-Instruct, the teacher a Qwen 3 of 0.5B parameters with random weights and the
Qwen 3 tokenizer (byte-level, as GOLD asks for): time does not depend on what the weights are. Both sides
train all of the student's weights in float32 with AdamW on the same prompts, in batches of the same size,
with the same limit of new tokens and number of threads. GOLD runs in an environment of its own (`.venv-trl`,
made on first use). Each side is a process that has everything loaded (`step_worker.py`); steps alternate, and
who begins changes each time. The first step of each side is not counted. How threads wait on both sides is
what dragoman's command line chooses when the benchmark begins, unless `OMP_WAIT_POLICY` or `GOMP_SPINCOUNT`
is set.

Both write with their own random numbers, so lengths differ a little; the tokens of each are reported. Memory
is the most that a process holds during a step, weights and optimiser included.

Of dragoman's side it also says how fast scoring and update were, and what share that is of the fastest
matrix products of the models' own shapes, measured at the end; an update's are those of its batches and both
gradients.

`--sentencepiece` adds dragoman's step with Gemma 3 270M, which GOLD refuses, and says what it takes per
operation of the teacher, in ratio to the step with the byte-level one: all of it, and the teacher's stage. A
step also samples and updates, which take no less time with a smaller teacher, so that the first ratio is more
than 1 for one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from align_speed import trl_python
from worker_process import WorkerProcess

from dragoman.assets import resolve
from dragoman.cli.process import waiting
from dragoman.config.schema import MICRO_BATCH_TOKENS
from dragoman.observe.environment import describe_environment

ROOT = Path(__file__).parents[1]
GEMMA = " gemma"
"""What the name of a side with the SentencePiece teacher ends with."""
TOPICS = (
    "a lighthouse keeper who finds a letter",
    "how bread is made, from the field to the table",
    "the rules of chess for a child",
    "a journey by train across a country in winter",
    "why the sky changes its colour in the evening",
    "the life of a river from its spring to the sea",
    "a market in an old town on a Saturday morning",
    "how to take care of a vegetable garden",
)


def main(argv: list[str] | None = None) -> int:
    """Measure, print a table, write everything with --json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--student", default="assets:smollm2-135m-instruct")
    parser.add_argument("--teacher", type=Path, help="folder; default: random weights, made on first use")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5, help="counted steps of each side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--methods", nargs="+", default=["span"], help="dragoman's side, once for each")
    parser.add_argument("--no-trl", action="store_true", help="dragoman's side only")
    parser.add_argument("--hybrid", action="store_true", help="GOLD's hybrid loss in place of ULD")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="on both sides")
    parser.add_argument("--sentencepiece", action="store_true", help="also with assets:gemma-3-270m")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=JSON", help="settings of dragoman")
    parser.add_argument("--trl-environment", type=Path, default=ROOT / ".venv-trl")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "bench-step")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    teacher = args.teacher or random_teacher(args.work / "teacher")
    openmp = waiting({**os.environ, "OMP_NUM_THREADS": str(args.threads)})
    workers = start(args, teacher, openmp)
    steps: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    names = list(workers)
    for turn in range(args.repeats + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            found = workers[name].ask()
            print(
                f"{turn}  {name:<22}{found['seconds']:7.1f} s{found['peak_bytes'] / 2**20:8.0f} MB",
                file=sys.stderr,
            )
            if turn:
                steps[name].append(found)
    result = {
        "environment": describe_environment(),
        "settings": {key: value for key, value in vars(args).items() if not isinstance(value, Path)},
        "openmp": openmp,
        "sides": {name: side_result(workers[name], steps[name]) for name in workers},
    }
    for worker in workers.values():
        worker.close()
    for name, side in result["sides"].items():
        if name.startswith("dragoman"):
            scored_by = Path(resolve("assets:gemma-3-270m")) if name.endswith(GEMMA) else teacher
            side["products"] = products(side, args.student, scored_by, args.threads)
    show(result["sides"])
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def random_teacher(folder: Path) -> Path:
    """A Qwen 3 in the shape of Qwen2-0.5B (24 layers of width 896), random weights, and its tokenizer."""
    if (folder / "model.safetensors").is_file():
        return folder
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    print(f"making a random teacher in {folder} (2 GB)", file=sys.stderr)
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
        max_position_embeddings=32_768,
        bos_token_id=151_643,
        eos_token_id=151_645,
    )
    AutoTokenizer.from_pretrained(resolve("assets:qwen3")).save_pretrained(folder)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def start(args: argparse.Namespace, teacher: Path, openmp: Mapping[str, str]) -> dict[str, WorkerProcess]:
    """All sides, each with its models loaded. `openmp` are variables of their environment."""
    sides: dict[str, tuple[str, Path, dict[str, Any]]] = {}
    if not args.no_trl:
        sides["GOLD"] = ("trl", trl_python(args.trl_environment), {})
    for method in args.methods:
        sides[f"dragoman {method}"] = ("dragoman", Path(sys.executable), {"method": method})
        if args.sentencepiece:
            gemma = {"method": method, "teacher": "assets:gemma-3-270m"}
            sides[f"dragoman {method}{GEMMA}"] = ("dragoman", Path(sys.executable), gemma)
    overrides: dict[str, Any] = {
        key: json.loads(value) for key, value in (one.split("=", 1) for one in args.set)
    }
    if args.gradient_checkpointing:
        overrides["student.gradient_checkpointing"] = True
    common = {
        "student": args.student,
        "student_folder": str(resolve(args.student)),
        "teacher": str(teacher),
        "batch": args.batch,
        "new_tokens": args.new_tokens,
        "threads": args.threads,
        "hybrid": args.hybrid,
        "gradient_checkpointing": args.gradient_checkpointing,
        "lr": 1e-6,
        "prompts": [
            f"Write a long text about {TOPICS[i % len(TOPICS)]}. Part {i}." for i in range(args.batch)
        ],
        "overrides": overrides,
    }
    workers = {}
    for name, (kind, python, own) in sides.items():
        folder = args.work / name.replace(" ", "-")
        folder.mkdir(exist_ok=True)
        file = folder / "settings.json"
        file.write_text(json.dumps({**common, **own, "work": str(folder)}), encoding="utf-8")
        script = Path(__file__).with_name("step_worker.py")
        workers[name] = WorkerProcess(name, [python, script, kind, file], args.threads, openmp)
    return workers


def side_result(worker: WorkerProcess, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the counted steps."""
    stages = {name for step in steps for name in step["stages"]}
    return {
        "packages": worker.greeting["packages"],
        "loaded_bytes": worker.greeting["bytes"],
        "seconds": median(step["seconds"] for step in steps),
        "peak_bytes": median(step["peak_bytes"] for step in steps),
        "tokens": median(step["tokens"] for step in steps),
        "stages": {name: median(step["stages"].get(name, 0.0) for step in steps) for name in sorted(stages)},
        "steps": steps,
    }


def products(side: dict[str, Any], student: str, teacher: Path, threads: int) -> dict[str, dict[str, float]]:
    """Operations a second of scoring and update, and those of the best products of the models' shapes."""
    import torch
    from products import BATCH_TOKENS, best_of_shapes
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    found = {}
    for stage, folder in (("teacher", teacher), ("update", resolve(student))):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        share = median(step["head_share"][stage] for step in side["steps"])
        rows = MICRO_BATCH_TOKENS["cpu"] if stage == "update" else BATCH_TOKENS
        best = best_of_shapes(model, share, rows, training=stage == "update")
        reached = median(step["flops"][stage] / step["stages"][stage] for step in side["steps"])
        found[stage] = {"flops_per_second": reached, "best": best, "share": reached / best}
    return found


def show(sides: dict[str, dict[str, Any]]) -> None:
    """One line a side; ratios to the first."""
    first = next(iter(sides.values()))
    for name, found in sides.items():
        stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in found["stages"].items())
        print(
            f"{name:<22}{found['seconds']:7.1f} s ({found['seconds'] / first['seconds']:.2f})"
            f"{found['peak_bytes'] / 2**20:8.0f} MB ({found['peak_bytes'] / first['peak_bytes']:.2f})"
            f"  {found['tokens']:.0f} tokens  {stages}"
        )
    for name, found in sides.items():
        for stage, own in found.get("products", {}).items():
            print(
                f"{name}: {stage} {own['flops_per_second'] / 1e9:.0f} GFLOP/s, {own['share']:.0%} of the "
                f"{own['best'] / 1e9:.0f} that the best products of its shapes reach"
            )
    for name, found in sides.items():
        if (byte_level := sides.get(name.removesuffix(GEMMA))) is not found and byte_level is not None:
            whole, teacher = per_flop(found, byte_level)
            print(
                f"{name}: per operation of the teacher {whole:.2f} of the byte-level step, "
                f"{teacher:.2f} of its teacher stage"
            )


def per_flop(found: dict[str, Any], other: dict[str, Any]) -> tuple[float, float]:
    """Seconds per operation of the teacher in ratio to another step's: of all of it, and of the teacher's
    stage."""
    work = teacher_flops(found) / teacher_flops(other)
    stages = found["stages"]["teacher"] / other["stages"]["teacher"]
    return found["seconds"] / other["seconds"] / work, stages / work


def teacher_flops(side: dict[str, Any]) -> float:
    return median(step["flops"]["teacher"] for step in side["steps"])


if __name__ == "__main__":
    sys.exit(main())
