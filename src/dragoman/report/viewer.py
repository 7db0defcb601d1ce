"""One HTML file in which recorded rollouts can be looked at token by token, without a network.

The data is JSON within the page, in packed columns; a script draws only the lines in sight, so that a
response of 100,000 tokens can be scrolled. Everything a model wrote reaches the page as text, never as
markup; and the page's own policy lets no other script run and nothing be loaded.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from dragoman.errors import DataError, UsageError
from dragoman.observe import Record, read_records
from dragoman.observe.files import write_text
from dragoman.report.viewer_data import record_columns
from dragoman.types import ChunkKind, DropReason

_SCRIPTS = ("viewer.model.js", "viewer.draw.js", "viewer.panel.js", "viewer.js")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where rollouts are looked for: a run, a folder of files of rollouts, such a file, or one line of it."""

    path: Path
    line: int | None = None


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Records to show, and how many more there are."""

    title: str
    records: tuple[Record, ...]
    num_left_out: int


def parse_place(text: str) -> Place:
    """RUN, FILE or FILE:LINE (the first line is 1). Raises UsageError if there is no such path.

    A path that exists is meant as it stands, whatever its name ends in.
    """
    path = Path(text)
    if path.exists():
        return Place(path=path)
    match = re.fullmatch(r"(.+):(\d+)", text)
    if match is not None and Path(match[1]).is_file() and int(match[2]) > 0:
        return Place(path=Path(match[1]), line=int(match[2]))
    raise UsageError(
        f"there is no {text}; expected the folder of a run, a file of its rollouts/, or FILE:LINE with lines "
        "counted from 1"
    )


def select_records(
    place: Place, *, key: str | None = None, step: int | None = None, limit: int = 64
) -> Selection:
    """The first `limit` records there, in the order of files and lines; `key` and `step` name some of them.

    Raises UsageError if there are no such rollouts, DataError for a file that cannot be read.
    """
    paths = _files(place.path)
    title = _title(place)
    records = _records(paths)
    if place.line is not None:
        records = islice(records, place.line - 1, place.line)
    named = (
        record
        for record in records
        if (key is None or record.rollout.key == key) and (step is None or record.step == step)
    )
    chosen = tuple(islice(named, limit))
    if not chosen:
        raise UsageError(f"{title} holds no rollout{_wanted(key, step)}; {_recorded(paths, place.line)}")
    if key is None and step is None and place.line is None:
        num_left_out = sum(map(_num_lines, paths)) - len(chosen)
    else:
        num_left_out = sum(1 for _ in named)
    return Selection(title=title, records=chosen, num_left_out=num_left_out)


def write_viewer(selection: Selection, path: Path) -> Path:
    """Write the page and return its path. Raises UsageError if it cannot be written there."""
    try:
        write_text(path, viewer_page(selection))
    except OSError as error:
        raise UsageError(
            f"the page cannot be written to {path}: {error}; name another file with -o"
        ) from error
    return path


def viewer_page(selection: Selection) -> str:
    """The page as text."""
    from dragoman.report.page import template_environment

    environment = template_environment()
    assert environment.loader is not None
    style = environment.loader.get_source(environment, "viewer.css")[0]
    script = "".join(environment.loader.get_source(environment, name)[0] for name in _SCRIPTS)
    data = {
        "title": selection.title,
        "left_out": selection.num_left_out,
        "kinds": [kind.label for kind in ChunkKind],
        "num_comparable": sum(kind.comparable for kind in ChunkKind),
        "reasons": [reason.label.replace("_", " ") for reason in DropReason],
        "rollouts": [record_columns(record) for record in selection.records],
    }
    return environment.get_template("viewer.html.jinja").render(
        title=selection.title,
        style=style,
        script=script,
        policy=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        data=embedded_json(data),
    )


def embedded_json(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it ends the element or a line."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _hash(text: str) -> str:
    """The source expression that allows this inline element and no other (Content Security Policy 3)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _title(place: Place) -> str:
    path = place.path.resolve()
    within = f"{path.parent.parent.name}/" if path.is_file() and path.parent.name == "rollouts" else ""
    return f"{within}{path.name}" + (f":{place.line}" if place.line is not None else "")


def _files(place: Path) -> Sequence[Path]:
    if place.is_file():
        return [place]
    folder = place / "rollouts" if (place / "rollouts").is_dir() else place
    paths = [path for path in sorted(folder.glob("*.jsonl")) if path.name != "metrics.jsonl"]
    if not paths:
        raise UsageError(
            f"{place} is neither a run with recorded rollouts nor a file of them; give the folder of a run "
            "or a file of its rollouts/. A run records run.log_rollouts of them a step"
        )
    return paths


def _records(paths: Iterable[Path]) -> Iterator[Record]:
    for path in paths:
        try:
            yield from read_records(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}") from error


def _num_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _wanted(key: str | None, step: int | None) -> str:
    return (f" called {key!r}" if key is not None else "") + (f" of step {step}" if step is not None else "")


def _recorded(paths: Sequence[Path], line: int | None) -> str:
    """What there is instead."""
    if line is not None:
        return f"the file has {_num_lines(paths[0])} lines"
    names = [f"step {record.step} · {record.rollout.key}" for record in islice(_records(paths), 4)]
    return f"the first recorded are {', '.join(names)}" if names else "its files are empty"
