"""One HTML file in which recorded rollouts can be looked at token by token, without a network.

The data is JSON within the page, in columns; a script draws only the lines in sight, so that a response of
100,000 tokens can be scrolled. Everything a model wrote reaches the page as text, never as markup.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from dragoman.errors import DataError, UsageError
from dragoman.observe import Record, read_records
from dragoman.observe.files import write_text
from dragoman.report.viewer_data import record_columns


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Records to show, and how many more there are."""

    title: str
    records: tuple[Record, ...]
    num_left_out: int


def select_records(place: Path, *, key: str | None = None, limit: int = 64) -> Selection:
    """The first `limit` records of a run, a folder or a file of rollouts; with `key`, those of that name.

    Raises UsageError if there are no rollouts there, DataError for a file that cannot be read.
    """
    paths = _files(place)
    wanted = (record for record in _records(paths) if key is None or record.rollout.key == key)
    records = tuple(islice(wanted, limit))
    if not records:
        found = f"no rollout called {key!r}" if key is not None else "no rollouts"
        raise UsageError(
            f"{place} holds {found}; recorded are those of run.log_rollouts a step, under rollouts/"
        )
    return Selection(title=place.name, records=records, num_left_out=sum(1 for _ in wanted))


def write_viewer(selection: Selection, path: Path) -> Path:
    """Write the page and return its path."""
    write_text(path, viewer_page(selection))
    return path


def viewer_page(selection: Selection) -> str:
    """The page as text."""
    from dragoman.report.page import template_environment

    data = {
        "title": selection.title,
        "left_out": selection.num_left_out,
        "rollouts": [record_columns(record) for record in selection.records],
    }
    return str(
        template_environment()
        .get_template("viewer.html.jinja")
        .render(title=selection.title, data=embedded_json(data))
    )


def embedded_json(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it ends the element or a line."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _files(place: Path) -> Sequence[Path]:
    if place.is_file():
        return [place]
    folder = place / "rollouts" if (place / "rollouts").is_dir() else place
    paths = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
    paths = [path for path in paths if path.name != "metrics.jsonl"]
    if not paths:
        raise UsageError(
            f"{place} is neither a run with recorded rollouts nor a file of them; give the folder of a run "
            "or a file of its rollouts/"
        )
    return paths


def _records(paths: Sequence[Path]) -> Iterator[Record]:
    for path in paths:
        try:
            yield from read_records(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}") from error
