"""YAML 1.2 as configuration files are read: scalars by the newer rules, and nothing that runs."""

from __future__ import annotations

import pytest

from dragoman.config.yaml12 import parse_yaml
from dragoman.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"),
        ("no", "no"),
        ("Yes", "Yes"),
        ("true", True),
        ("False", False),
        ("1e-5", 1e-5),
        ("-1.5E+3", -1500.0),
        (".5", 0.5),
        ("010", 10),
        ("0o10", 8),
        ("0x10", 16),
        ("-3", -3),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("~", None),
        ("", None),
        ("-.inf", float("-inf")),
        ("{a: [1, {b: off}]}", {"a": [1, {"b": "off"}]}),
    ],
)
def test_scalars_by_yaml_1_2(text: str, value: object) -> None:
    parsed = parse_yaml(text, "test")
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize("text", ["!!python/object/apply:os.getcwd []", "a: 1\n---\nb: 2\n", "\x00"])
def test_no_objects_documents_or_control_characters(text: str) -> None:
    with pytest.raises(ConfigError, match="expected valid YAML"):
        parse_yaml(text, "test")
