"""`dragoman lab`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dragoman.lab.bench import Bench
    from dragoman.lab.methods import LabMethod
    from dragoman.lab.result import LabSettings, WorldResult
    from dragoman.lab.worlds import WorldSettings

_METHODS = "dpca,chunk,segment,span,bpm,retok,sft"
_FILE = click.Path(dir_okay=False, path_type=Path)
_PIPE_WIDTH = 110
_COUNT = click.IntRange(1)


@click.command()
@click.option("--world", "kind", default="lexicon", show_default=True, help="Family of worlds.")
@click.option("--all-worlds", is_flag=True, help="Every family, with its usual merges.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Which world of the family."
)
@click.option("--teacher-merges", type=_COUNT, help="Merges of the teacher's tokenizer.")
@click.option("--student-merges", type=_COUNT, help="Merges of the student's.")
@click.option("--size", type=click.IntRange(2), help="Words or texts of the world.")
@click.option("--start-kl", type=click.FloatRange(0, min_open=True), help="Text KL before training, in nats.")
@click.option("--methods", "names", default=_METHODS, show_default=True, help="Methods, or `all`.")
@click.option("--updates", type=_COUNT, help="Updates of a run; default 240.")
@click.option("--samples", type=_COUNT, help="Texts an update; default 128.")
@click.option("--seeds", type=_COUNT, help="Runs of every method; default 10.")
@click.option("--rates", help="Learning rates to choose from; default .003,.01,.03,.06,.1.")
@click.option("--quick", is_flag=True, help="A small world, short runs, two rates.")
@click.option("--json", "as_json", help="Write everything to this file; - prints it instead of tables.")
@click.option("--page", type=_FILE, help="Write the page to this file too.")
def lab(
    kind: str,
    all_worlds: bool,
    seed: int,
    teacher_merges: int | None,
    student_merges: int | None,
    size: int | None,
    start_kl: float | None,
    names: str,
    updates: int | None,
    samples: int | None,
    seeds: int | None,
    rates: str | None,
    quick: bool,
    as_json: str | None,
    page: Path | None,
) -> None:
    """Measure methods on enumerable worlds, where the exact target is known.

    \b
    dragoman lab --world lexicon --teacher-merges 250 --student-merges 80 --methods dpca,chunk
    dragoman lab --methods "chunk,chunk[guard=off],bpm[mask_whitespace=false;teacher.topk=16]"
    dragoman lab --all-worlds --methods all --json lab.json --page lab.html
    """
    from rich.console import Console

    from dragoman.lab.bench import make_bench
    from dragoman.lab.run import run_world

    worlds = _worlds(kind, all_worlds, seed, (teacher_merges, student_merges), size, start_kl, quick)
    settings = _settings(quick, updates, samples, seeds, rates)
    methods = None if names == "all" else _methods(names)
    console = Console(stderr=True, highlight=False)
    _one_thread()
    results: list[WorldResult] = []
    for world in worlds:
        with console.status(world.name) as status:
            bench = make_bench(world)
            chosen = _fitting(bench, methods, skip=all_worlds, console=console)
            results.append(run_world(bench, chosen, settings, status.update))
        if as_json is None or as_json != "-":
            from dragoman.report.lab_terminal import lab_terminal

            out = Console(highlight=False)
            # Lines that go to a file or a pipe need not be broken.
            out = out if out.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)
            out.print(lab_terminal(results[-1]))
        _write(results, as_json, page, all_worlds)
    if as_json == "-":
        click.echo(json.dumps(_tree(results, all_worlds), indent=2))


def _worlds(
    kind: str,
    all_worlds: bool,
    seed: int,
    merges: tuple[int | None, int | None],
    size: int | None,
    start_kl: float | None,
    quick: bool,
) -> list[WorldSettings]:
    """The worlds asked for."""
    from dragoman.errors import UsageError
    from dragoman.lab.worlds import KINDS, START_KL, WorldSettings, quick_size

    if kind not in KINDS:
        raise UsageError(f"--world is {kind!r}, expected one of {', '.join(KINDS)}")
    if all_worlds and merges != (None, None):
        raise UsageError(
            "--all-worlds has merges of its own; leave --teacher-merges and --student-merges out"
        )
    kinds = list(KINDS) if all_worlds else [kind]
    found = []
    for name in kinds:
        usual = KINDS[name].merges if all_worlds else KINDS[name].merges[:1]
        for teacher, student in usual:
            small = quick_size(name) if quick else None
            found.append(
                WorldSettings(
                    kind=name,
                    seed=seed,
                    teacher_merges=merges[0] or teacher,
                    student_merges=merges[1] or student,
                    size=size if size is not None else small,
                    start_kl=START_KL if start_kl is None else start_kl,
                )
            )
    return found


def _settings(
    quick: bool, updates: int | None, samples: int | None, seeds: int | None, rates: str | None
) -> LabSettings:
    """How methods are compared; what is not given is as usual."""
    from dataclasses import replace

    from dragoman.errors import UsageError
    from dragoman.lab.result import QUICK, LabSettings

    settings = QUICK if quick else LabSettings()
    given: dict[str, Any] = {"updates": updates, "samples": samples, "seeds": seeds}
    if rates is not None:
        try:
            given["rates"] = tuple(sorted({float(part) for part in rates.split(",")}))
        except ValueError as error:
            raise UsageError(f"--rates is {rates!r}, expected numbers with commas between them") from error
        if given["rates"][0] <= 0:
            raise UsageError(f"--rates is {rates!r}, expected numbers above 0")
    return replace(settings, **{name: value for name, value in given.items() if value is not None})


def _methods(names: str) -> list[LabMethod]:
    from dragoman.lab.methods import parse_methods

    return parse_methods(names)


def _fitting(
    bench: Bench, methods: Sequence[LabMethod] | None, *, skip: bool, console: Any
) -> list[LabMethod]:
    """The methods to measure in a world: all, or those asked for. Among several worlds (`skip`), one that
    needs equal tokenizers is left out where they differ."""
    from dragoman.lab.methods import default_methods

    if methods is None:
        return default_methods(bench)
    if not skip:
        return list(methods)
    fitting = [one for one in methods if not one.method.equal_tokenizers or bench.tables.same_ids]
    left_out = ", ".join(one.label for one in methods if one not in fitting)
    if left_out:
        console.print(f"{bench.world.settings.name}: without {left_out}, as the tokenizers differ")
    return fitting


def _write(results: Sequence[WorldResult], as_json: str | None, page: Path | None, several: bool) -> None:
    """Write the files asked for; after every world, so that a long run leaves what it has."""
    from dragoman.observe.files import write_text

    if as_json is not None and as_json != "-":
        write_text(Path(as_json), json.dumps(_tree(results, several), indent=2) + "\n")
    if page is not None:
        from dragoman.report.lab import write_lab

        write_lab(results, page)


def _tree(results: Sequence[WorldResult], several: bool) -> dict[str, Any]:
    found = [result.to_json() for result in results]
    return {"worlds": found} if several else found[0]


def _one_thread() -> None:
    """Tensors here are so small that threads would only wait for each other."""
    import torch

    torch.set_num_threads(1)
