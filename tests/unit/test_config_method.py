"""Configuration of methods and of what a teacher is asked: bounds, alternatives, contradictions."""

from __future__ import annotations

from typing import Any

import pytest

from dragoman.config import load_config
from dragoman.errors import ConfigError

MINIMAL: dict[str, Any] = {
    "student": {"model": "s"},
    "teacher": {"model": "t"},
    "data": {"train": "prompts.jsonl"},
    "train": {"steps": 10},
}


def refused(overrides: list[str]) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(MINIMAL, overrides)
    return str(caught.value)


def test_likely_tokens_of_the_teacher() -> None:
    assert load_config(MINIMAL, ["teacher.topk=all"]).teacher.topk == "all"
    assert load_config(MINIMAL, ["teacher.topk=16"]).teacher.topk == 16
    for value in ("-1", "some", "1.5"):
        message = refused([f"teacher.topk={value}"])
        assert "teacher.topk" in message
        assert "expected whole number >= 0, or 'all'" in message


def test_reference_of_the_teacher() -> None:
    config = load_config(MINIMAL, ["teacher.reference.model=small", "teacher.reference.dtype=float32"])
    assert config.teacher.reference is not None
    assert (config.teacher.reference.model, config.teacher.reference.dtype) == ("small", "float32")
    assert "unknown key 'teacher.reference.template'" in refused(
        ["teacher.reference.model=small", "teacher.reference.template=plain"]
    )


def test_entropy_switch_needs_another_divergence() -> None:
    message = refused(["method.entropy_switch=1.5"])
    assert "entropy_switch is 1.5, but divergence is 'forward' already" in message
    config = load_config(MINIMAL, ["method.entropy_switch=1.5", "method.divergence=reverse"])
    assert config.method.entropy_switch == 1.5


@pytest.mark.parametrize(
    "override",
    ["beta=0", "beta=1", "row_topk=0", "row_floor=0", "tau=0", "max_policy_shift=0", "reference_kl=-1"],
)
def test_bounds_of_method_settings(override: str) -> None:
    assert f"method.{override.split('=')[0]} in override" in refused([f"method.{override}"])
