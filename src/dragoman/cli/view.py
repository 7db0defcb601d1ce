"""`dragoman view`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("place", metavar="RUN|ROLLOUTS", type=click.Path(exists=True, path_type=Path))
@click.option("--key", help="Only the rollouts of this name, such as train:3/0.")
@click.option(
    "--limit", type=click.IntRange(1), default=64, show_default=True, help="Most rollouts in the page."
)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Page to write [RUN/view.html]."
)
def view(place: Path, key: str | None, limit: int, output: Path | None) -> None:
    """Write a page to look into recorded rollouts: both rows of tokens, chunks, credits, reasons.

    \b
    dragoman view runs/quickstart
    dragoman view runs/quickstart/rollouts/step-000001.jsonl --key train:3/0 -o one.html

    One file that needs no network; it shows every token with its numbers, filters and a search.
    """
    from dragoman.report.viewer import select_records, write_viewer

    selection = select_records(place, key=key, limit=limit)
    if output is None:
        output = place / "view.html" if place.is_dir() else place.with_suffix(".html")
    click.echo(write_viewer(selection, output))
    if selection.num_left_out:
        click.echo(
            f"{len(selection.records)} rollouts are in the page, {selection.num_left_out} more are left out; "
            "raise --limit or name one with --key",
            err=True,
        )
