"""`dragoman profile`."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from dragoman.train.profile import Profile


@click.command()
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[a.b=VALUE]...")
@click.option("--steps", default=3, show_default=True, type=click.IntRange(min=1), help="Steps measured.")
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Also draw the stages (SVG, PNG)."
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def profile(config: Path, overrides: tuple[str, ...], steps: int, plot: Path | None, as_json: bool) -> None:
    """Make a few steps as CONFIG says, and show where time and memory go.

    \b
    dragoman profile recipes/quickstart.yaml
    dragoman profile recipes/quickstart.yaml --steps 5 --plot profile.svg rollout.batch_size=32

    Nothing is written but the plot: weights that change are thrown away.
    """
    from dragoman.config import load_config
    from dragoman.methods import method_defaults
    from dragoman.report.profile import draw_profile, profile_lines
    from dragoman.train import build_session
    from dragoman.train.profile import profile as measure
    from dragoman.train.threads import tuned, using

    settings = load_config(config, [*overrides, "run.trackers=[]"], method_defaults)
    click.echo(f"{steps + 1} steps of {settings.method.name}, the first to warm up", err=True)
    with tempfile.TemporaryDirectory() as folder:
        session = tuned(build_session(settings, Path(folder)))
        with using(session.threads.other):
            found: Profile = measure(session, steps=steps)
    if plot is not None:
        draw_profile(found, plot)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
        return
    for line in profile_lines(found):
        click.echo(line)
