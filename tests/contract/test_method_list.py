"""The list of methods against the rest of the repository: what it names is there, and documents agree."""

from __future__ import annotations

from inspect import signature
from pathlib import Path

import pytest

from dragoman.config import MethodConfig, load_config
from dragoman.methods import BUILT_IN, Method, Writer, method_defaults
from dragoman.methods.method import OWN_SETTINGS, load_named

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes" / "methods"
NAMES = [method.name for method in BUILT_IN]
DOCS = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")

each_method = pytest.mark.parametrize("method", BUILT_IN, ids=NAMES)


@each_method
def test_what_a_method_names_is_there(method: Method) -> None:
    assert list(signature(load_named(method.objective, method.name)).parameters) == ["scored", "settings"]
    if method.supervise is not None:
        assert list(signature(load_named(method.supervise, method.name)).parameters) == ["tables", "config"]


def test_settings_are_keys() -> None:
    assert set(MethodConfig.model_fields) >= OWN_SETTINGS
    for method in BUILT_IN:
        assert method.settings is not None
        assert method.settings <= OWN_SETTINGS
    # Every such key is read by some method, or it would do nothing at all.
    assert frozenset[str]().union(*(method.settings or () for method in BUILT_IN)) == OWN_SETTINGS


@each_method
def test_a_recipe_for_every_method(method: Method) -> None:
    path = RECIPES / f"{method.name}.yaml"
    config = load_config(path, defaults=method_defaults)
    assert config.method.name == method.name
    assert (config.train.steps, config.train.prompts_per_step) == (40, 8)
    assert config.rollout.max_new_tokens == 32
    assert config.student.model == "assets:smollm2-135m-instruct"
    method.check_settings(config.method)
    comment = path.read_text(encoding="utf-8").split("\n\n")[0]
    assert comment.startswith(f"# Method `{method.name}`: ")
    assert "# Expected figures: " in comment


def test_no_recipe_without_a_method() -> None:
    assert sorted(path.stem for path in RECIPES.glob("*.yaml")) == sorted(NAMES)


@each_method
def test_the_documentation_has_the_row_of_a_method(method: Method) -> None:
    formula = method.formula.replace("|", "\\|")
    row = f"| `{method.name}` | `{formula}` | {method.needs} | {method.source} | {method.caveat} |"
    assert row in DOCS.splitlines()


def test_the_documentation_has_no_other_methods() -> None:
    listed = DOCS.split("## The list")[1].split("## Notation")[0]
    rows = [line.split("`")[1] for line in listed.splitlines() if line.startswith("| `")]
    assert rows == NAMES


def test_the_documentation_says_who_writes() -> None:
    assert [method.name for method in BUILT_IN if method.writer is Writer.TEACHER] == ["sft"]
    assert "The student writes in all but `sft`." in DOCS
