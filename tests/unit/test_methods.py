"""The list of methods: what each needs, its defaults, and methods of other packages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from importlib import import_module
from importlib.metadata import EntryPoint
from typing import Any

import pytest

import dragoman.methods as registry
from dragoman.config import Config
from dragoman.errors import CapabilityError, ConfigError
from dragoman.methods import PAPER_DEFAULTS, Writer, get_method, method_defaults, methods
from dragoman.supervise import CREDITS, Guard
from dragoman.types import TeacherCaps, TeacherLevel

BUILT_IN = ["chunk", "dpca", "uniform", "sft"]
OTHER = replace(get_method("uniform"), name="other")
"""What the entry points of these tests name."""


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    """Entry points of other packages, as a list to add to."""
    entries: list[EntryPoint] = []
    monkeypatch.setattr(registry, "entry_points", lambda group: [e for e in entries if e.group == group])
    methods.cache_clear()
    yield entries
    methods.cache_clear()


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name=name, value=value, group="dragoman.methods")


def configuration(defaults: dict[str, Any]) -> Config:
    """A configuration with some dotted keys set."""
    tree: dict[str, Any] = {
        "student": {"model": "s"},
        "teacher": {"model": "t"},
        "data": {"train": "p.jsonl"},
        "train": {"steps": 1},
    }
    for key, value in defaults.items():
        *sections, last = key.split(".")
        reduce(lambda part, name: part.setdefault(name, {}), sections, tree)[last] = value
    return Config.model_validate(tree)


def test_built_in_methods(installed: list[EntryPoint]) -> None:
    assert list(methods()) == BUILT_IN
    assert all(method.name == name for name, method in methods().items())


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_method_is_complete(name: str) -> None:
    method = get_method(name)
    assert method.summary
    assert method.source
    module, function = method.objective.split(":")
    assert callable(getattr(import_module(module), function))
    # The student's own writing is scored and credited; a given answer is not.
    scored = method.writer is Writer.STUDENT
    assert (method.level is not None, method.credit is not None) == (scored, scored)


@pytest.mark.parametrize("name", BUILT_IN)
def test_defaults_are_configuration(name: str) -> None:
    defaults = dict(method_defaults(name))
    config = configuration(defaults)
    for key, value in defaults.items():
        assert reduce(getattr, key.split("."), config) == value
    Guard(config.method.guard)


def test_credit_rules() -> None:
    rules = {"chunk": "chunk", "dpca": "semantic_prior", "uniform": "uniform"}
    assert {name: get_method(name).credit for name in rules} == {n: CREDITS[r] for n, r in rules.items()}


def test_the_papers_recipe() -> None:
    # arXiv 2606.09456: chunks up to 6, clamp 10, clip .2 / .28, c = 10, log-ratio 20, token mean, no guard;
    # 500 steps of 128 prompts, one response each, at temperature 1, lr 1e-6 after 10 steps
    config = configuration(dict(PAPER_DEFAULTS))
    method = config.method
    assert (method.guard, method.max_chunk_tokens, method.clamp) == ("off", 6, 10.0)
    assert (method.clip_low, method.clip_high, method.dual_clip) == (0.2, 0.28, 10.0)
    assert (method.log_ratio_clamp, method.normalise) == (20.0, "token")
    train, rollout = config.train, config.rollout
    assert (train.lr, train.warmup_steps, train.prompts_per_step, train.steps) == (1e-6, 10, 128, 500)
    assert (rollout.samples_per_prompt, rollout.temperature) == (1, 1.0)


def test_defaults_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        method_defaults("dpca")["train.lr"] = 1.0  # type: ignore[index]
    with pytest.raises(TypeError):
        methods()["mine"] = OTHER  # type: ignore[index]


def test_unknown_method() -> None:
    with pytest.raises(ConfigError, match=r"method\.name is 'dcpa', which is no method; did you mean 'dpca'"):
        get_method("dcpa")
    with pytest.raises(ConfigError, match=r"known methods: chunk, dpca, uniform, sft"):
        get_method("zzz")


# --- what a teacher must offer


def test_level_of_the_teacher() -> None:
    topk = replace(OTHER, level=TeacherLevel.TOPK)
    topk.check(TeacherCaps(level=TeacherLevel.TOPK, generates=False), "t")
    topk.check(TeacherCaps(level=TeacherLevel.LOGITS, generates=False), "t")
    message = r"'other' needs a teacher of level 1 \(topk\), but 'small' offers level 0 \(realised\)"
    with pytest.raises(CapabilityError, match=message):
        topk.check(TeacherCaps(level=TeacherLevel.REALISED, generates=True), "small")


def test_a_writing_teacher_must_generate() -> None:
    get_method("sft").check(TeacherCaps(level=TeacherLevel.REALISED, generates=True), "t")
    with pytest.raises(CapabilityError, match=r"'sft' trains on answers that the teacher writes, but 'api'"):
        get_method("sft").check(TeacherCaps(level=TeacherLevel.LOGITS, generates=False), "api")


@pytest.mark.parametrize("name", ["chunk", "dpca", "uniform"])
def test_credit_needs_realised_tokens_only(name: str) -> None:
    get_method(name).check(TeacherCaps(level=TeacherLevel.REALISED, generates=False), "t")


# --- methods of other packages


def test_installed_methods_come_last(installed: list[EntryPoint]) -> None:
    installed.append(entry("other", f"{__name__}:OTHER"))
    assert list(methods()) == [*BUILT_IN, "other"]
    assert get_method("other") is OTHER


@pytest.mark.parametrize(
    "value",
    ["dragoman.methods:_BUILT_IN", "dragoman.methods:GUARDED"],
    ids=["tuple", "mapping"],
)
def test_entry_point_that_names_no_method(installed: list[EntryPoint], value: str) -> None:
    installed.append(entry("mine", value))
    with pytest.raises(ConfigError, match=r"entry point 'mine' .* must name a dragoman\.methods\.Method"):
        methods()


def test_entry_point_with_a_name_that_is_taken(
    installed: list[EntryPoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "OTHER", get_method("chunk"))
    methods.cache_clear()
    installed.append(entry("mine", f"{__name__}:OTHER"))
    with pytest.raises(ConfigError, match=r"entry point 'mine' .* with a new name"):
        methods()
