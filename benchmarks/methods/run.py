"""Every method on the embedded pair, in equal runs: what it costs, what it covers, how far it comes.

    make bench-methods
    python benchmarks/methods/run.py --methods span,chunk --steps 10 --runs runs/short --results runs/short

Each method is one run of `dragoman train recipes/methods/NAME.yaml` in a process of its own, with the
settings of `overrides` for all. A finished run is read from its folder, so that an interrupted benchmark goes
on where it was. Writes `results/methods.{json,md,svg}`; benchmarks/README.md says what the figures are.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

from outcome import differing, outcome, same_start  # noqa: E402
from tables import draw, tables  # noqa: E402

from dragoman.config import Config, load_config  # noqa: E402
from dragoman.errors import CapabilityError, DragomanError  # noqa: E402
from dragoman.methods import BUILT_IN, Method, get_method, method_defaults  # noqa: E402
from dragoman.observe.environment import describe_environment  # noqa: E402
from dragoman.render import Renderer  # noqa: E402
from dragoman.types import TeacherLevel  # noqa: E402

STUDENT, TEACHER = "assets:smollm2-135m-instruct", "assets:gemma-3-270m"
NEW_TOKENS = 32
PROMPTS_PER_STEP = 8


def main(argv: list[str] | None = None) -> int:
    """Run what is not there yet, print the tables, write the results; 1 if a method failed."""
    args = parser().parse_args(argv)
    try:
        chosen = [get_method(name) for name in args.methods] if args.methods else list(BUILT_IN)
        return benchmark(chosen, args)
    except DragomanError as error:
        raise SystemExit(f"error: {error}") from error


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    found.add_argument("--methods", type=lambda names: names.split(","), metavar="A,B", help="default: all")
    found.add_argument("--steps", type=int, default=40)
    found.add_argument("--prompts", type=int, default=32, help="held-out prompts (default 32)")
    found.add_argument("--lr", type=float, default=3e-5, help="learning rate of all methods (default 3e-5)")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--threads", type=int, default=1)
    found.add_argument(
        "--runs", type=Path, default=ROOT / "runs" / "bench-methods", help="folder of the runs"
    )
    found.add_argument("--results", type=Path, default=HERE / "results")
    found.add_argument("--keep-models", action="store_true", help="keep the weights (half a gigabyte a run)")
    return found


def benchmark(chosen: list[Method], args: argparse.Namespace) -> int:
    """All methods in turn; the results are written anew after each."""
    config = configuration(get_method("chunk"), args)
    student, teacher = Renderer.from_config(config.student), Renderer.from_config(config.teacher)
    result: dict[str, Any] = {
        "settings": {
            "student": STUDENT.removeprefix("assets:"),
            "teacher": TEACHER.removeprefix("assets:"),
            "steps": args.steps,
            "prompts_per_step": PROMPTS_PER_STEP,
            "max_new_tokens": NEW_TOKENS,
            "heldout_prompts": args.prompts,
            "lr": args.lr,
            "seed": args.seed,
            "threads": args.threads,
        },
        "environment": describe_environment(),
        "methods": {},
        "left_out": {},
        "failed": {},
    }
    for number, method in enumerate(chosen, 1):
        reason = why_not(method, student, teacher)
        if reason is not None:
            result["left_out"][method.name] = reason
        else:
            print(f"{number} of {len(chosen)}  {method.name}", file=sys.stderr)
            began = time.monotonic()
            try:
                result["methods"][method.name] = finished(method, args)
                print(f"    {time.monotonic() - began:.0f} s", file=sys.stderr)
            except RunError as error:
                result["failed"][method.name] = str(error)
                print(f"    failed: {error}", file=sys.stderr)
        write(result, args.results)
    print(tables(result))
    return 1 if result["failed"] else 0


class RunError(Exception):
    """A method's run has ended in an error."""


def why_not(method: Method, student: Renderer, teacher: Renderer) -> str | None:
    """Why a method cannot be run on this pair; None where it can."""
    if method.level is TeacherLevel.REFERENCE:
        return "needs a smaller model of the teacher's family as a reference, of which the pair has none"
    try:
        method.check_tokenizers(student.tokenization, teacher.tokenization)
    except CapabilityError:
        return "needs equal tokenizers, which this pair has not"
    return None


def overrides(method: Method, args: argparse.Namespace) -> list[str]:
    """What is set for every method alike, over its recipe and its own defaults."""
    settings: Mapping[str, Any] = {
        "run.dir": str(args.runs / method.name),
        "run.seed": args.seed,
        "run.threads": args.threads,
        "run.trackers": [],
        "student.model": STUDENT,
        "student.dtype": "float32",
        "teacher.model": TEACHER,
        "teacher.dtype": "float32",
        "data.heldout_limit": args.prompts,
        "rollout.max_new_tokens": NEW_TOKENS,
        "rollout.samples_per_prompt": 1,
        "rollout.batch_size": 16,
        "train.steps": args.steps,
        "train.prompts_per_step": PROMPTS_PER_STEP,
        "train.lr": args.lr,
        "train.warmup_steps": 0,
        "train.schedule": "constant",
        "eval.forward": True,
        "eval.batch_size": 32,
    }
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


def recipe(method: Method) -> Path:
    """The recipe of a method; that of `chunk` has all but the name for one that an extension brings."""
    own = ROOT / "recipes" / "methods" / f"{method.name}.yaml"
    return own if own.is_file() else own.with_stem("chunk")


def configuration(method: Method, args: argparse.Namespace) -> Config:
    """What a method's run depends on."""
    return load_config(
        recipe(method), [f"method.name={method.name}", *overrides(method, args)], method_defaults
    )


def finished(method: Method, args: argparse.Namespace) -> dict[str, Any]:
    """The figures of a method's run, which is made if it is not there. Raises RunError where it fails,
    SystemExit where the folder holds a run with other settings."""
    folder = args.runs / method.name
    wanted = json.loads(configuration(method, args).to_json())
    if not (folder / "summary.json").is_file():
        train(method, args)
    made = json.loads((folder / "config.resolved.json").read_text(encoding="utf-8"))
    if others := differing(made, wanted):
        raise SystemExit(
            f"error: {folder} holds a run with other settings: {'; '.join(others)}. Name another folder with "
            "--runs, or remove that one"
        )
    if not args.keep_models:
        shutil.rmtree(folder / "final", ignore_errors=True)
    return {"learns_from": method.signal.value, "needs": method.needs, **outcome(folder)}


def train(method: Method, args: argparse.Namespace) -> None:
    """Run a method in a process of its own, so that its memory is its own; what it says goes to a file."""
    args.runs.mkdir(parents=True, exist_ok=True)
    log = args.runs / f"{method.name}.log"
    command: list[str | Path] = [sys.executable, "-c", "from dragoman.cli import main; main()", "train"]
    command += [recipe(method), f"method.name={method.name}", *overrides(method, args)]
    if (args.runs / method.name).is_dir():
        command.append("--resume")  # begins again, as there are no checkpoints
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False)
    if done.returncode:
        text = log.read_text(encoding="utf-8").strip()
        raise RunError(text[text.rfind("error: ") :] if "error: " in text else text[-300:])


def write(result: Mapping[str, Any], folder: Path) -> None:
    """The three files, each whole at any moment."""
    folder.mkdir(parents=True, exist_ok=True)
    if problem := same_start(result["methods"]):
        raise SystemExit(f"error: {problem}")
    kept: dict[str, Callable[[Path], Any]] = {
        "methods.json": lambda path: path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8"),
        "methods.md": lambda path: path.write_text(tables(result), encoding="utf-8"),
    }
    if result["methods"]:
        kept["methods.svg"] = lambda path: draw(result, path)
    for name, make in kept.items():
        partial = folder / f"partial-{name}"
        make(partial)
        partial.replace(folder / name)


if __name__ == "__main__":
    sys.exit(main())
