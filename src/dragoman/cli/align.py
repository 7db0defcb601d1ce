"""`dragoman align`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console


@click.command()
@click.option("--student", help="Folder, hub id or assets:NAME.")
@click.option("--teacher", help="Folder, hub id or assets:NAME.")
@click.option("--rollout", metavar="RUN|FILE[:LINE]", help="A recorded rollout in place of TEXT.")
@click.option("--key", help="With --rollout, the name of one, such as train:3/0; default: the first.")
@click.option("--json", "as_json", is_flag=True, help="Print ids, bounds and chunks as JSON.")
@click.option("--width", type=click.IntRange(20), help="Columns to use; default: the terminal's.")
@click.argument("text", required=False)
def align(
    student: str | None,
    teacher: str | None,
    rollout: str | None,
    key: str | None,
    as_json: bool,
    width: int | None,
    text: str | None,
) -> None:
    """Show how two tokenizers cut TEXT: both rows of tokens over one ruler of bytes.

    \b
    dragoman align --student assets:smollm2-135m-instruct --teacher assets:gemma-3-270m "naïve 🙂"
    dragoman align --rollout runs/quickstart --key train:3/0

    A chunk is the finest stretch whose borders both tokenizers share. `-` reads the text from stdin. Of a
    recorded rollout the numbers are shown too, chunk by chunk.
    """
    from rich.console import Console

    console = Console(highlight=False, width=width)
    if rollout is not None:
        if student or teacher or text:
            raise click.UsageError("--rollout has its own text and models; leave out the others")
        _show_rollout(rollout, key, as_json, console)
        return
    if student is None or teacher is None or text is None:
        raise click.UsageError("give --student, --teacher and TEXT, or --rollout")
    from dragoman.alignment import align as align_texts
    from dragoman.report import alignment_json, alignment_text
    from dragoman.text import Tokenization

    data = sys.stdin.buffer.read() if text == "-" else text.encode("utf-8", "surrogateescape")
    above = Tokenization.from_pretrained(student).encode(data)
    placed = Tokenization.from_pretrained(teacher).place(above.data)
    alignment = align_texts(above, placed.text, placed.correspondence)
    if as_json:
        click.echo(json.dumps(alignment_json(above, placed.text, alignment)))
        return
    shown = alignment_text(
        above, placed.text, alignment, width=console.width, student_name=student, teacher_name=teacher
    )
    console.print(shown)


def _show_rollout(place: str, key: str | None, as_json: bool, console: Console) -> None:
    from dragoman.observe import finite
    from dragoman.report import alignment_json, alignment_text, chunk_numbers, numbers_table
    from dragoman.report.viewer import parse_place, select_records

    record = select_records(parse_place(place), key=key, limit=1).records[0]
    if record.view is None or record.alignment is None:
        raise click.UsageError(f"rollout {record.rollout.key} was not scored, so there is nothing to align")
    texts = (record.rollout.completion, record.view.completion, record.alignment)
    if as_json:
        numbers = finite({"key": record.rollout.key, "numbers": chunk_numbers(record)})
        click.echo(json.dumps({**alignment_json(*texts), **numbers}))
        return
    console.print(f"rollout {record.rollout.key}, step {record.step}\n", style="bold")
    teacher = record.view.teacher
    console.print(alignment_text(*texts, width=console.width, student_name="student", teacher_name=teacher))
    console.print(numbers_table(record))
