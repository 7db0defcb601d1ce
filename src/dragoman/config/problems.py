"""From pydantic's findings to one ConfigError that names every key, its source and what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from dragoman.config.describe import expected, section_of, shown
from dragoman.errors import ConfigError

Location = tuple[int | str, ...]


def config_error(
    error: ValidationError,
    root: type[BaseModel],
    tree: Mapping[str, Any],
    source_of: Callable[[str], str],
) -> ConfigError:
    """All problems of a failed validation of `tree` as `root` in one error, one line a key.

    `source_of(key)` names the file, override or method default that set a dotted key.
    """
    lines: dict[str, str] = {}
    for finding in error.errors(include_url=False):
        location = finding["loc"]
        key, field = _locate(location, root)
        source = source_of(key)
        if finding["type"] == "extra_forbidden":
            text = f"unknown key {key!r} in {source}{_suggestion(location, root)}"
        elif finding["type"] == "value_error":
            text = (
                f"{key} in {source}: {finding['ctx']['error']}"
                if key
                else f"{source}: {finding['ctx']['error']}"
            )
        elif field is None:
            text = f"{source}: {finding['msg']}"
        elif finding["type"] == "missing" and len(location) == key.count(".") + 1:
            text = f"{key} is missing from {source}: expected {expected(field)}. {field.description}"
        else:
            got = shown(_value_at(tree, key))
            text = f"{key} in {source}: got {got}, expected {expected(field)}. {field.description}"
        # A value that may be of several types has one finding for each of them; they read the same.
        lines.setdefault(key, text)
    if len(lines) == 1:
        return ConfigError(next(iter(lines.values())))
    return ConfigError("\n  ".join([f"{len(lines)} problems in the configuration:", *lines.values()]))


def all_keys(root: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted key of a tree, sections included."""
    keys = []
    for name, field in root.model_fields.items():
        keys.append(prefix + name)
        inner = section_of(field.annotation)
        if inner is not None:
            keys += all_keys(inner, f"{prefix}{name}.")
    return keys


def _locate(location: Location, root: type[BaseModel]) -> tuple[str, FieldInfo | None]:
    """The dotted key of a finding, and its field: pydantic's path cut off below the last known field."""
    section: type[BaseModel] | None = root
    field: FieldInfo | None = None
    path: list[str] = []
    for part in location:
        if section is None:
            break
        path.append(str(part))
        field = section.model_fields.get(str(part))
        section = section_of(field.annotation) if field is not None else None
    return ".".join(path), field


def _value_at(tree: Mapping[str, Any], key: str) -> object:
    value: Any = tree
    for part in key.split("."):
        value = value[part]
    return value


def _suggestion(location: Location, root: type[BaseModel]) -> str:
    """The nearest key: in the same section by spelling, else anywhere by the same name."""
    *parents, name = map(str, location)
    section = root
    for parent in parents:
        inner = section_of(section.model_fields[parent].annotation)
        assert inner is not None, f"{parent} holds a key, so it is a section"
        section = inner
    near = difflib.get_close_matches(name, section.model_fields, n=1)
    if near:
        return f"; did you mean {'.'.join([*parents, near[0]])}?"
    same = [key for key in all_keys(root) if key.rsplit(".", 1)[-1] == name]
    if same:
        return f"; did you mean {' or '.join(same)}?"
    return f"; known here: {', '.join(section.model_fields)}"
