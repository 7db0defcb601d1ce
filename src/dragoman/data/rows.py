"""Numbered rows of a prompt file or data set, not yet looked into."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dragoman.errors import DataError

FILE_SUFFIXES = (".jsonl", ".json", ".parquet")


def numbered_rows(source: str, split: str) -> Iterator[tuple[int, object]]:
    """Rows counted from 1: raw lines (bytes) of a JSON Lines file, else mappings of columns to values.

    Blank lines are passed over but counted. A source that is no file with one of `FILE_SUFFIXES` is the
    name of a Hugging Face data set, `name:subset` or a folder of one. Raises DataError if there is
    nothing to read.
    """
    path = Path(source)
    if path.suffix not in FILE_SUFFIXES and not path.is_file():
        return _dataset_rows(source, split)
    if not path.is_file():
        raise DataError(
            f"there is no prompt file {source}, neither from the working directory nor from the folder of "
            "the configuration; give the path of an existing file"
        )
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    if path.suffix in FILE_SUFFIXES:
        return _json_lines(path)
    raise DataError(
        f"{source}: got a prompt file ending in {path.suffix!r}, expected one of {', '.join(FILE_SUFFIXES)}"
    )


def _json_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}; expected a file of prompts, one a line") from error


def _parquet_rows(path: Path) -> Iterator[tuple[int, object]]:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            rows = (row for batch in table.iter_batches(batch_size=1024) for row in batch.to_pylist())
            yield from enumerate(rows, 1)
    except pyarrow.ArrowInvalid as error:
        raise DataError(
            f"{path}: got no Parquet table ({error}), expected one with a row a prompt"
        ) from error


def _dataset_rows(source: str, split: str) -> Iterator[tuple[int, object]]:
    import datasets

    name, _, subset = (source, "", "") if Path(source).is_dir() else source.partition(":")
    try:
        table = datasets.load_dataset(name, subset or None, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"cannot read {source!r}: it is no prompt file, and as a Hugging Face data set with the split "
            f"{split!r} it gave: {error}"
        ) from error
    yield from enumerate(table, 1)
