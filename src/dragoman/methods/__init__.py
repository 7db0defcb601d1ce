"""Methods: named recipes of supervision and objective, what each needs, and vetted defaults.

The built-in ones are in `sampled`, `rows` and `published`; third parties add theirs by an entry point in
the group `dragoman.methods` that names a `Method`.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any

from dragoman.errors import ConfigError
from dragoman.methods.method import Build, Method, Signal, Sorts, Supervise, Writer, remedy
from dragoman.methods.published import PUBLISHED
from dragoman.methods.rows import ROWS
from dragoman.methods.sampled import SAMPLED

__all__ = [
    "BUILT_IN",
    "Build",
    "Method",
    "Signal",
    "Sorts",
    "Supervise",
    "Writer",
    "get_method",
    "method_defaults",
    "methods",
    "remedy",
]

BUILT_IN: tuple[Method, ...] = (*SAMPLED, *ROWS, *PUBLISHED)


@cache
def methods() -> Mapping[str, Method]:
    """All methods by name: the built-in ones, then those of installed entry points."""
    found = {method.name: method for method in BUILT_IN}
    for entry in entry_points(group="dragoman.methods"):
        method = entry.load()
        if not isinstance(method, Method) or method.name in found:
            raise ConfigError(
                f"entry point {entry.name!r} ({entry.value}) must name a dragoman.methods.Method with a new "
                f"name, got {method!r}"
            )
        found[method.name] = method
    return MappingProxyType(found)


def get_method(name: str) -> Method:
    """A method by name; raises ConfigError that suggests the nearest one."""
    known = methods()
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known methods: {', '.join(known)}"
        raise ConfigError(f"method.name is {name!r}, which is no method; {hint}")
    return known[name]


def method_defaults(name: str) -> Mapping[str, Any]:
    """The configuration defaults a method brings, by dotted key."""
    return get_method(name).defaults
