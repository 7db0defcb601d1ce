"""What a loss on the output head costs: in one pass over slices, against the plain form on whole logits.

    python benchmarks/loss_kernels.py --json benchmarks/results/loss_kernels.json
    python benchmarks/loss_kernels.py --growth --plot FILE
    python benchmarks/loss_kernels.py --shape 4096x512 --positions 64 --repeats 1

For every shape (vocabulary x hidden size) and loss, the forms take turns in one process; reported are medians
of the seconds and of the peak memory of value and gradients (hidden states and head), and ratios to the plain
form. Heads:

* `trained`: its gradient, as large as the head, is made, and part of the memory of every form.
* `added`: there is a gradient already, as in every micro-batch of a step but the first. One turn, of which
  only the memory is said.
* `frozen`: it has no gradient, as under adapters.

Forms:

* `plain`: `log_softmax(hidden @ head.T)` and the loss on it, by automatic differentiation.
* `recomputed`: slices whose logits are made again in the backward pass (what heads get that are no matrix).
* `fused`: `dragoman.models.fused`, as in training: gradients of a slice's logits are made where these exist,
  and that of the head is added in place.

Losses: `credit`, a sum over selected log-probs; `rows`, the reverse KL divergence to rows of 32 candidates
and what is outside them; `entropy`, credit and the distribution's entropy. Each row says how far values and
gradients are off those of the first form. With `--growth`, credit over positions and vocabulary.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from growth_plot import plot_growth
from loss_forms import FORMS, LOSSES, Problem, make_problem
from memory import peak_of
from torch import Tensor

from dragoman.observe.environment import describe_environment

HEADS = ("trained", "added", "frozen")
GROWTH = {
    "positions": [(n, 32768, 512) for n in (256, 1024, 4096, 8192)],
    "vocabulary": [(512, 2**k, 512) for k in (10, 12, 14, 16, 18)],
}
"""Positions, vocabulary and hidden size."""


def main(argv: list[str] | None = None) -> int:
    """Measure, print a line for each form, write with --json what there is after each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shape", nargs="+", default=["151936x1024", "262144x640"], metavar="VxD")
    parser.add_argument("--positions", type=int, nargs="+", default=[2048])
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=["credit", "rows"])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=["plain", "fused"])
    parser.add_argument("--repeats", type=int, default=5, help="turns of each form")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--growth", action="store_true", help="only growth with positions and vocabulary")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="growth as SVG, with --growth")
    args = parser.parse_args(argv)
    if args.plot and not args.growth:
        parser.error("--plot draws growth: give --growth with it")
    torch.set_num_threads(args.threads)
    result: dict[str, Any] = {"environment": describe_environment(), "threads": args.threads}
    if args.growth:
        result["growth"] = growth(args.forms, args.repeats)
        if args.plot:
            plot_growth(args.plot, peaks_by_size(result["growth"]), "peak memory, MB")
    else:
        result |= {"repeats": args.repeats, "rows": []}
        for row in compare(args):
            show(row)
            result["rows"].append(row)
            save(args.json, result)
    save(args.json, result)
    return 0


def save(file: Path | None, result: dict[str, Any]) -> None:
    if file is not None:
        file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def compare(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All heads and losses of all shapes."""
    for shape in args.shape:
        num_ids, width = map(int, shape.split("x"))
        for positions in args.positions:
            problem = make_problem(positions, num_ids, width)
            warm_up(problem, args.losses[0], args.forms)
            for head in args.heads:
                problem.head.weight.requires_grad_(head != "frozen")
                for loss in args.losses:
                    turns = 1 if head == "added" else args.repeats
                    yield measure(problem, loss, args.forms, turns, head)


def warm_up(problem: Problem, name: str, forms: list[str]) -> None:
    """A turn of every form that is not counted: libraries make what they keep."""
    for form in forms:
        run(problem, name, form)
    problem.hidden.grad = problem.head.weight.grad = None


def measure(problem: Problem, name: str, forms: list[str], repeats: int, head: str) -> dict[str, Any]:
    """Medians over turns, who begins changing each time; of an `added` head memory alone."""
    weight = problem.head.weight
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    peaks: dict[str, list[int]] = {form: [] for form in forms}
    values: dict[str, float] = {}
    gradients: dict[str, Tensor] = {}
    for turn in range(repeats):
        for form in forms[turn % len(forms) :] + forms[: turn % len(forms)]:
            problem.hidden.grad = None
            weight.grad = torch.zeros_like(weight) if head == "added" else None
            peaks[form].append(peak_of(lambda form=form: timed(problem, name, form, values, seconds[form])))
            if turn == 0:
                gradients[form] = gradient(problem)
    problem.hidden.grad = weight.grad = None
    gc.collect()
    first = forms[0]
    largest = gradients[first].abs().max()
    found = {
        form: {
            "peak_bytes": int(median(peaks[form])),
            "memory_ratio": median(peaks[form]) / median(peaks[first]),
            "value_off": abs(values[form] - values[first]) / abs(values[first]),
            "gradient_off": float((gradients[form] - gradients[first]).abs().max() / largest),
        }
        for form in forms
    }
    if head != "added":
        for form in forms:
            found[form] |= {
                "seconds": median(seconds[form]),
                "spread": [min(seconds[form]), max(seconds[form])],
                "time_ratio": median(seconds[form]) / median(seconds[first]),
            }
    return {
        "vocabulary": problem.head.out_features,
        "hidden": problem.head.in_features,
        "positions": len(problem.hidden),
        "loss": name,
        "head": head,
        "head_bytes": weight.nbytes,
        "turns": repeats,
        "slice": problem.slice_size,
        "forms": found,
    }


def growth(forms: list[str], repeats: int) -> list[dict[str, Any]]:
    """Seconds and memory of credit on a trained head, over positions and over vocabulary."""
    found = []
    for axis, sizes in GROWTH.items():
        for positions, num_ids, width in sizes:
            problem = make_problem(positions, num_ids, width)
            warm_up(problem, "credit", forms)
            row = measure(problem, "credit", forms, repeats, "trained")
            show(row)
            size = {"positions": positions, "vocabulary": num_ids}[axis]
            for form, values in row["forms"].items():
                found.append(
                    {"axis": axis, "size": size, "form": form}
                    | {key: values[key] for key in ("seconds", "peak_bytes")}
                )
    return found


def peaks_by_size(found: list[dict[str, Any]]) -> dict[str, dict[str, dict[int, float]]]:
    """What is plotted of growth: MB by axis, form and size."""
    panels: dict[str, dict[str, dict[int, float]]] = {}
    for one in found:
        sides = panels.setdefault(one["axis"], {})
        sides.setdefault(one["form"], {})[one["size"]] = one["peak_bytes"] / 2**20
    return panels


def run(problem: Problem, name: str, form: str) -> float:
    """Value and gradients."""
    total = FORMS[form](problem, LOSSES[name])
    total.backward()
    return float(total.detach())


def timed(problem: Problem, name: str, form: str, values: dict[str, float], seconds: list[float]) -> None:
    """Keep the value and the seconds of a form."""
    began = time.perf_counter()
    values[form] = run(problem, name, form)
    seconds.append(time.perf_counter() - began)


def gradient(problem: Problem) -> Tensor:
    """Of the hidden states, and a part of that of the head, if it is trained."""
    own = problem.head.weight.grad
    rows = [] if own is None else [own[: problem.candidates.ids.max() + 1 : 97].flatten()]
    return torch.cat([problem.hidden.grad.flatten(), *rows])


def show(row: dict[str, Any]) -> None:
    print(
        f"vocabulary {row['vocabulary']:,}, hidden {row['hidden']}, {row['positions']:,} positions, "
        f"{row['loss']}, {row['head']} head ({row['head_bytes'] / 2**20:.0f} MB), {row['turns']} turns"
    )
    for form, found in row["forms"].items():
        has_time = "seconds" in found
        seconds = f"{found['seconds']:8.2f} s" if has_time else " " * 10
        ratio = f"time {found['time_ratio']:.2f}, " if has_time else ""
        print(
            f"  {form:<11}{seconds}{found['peak_bytes'] / 2**20:9.0f} MB  "
            f"{ratio}memory {found['memory_ratio']:.3f} of the first; "
            f"value off by {found['value_off']:.0e}, gradient by {found['gradient_off']:.0e}"
        )
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
