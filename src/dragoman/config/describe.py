"""A field's type and a value in words, the same in error messages and in the documentation."""

from __future__ import annotations

import json
from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

_SCALARS = {bool: "true or false", int: "whole number", float: "number", str: "text", NoneType: "null"}


def expected(field: FieldInfo) -> str:
    """What may stand in a field.

    >>> from dragoman.config.schema import TrainConfig
    >>> expected(TrainConfig.model_fields["max_grad_norm"])
    'number > 0, or null'
    """
    return _type_words(field.annotation, field.metadata)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section a field holds, also where it may be null instead; None for a plain value."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def shown(value: object) -> str:
    """A value as it would stand in a file; text is called so, since `"10"` and `10` are easily confused."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return f"{text} (text)" if isinstance(value, str) else text


def _type_words(annotation: Any, metadata: Iterable[object]) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = [item for extra in args[1:] for item in getattr(extra, "metadata", [extra])]
        return _type_words(args[0], [*inner, *metadata])
    if origin in (Union, UnionType):
        parts = [_type_words(part, metadata) for part in args if part is not NoneType]
        return ", or ".join(parts + ["null"] * (NoneType in args))
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args)) if len(args) > 1 else repr(args[0])
    if origin is tuple:
        item = _type_words(args[0], [])
        return f"list of {item}" if args[-1] is Ellipsis else f"list of {len(args)}, each a {item}"
    if origin is dict:
        return "mapping"
    if section_of(annotation) is not None:
        return "section"
    return _SCALARS[annotation] + _bounds(annotation, metadata)


def _bounds(annotation: Any, metadata: Iterable[object]) -> str:
    parts = []
    for rule in metadata:
        match rule:
            case annotated_types.Ge(ge=bound):
                parts.append(f">= {bound}")
            case annotated_types.Gt(gt=bound):
                parts.append(f"> {bound}")
            case annotated_types.Le(le=bound):
                parts.append(f"<= {bound}")
            case annotated_types.Lt(lt=bound):
                parts.append(f"< {bound}")
            case annotated_types.MinLen() if annotation is str:
                parts.append("that is not empty")
    return " " + " and ".join(parts) if parts else ""
