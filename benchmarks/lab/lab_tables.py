"""Figures of the lab in several worlds as one Markdown table.

    python benchmarks/lab/lab_tables.py FILE... [--methods NAME,NAME] [--figure total_variation]

FILE is what `dragoman lab --json FILE` writes, of one world or of all. A world may be divided among files
that have different methods of it; all must have been made with the same settings. The least of each world is
bold.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dragoman.report.cells import GOOD, Cell, Table
from dragoman.report.lab_overview import FIGURES, labels_of, overview

Tree = dict[str, Any]


class TablesError(Exception):
    """Files that do not make one table."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 2 if the files do not make one."""
    parser = argparse.ArgumentParser(description="Figures of several worlds as one Markdown table.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="of `dragoman lab --json`")
    parser.add_argument("--methods", help="the columns, with commas between them; default all, as they come")
    parser.add_argument("--figure", choices=sorted(FIGURES), default="text_kl", help="default: %(default)s")
    args = parser.parse_args(arguments)
    try:
        trees = read_worlds(args.files)
        labels = None if args.methods is None else chosen(args.methods.split(","), trees)
    except TablesError as error:
        parser.error(str(error))
    table = overview(trees, figure=args.figure, labels=labels, intervals=True)
    print("\n".join([*markdown(table), "", f"{table.title}. {table.note} {settings_text(trees[0])}"]))
    return 0


def read_worlds(files: Sequence[Path]) -> list[Tree]:
    """The worlds of all files, each once, with the methods of all files that have it.

    Raises TablesError for a file that is not the lab's, for other settings than those of the first file, and
    for a method of a world that is there twice.
    """
    worlds: dict[str, Tree] = {}
    settings: tuple[Path, Tree] | None = None
    for file in files:
        for tree in _read(file):
            # Whether it is called quick changes no figure.
            found = {name: value for name, value in tree["settings"].items() if name != "quick"}
            settings = settings or (file, found)
            if found != settings[1]:
                raise TablesError(
                    f"{file} was made with {found}, but {settings[0]} with {settings[1]}: figures of "
                    "different settings do not compare; run one of them anew"
                )
            known = worlds.setdefault(json.dumps(tree["world"], sort_keys=True), {**tree, "methods": {}})
            twice = sorted(known["methods"].keys() & tree["methods"].keys())
            if twice:
                raise TablesError(
                    f"{file} has {', '.join(twice)} of the world {tree['world']['name']}, which a file "
                    "before it has too; give one of them"
                )
            known["methods"].update(tree["methods"])
    return list(worlds.values())


def chosen(labels: Sequence[str], trees: Sequence[Tree]) -> Sequence[str]:
    """The labels, if some world has each. Raises TablesError otherwise."""
    known = labels_of(trees)
    if missing := [label for label in labels if label not in known]:
        raise TablesError(f"no file has {', '.join(missing)}; there are {', '.join(known)}")
    return labels


def markdown(table: Table) -> list[str]:
    """The lines of a table: names of methods as code, the least of each row bold."""
    fixed = ("world", "start")
    head = [name if name in fixed else f"`{name}`" for name in table.columns]
    rule = ["---", *["---:"] * (len(head) - 1)]
    rows = [[_cell(cell) for cell in row] for row in table.rows]
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)]


def settings_text(tree: Tree) -> str:
    """How methods were compared, in a line."""
    made = tree["settings"]
    return f"{made['updates']} updates of {made['samples']} texts, {made['seeds']} seeds."


def _cell(cell: Cell) -> str:
    return f"**{cell.text}**" if cell.tone == GOOD else cell.text


def _read(file: Path) -> list[Tree]:
    """The worlds of one file."""
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TablesError(f"{file} cannot be read: {error}; give files of `dragoman lab --json`") from error
    worlds = tree.get("worlds", [tree]) if isinstance(tree, dict) else [tree]
    for world in worlds:
        if not isinstance(world, dict) or not {"world", "settings", "facts", "methods"} <= world.keys():
            raise TablesError(f"{file} holds no worlds; give files of `dragoman lab --json`")
    return list(worlds)


if __name__ == "__main__":
    sys.exit(main())
