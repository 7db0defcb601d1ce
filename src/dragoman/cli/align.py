"""`dragoman align`."""

from __future__ import annotations

import json
import sys

import click


@click.command()
@click.option("--student", required=True, help="Folder, hub id or assets:NAME.")
@click.option("--teacher", required=True, help="Folder, hub id or assets:NAME.")
@click.option("--json", "as_json", is_flag=True, help="Print ids, bounds and chunks as JSON.")
@click.option("--width", type=click.IntRange(20), help="Columns to use; default: the terminal's.")
@click.argument("text")
def align(student: str, teacher: str, as_json: bool, width: int | None, text: str) -> None:
    """Show how two tokenizers cut TEXT: both rows of tokens over one ruler of bytes.

    A chunk is the finest stretch whose borders both tokenizers share. `-` reads the text from stdin.
    """
    from dragoman.alignment import align as align_texts
    from dragoman.report import alignment_json, alignment_text
    from dragoman.text import Tokenization

    data = sys.stdin.buffer.read() if text == "-" else text.encode("utf-8", "surrogateescape")
    above = Tokenization.from_pretrained(student).encode(data)
    below = Tokenization.from_pretrained(teacher).encode(data)
    alignment = align_texts(above, below)
    if as_json:
        click.echo(json.dumps(alignment_json(above, below, alignment)))
        return
    from rich.console import Console

    console = Console(highlight=False, width=width)
    console.print(
        alignment_text(
            above, below, alignment, width=console.width, student_name=student, teacher_name=teacher
        )
    )
