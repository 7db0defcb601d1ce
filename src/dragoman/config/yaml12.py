"""YAML read by the rules of version 1.2, in which `off`, `no` and `on` are text and `1e-5` is a number.

PyYAML follows version 1.1: `guard: off` would be false, `mixed_precision: no` too, and `lr: 1e-5` the text
"1e-5". It also keeps the last of two equal keys without a word. Both are wrong for a configuration file.
Source of the rules: YAML 1.2.2, section 10.3 (core schema).
"""

from __future__ import annotations

import re

import yaml

from dragoman.errors import ConfigError

_RULES = (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    (
        "float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+.0123456789"),
    ),
)


class _Loader(yaml.SafeLoader):
    """Core-schema scalars; equal keys in one mapping are an error."""


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(node.value)
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _construct_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[object, object]:
    seen: dict[object, yaml.Mark] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(
                None, None, f"got the key {key!r}, expected text", key_node.start_mark
            )
        if key in seen:
            raise yaml.constructor.ConstructorError(
                f"first at line {seen[key].line + 1}",
                seen[key],
                f"key {key!r} is given twice",
                key_node.start_mark,
            )
        seen[key] = key_node.start_mark
    return loader.construct_mapping(node, deep=True)


_Loader.yaml_implicit_resolvers = {}  # or those of version 1.1 would be inherited
for _name, _pattern, _first in _RULES:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(_pattern), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)


def parse_yaml(text: str, where: str) -> object:
    """The value of one YAML document (JSON is YAML); `where` names its source in errors.

    >>> parse_yaml("{guard: off, lr: 1e-5, steps: 010}", "example")
    {'guard': 'off', 'lr': 1e-05, 'steps': 10}

    Raises ConfigError if the text is not YAML, repeats a key or has a key that is not text.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}, line {mark.line + 1}, column {mark.column + 1}" if mark else where
        raise ConfigError(f"{place}: {error.problem or error.context}; expected valid YAML") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: {error}; expected valid YAML") from error
