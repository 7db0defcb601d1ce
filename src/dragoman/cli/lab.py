"""`dragoman lab`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from dragoman.lab.bench import Bench
    from dragoman.lab.methods import LabMethod
    from dragoman.lab.result import LabSettings, WorldResult
    from dragoman.lab.worlds import World, WorldSettings

_METHODS = "dpca,chunk,segment,span,bpm,retok,sft"
_FILE = click.Path(dir_okay=False, path_type=Path)
_FILE_OR_DASH = click.Path(dir_okay=False, allow_dash=True)
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
@click.option("--quick", is_flag=True, help="A small world, short runs, three rates.")
@click.option(
    "--json",
    "as_json",
    type=_FILE_OR_DASH,
    help="Write everything to this file, and the page beside it; - prints it instead of tables.",
)
@click.option("--page", type=_FILE, help="Write the page to this file.")
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
    dragoman lab --all-worlds --methods all --json lab.json
    """
    from rich.console import Console

    from dragoman.lab.bench import bench_of
    from dragoman.lab.run import run_world
    from dragoman.lab.worlds import make_world

    page = _page_of(as_json, page)
    worlds = _worlds(kind, all_worlds, seed, (teacher_merges, student_merges), size, start_kl, quick)
    settings = _settings(quick, updates, samples, seeds, rates)
    methods = None if names == "all" else _methods(names)
    # All before the first, as what a late one cannot have should be known before an early one has run.
    made = [make_world(world) for world in worlds]
    console = Console(stderr=True, highlight=False)
    _one_thread()
    results: list[WorldResult] = []
    for world in made:
        _warn_of_merges(world)
        with _progress(console, world.settings.name) as progress:
            bench = bench_of(world)
            chosen = _fitting(bench, methods, skip=all_worlds)
            results.append(run_world(bench, chosen, settings, progress))
        if as_json != "-":
            from dragoman.report.lab_terminal import lab_terminal

            _tables().print(lab_terminal(results[-1]))
        _write(results, as_json, page, all_worlds)
    if as_json != "-" and len(results) > 1:
        from dragoman.report.lab_terminal import lab_overview

        _tables().print(lab_overview(results))
    if as_json == "-":
        click.echo(json.dumps(_tree(results, all_worlds), indent=2))


def _tables() -> Console:
    """Where tables are printed; lines that go to a file or a pipe need not be broken."""
    from rich.console import Console

    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)


def _page_of(as_json: str | None, page: Path | None) -> Path | None:
    """Where the page goes: beside the JSON file unless it is said. Makes their folders."""
    from dragoman.errors import UsageError

    data = None if as_json in (None, "-") else Path(str(as_json))
    if page is None and data is not None:
        page = data.with_suffix(".html")
    if data is not None and page is not None and data.resolve() == page.resolve():
        raise UsageError(
            f"--json is {as_json}, where the page would be written over it; give the JSON another name, such "
            f"as {data.with_suffix('.json')}, or the page another one by --page"
        )
    for path in (data, page):
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error}; give a file in a folder") from error
    return page


@contextmanager
def _progress(console: Any, world: str) -> Iterator[Callable[[str], None]]:
    """What shows progress: one line that changes where stderr is a terminal, elsewhere a line for each."""
    from rich.markup import escape

    if not console.is_terminal:
        yield lambda text: click.echo(text, err=True)
        return
    with console.status(escape(world)) as status:
        yield lambda text: status.update(escape(text))


def _warn_of_merges(world: World) -> None:
    """Say where a tokenizer has fewer merges than were asked for, as the world's name has those."""
    from dragoman.lab.tokenizers import num_merges

    settings = world.settings
    for side, tokenization, asked in (
        ("teacher", world.teacher, settings.teacher_merges),
        ("student", world.student, settings.student_merges),
    ):
        if (found := num_merges(tokenization)) != asked:
            click.echo(
                f"warning: {settings.name}: the {side}'s tokenizer has {found} merges, not {asked}: "
                "its texts, as they are cut before merging, allow no more",
                err=True,
            )


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


def _fitting(bench: Bench, methods: Sequence[LabMethod] | None, *, skip: bool) -> list[LabMethod]:
    """The methods to measure in a world: all, or those asked for. Where tokenizers differ, one that needs
    equal ones is left out among several worlds (`skip`), and refused otherwise."""
    from dragoman.lab.methods import default_methods

    if methods is None:
        return default_methods(bench)
    if not skip:
        for one in methods:
            one.method.check_tokenizers(bench.world.student, bench.world.teacher)
        return list(methods)
    fitting = [one for one in methods if not one.method.equal_tokenizers or bench.tables.same_ids]
    left_out = ", ".join(one.label for one in methods if one not in fitting)
    if left_out:
        click.echo(f"{bench.world.settings.name}: without {left_out}, as the tokenizers differ", err=True)
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
