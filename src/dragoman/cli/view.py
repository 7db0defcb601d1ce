"""`dragoman view`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("place", metavar="RUN|ROLLOUTS")
@click.option("--key", help="Only rollouts of this name, such as train:3/0.")
@click.option("--step", type=click.IntRange(0), help="Only rollouts of this step.")
@click.option(
    "--limit", type=click.IntRange(1), default=64, show_default=True, help="Most rollouts in the page."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Page to write; default: view.html in the run, or beside the file.",
)
def view(place: str, key: str | None, step: int | None, limit: int, output: Path | None) -> None:
    """Write a page to look into recorded rollouts: both rows of tokens, chunks, credits, reasons.

    \b
    dragoman view runs/quickstart
    dragoman view runs/quickstart --step 20 --key train:3/0
    dragoman view runs/quickstart/rollouts/step-000001.jsonl:4 -o one.html

    PLACE is the folder of a run, a file of its rollouts/, or FILE:LINE. The page is one file that needs no
    network; its path is printed.
    """
    from dragoman.report.viewer import parse_place, select_records, write_viewer

    found = parse_place(place)
    selection = select_records(found, key=key, step=step, limit=limit)
    if output is None:
        output = found.path / "view.html" if found.path.is_dir() else found.path.with_suffix(".html")
    click.echo(write_viewer(selection, output))
    if selection.num_left_out:
        click.echo(
            f"{len(selection.records)} rollouts are in the page, {selection.num_left_out} more are left out; "
            "raise --limit, or choose with --step and --key",
            err=True,
        )
