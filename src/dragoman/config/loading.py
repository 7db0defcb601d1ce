"""Loading a configuration: schema defaults < the method's defaults < the file < `a.b=c` overrides.

The list of methods lives in a room above this one, so its defaults are handed in as a function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dragoman.config.describe import shown
from dragoman.config.method import MethodConfig
from dragoman.config.paths import resolve_data_path
from dragoman.config.problems import config_error
from dragoman.config.schema import Config
from dragoman.config.yaml12 import parse_yaml
from dragoman.errors import ConfigError

Tree = dict[str, Any]
DEFAULT_METHOD = MethodConfig.model_fields["name"].get_default()
DEFAULT_WITH_LIKELY_TOKENS = "canon_span"
"""The method, if none is named, where the teacher is asked for likely tokens (`teacher.topk`)."""
_DATA_PATHS = (("data", "train"), ("data", "heldout"), ("rollout", "replay"))


def load_config(
    path: Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    defaults: Callable[[str], Mapping[str, Any]] | None = None,
) -> Config:
    """The resolved configuration of a YAML (or JSON) file or of a mapping of the same shape.

    An override is `section.key=value` with the value in YAML. `defaults(method)` gives dotted keys and
    values that stand in for the schema's own; it raises ConfigError for a method it does not know. Where no
    method is named it is `span`, or `canon_span` if `teacher.topk` asks for likely tokens.

    Relative paths in `data.train`, `data.heldout` and `rollout.replay` are looked up from the working
    directory, then from the folder of the file. `run.dir`, if not given, is `runs/<file stem>`, or
    `runs/run` for a mapping.

    Raises ConfigError for a file that cannot be read, and for every unknown key, wrong type, value out
    of bounds or contradiction, all in one message that says which file or override holds it.
    """
    source, user = _read(path)
    for override in overrides:
        key, value = _parsed_override(override)
        _put(user, key, value, f"override {override!r}")
    for section in Config.model_fields:
        if user.get(section) is None:
            user[section] = {}
    brought: Tree = {}
    method: Any = None
    if isinstance(user["method"], dict):
        method = user["method"].get("name", _default_method(user))
        _put(brought, "method.name", method, "the default method")
    keys_brought: Mapping[str, Any] = {}
    if defaults is not None and isinstance(method, str):
        keys_brought = defaults(method)
        for key, value in keys_brought.items():
            _put(brought, key, value, f"the defaults of method {method!r}")
    tree = _merged(brought, user)
    _fill_paths(tree, path if isinstance(path, Path) else None)
    origins = _Origins(source, user, overrides, method, keys_brought)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise config_error(error, Config, tree, origins.source_of) from None


def _default_method(user: Tree) -> str:
    """The method of a configuration that names none: the one measured best for what the teacher tells
    (docs/decisions/0012-default-by-level.md)."""
    teacher = user["teacher"]
    asks = isinstance(teacher, dict) and teacher.get("topk") not in (None, 0)
    return DEFAULT_WITH_LIKELY_TOKENS if asks else str(DEFAULT_METHOD)


@dataclass(frozen=True)
class _Origins:
    """Which file, override or method set a key, for error messages."""

    source: str
    user: Tree
    overrides: Sequence[str]
    method: object
    keys_brought: Mapping[str, Any]

    def source_of(self, key: str) -> str:
        for override in reversed(self.overrides):
            overridden = override.partition("=")[0].strip()
            # `train.lr.x=1` is what put a mapping at `train.lr`; a section has many sources.
            below = key not in Config.model_fields and _within(overridden, key)
            if _within(key, overridden) or below:
                return f"override {override!r}"
        if not _holds(self.user, key) and any(_within(key, brought) for brought in self.keys_brought):
            return f"the defaults of method {self.method!r}"
        return self.source


def _within(key: str, outer: str) -> bool:
    return key == outer or key.startswith(f"{outer}.")


def _holds(tree: Tree, key: str) -> bool:
    value: Any = tree
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True


def _read(path: Path | Mapping[str, Any]) -> tuple[str, Tree]:
    """What the configuration is called in errors, and a tree of it that may be changed."""
    if not isinstance(path, Path):
        return "the mapping given", _plain(path, "")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}; expected a YAML file") from error
    tree = parse_yaml(text, str(path))
    if tree is None:
        return str(path), {}
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path}: got {shown(tree)}, expected a mapping of sections: {', '.join(Config.model_fields)}"
        )
    return str(path), tree


def _plain(value: Mapping[str, Any], prefix: str) -> Tree:
    """A copy whose mappings are all dicts, with text as keys."""
    for key in value:
        if not isinstance(key, str):
            raise ConfigError(f"got the key {key!r} in {prefix or 'the mapping given'}, expected text")
    return {
        key: _plain(item, f"{prefix}{key}.") if isinstance(item, Mapping) else item
        for key, item in value.items()
    }


def _parsed_override(override: str) -> tuple[str, object]:
    key, equals, value = override.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise ConfigError(f"got the override {override!r}, expected section.key=value, such as train.lr=1e-5")
    return key, parse_yaml(value, f"override {override!r}")


def _put(tree: Tree, key: str, value: object, source: str) -> None:
    """Set a dotted key, opening sections that are absent or null."""
    *parents, name = key.split(".")
    for parent in parents:
        if tree.get(parent) is None:
            tree[parent] = {}
        tree = tree[parent]
        if not isinstance(tree, dict):
            raise ConfigError(f"{source} sets {key}, but {parent} is {shown(tree)}, which holds no keys")
    tree[name] = value


def _merged(low: Tree, high: Tree) -> Tree:
    """`high` over `low`; mappings merge key by key, anything else is replaced."""
    merged = dict(low)
    for key, value in high.items():
        below = low.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _fill_paths(tree: Tree, path: Path | None) -> None:
    if isinstance(tree["run"], dict) and tree["run"].get("dir") is None:
        tree["run"] = {**tree["run"], "dir": f"runs/{path.stem if path is not None else 'run'}"}
    for section, name in _DATA_PATHS:
        value = tree[section].get(name) if isinstance(tree[section], dict) else None
        if isinstance(value, str) and path is not None:
            tree[section] = {**tree[section], name: resolve_data_path(value, path.parent)}
