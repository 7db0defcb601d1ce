"""Where a relative data path points: the working directory first, then the folder of the configuration."""

from __future__ import annotations

from pathlib import Path


def resolve_data_path(value: str, folder: Path | None) -> str:
    """`value` if it exists from the working directory, else inside `folder` if it exists there.

    What exists in neither place is returned as it is: it may be the name of a data set, and whoever
    reads it knows what to say if it is not.
    """
    if folder is not None and not Path(value).exists() and (folder / value).exists():
        return str(folder / value)
    return value
