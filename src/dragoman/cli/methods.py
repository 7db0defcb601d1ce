"""`dragoman methods`."""

from __future__ import annotations

import json

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def methods(as_json: bool) -> None:
    """List the methods: what each does, what it needs of the teacher, where it comes from."""
    from dragoman.methods import methods as all_methods

    found = all_methods().values()
    if as_json:
        rows = [
            {
                "name": method.name,
                "summary": method.summary,
                "source": method.source,
                "teacher_level": None if method.level is None else int(method.level),
                "writer": method.writer.value,
                "defaults": dict(method.defaults),
            }
            for method in found
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    for method in found:
        needs = (
            "answers" if method.level is None else f"level {int(method.level)} ({method.level.name.lower()})"
        )
        click.echo(f"{method.name}\n    {method.summary}\n    {method.writer} writes; teacher: {needs}")
        click.echo(f"    {method.source}")
        if method.defaults:
            click.echo("    " + ", ".join(f"{key}={value}" for key, value in method.defaults.items()))
