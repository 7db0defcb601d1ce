"""`dragoman methods`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dragoman.methods import Method


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def methods(name: str | None, as_json: bool) -> None:
    """List the methods: what each needs of the teacher, who writes, what it does.

    With NAME, all about one: formula, source, needs, what to know before choosing it, and defaults.
    """
    from dragoman.methods import get_method
    from dragoman.methods import methods as all_methods

    found = [get_method(name)] if name is not None else list(all_methods().values())
    if as_json:
        rows = [_fields(method) for method in found]
        click.echo(json.dumps(rows if name is None else rows[0], indent=2))
    elif name is not None:
        click.echo(_described(found[0]))
    else:
        for method in found:
            click.echo(f"{method.name}\n    {method.summary}")
            click.echo(f"    {method.writer} writes; needs {method.needs}")


def _fields(method: Method) -> dict[str, Any]:
    return {
        "name": method.name,
        "summary": method.summary,
        "formula": method.formula,
        "source": method.source,
        "needs": method.needs,
        "teacher_level": None if method.level is None else int(method.level),
        "equal_tokenizers": method.equal_tokenizers,
        "writer": method.writer.value,
        "signal": method.signal.value,
        "caveat": method.caveat,
        "defaults": dict(method.defaults),
    }


def _described(method: Method) -> str:
    """One method in lines, each with what it tells at its head."""
    lines = [
        ("formula", method.formula),
        ("learns from", method.signal.value),
        ("source", method.source),
        ("needs", method.needs),
        ("writes", f"the {method.writer}"),
        ("caveat", method.caveat),
        ("objective", method.objective),
        ("reads", ", ".join(f"method.{key}" for key in sorted(method.reads or ()))),
        *((key, json.dumps(value)) for key, value in method.defaults.items()),
    ]
    width = max(len(label) for label, _ in lines)
    shown = [f"  {label:<{width}}  {text}" for label, text in lines if text]
    return "\n".join([f"{method.name}: {method.summary}", *shown])
