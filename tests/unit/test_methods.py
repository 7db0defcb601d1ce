"""The list of methods: what each needs, its defaults, and methods of other packages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import dragoman.methods as registry
import tiny
from dragoman.config import Config, MethodConfig
from dragoman.errors import CapabilityError, ConfigError
from dragoman.methods import BUILT_IN, Method, Signal, Writer, get_method, method_defaults, methods
from dragoman.methods.sampled import PAPER_DEFAULTS
from dragoman.text import Tokenization
from dragoman.text.pair import PairTables
from dragoman.types import TeacherCaps, TeacherLevel

OTHER = replace(get_method("uniform"), name="other")
"""What the entry points of these tests name."""
NAMES = [method.name for method in BUILT_IN]


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
    assert list(methods()) == NAMES
    assert len(set(NAMES)) == len(NAMES)
    assert get_method("chunk") is methods()["chunk"]


@pytest.mark.parametrize("method", BUILT_IN, ids=NAMES)
def test_a_method_is_complete(method: Method) -> None:
    for text in (method.summary, method.formula, method.source, method.caveat):
        assert text
        assert "\n" not in text
    # The student's own writing is scored and supervised; a given answer is not.
    scored = method.writer is Writer.STUDENT
    assert (method.level is not None, method.supervise is not None) == (scored, scored)
    assert (method.signal is Signal.ANSWERS) == (not scored)
    # A teacher gives what a method needs under the method's own defaults.
    asked = method.defaults.get("teacher.topk", 0)
    assert (method.level in (TeacherLevel.TOPK, TeacherLevel.LOGITS)) == bool(asked)
    assert (method.level is TeacherLevel.LOGITS) == (asked == "all")


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_configuration(name: str) -> None:
    defaults = dict(method_defaults(name))
    config = configuration(defaults)
    for key, value in defaults.items():
        assert reduce(getattr, key.split("."), config) == value
    get_method(name).check_settings(config.method)


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
    with pytest.raises(ConfigError, match=r"known methods: chunk, .*dpca, .*sft"):
        get_method("zzz")


# --- what a teacher must offer


def test_level_of_the_teacher() -> None:
    topk = replace(OTHER, level=TeacherLevel.TOPK)
    topk.check(TeacherCaps(level=TeacherLevel.TOPK, generates=False), "t")
    topk.check(TeacherCaps(level=TeacherLevel.LOGITS, generates=False), "t")
    message = r"'other' needs a teacher of level 1 \(topk\), but 'small' offers level 0 \(realised\); set tea"
    with pytest.raises(CapabilityError, match=message):
        topk.check(TeacherCaps(level=TeacherLevel.REALISED, generates=True), "small")


@pytest.mark.parametrize(
    ("level", "words"),
    [
        (TeacherLevel.TOPK, "set teacher.topk=128"),
        (TeacherLevel.LOGITS, "set teacher.topk=all"),
        (TeacherLevel.REFERENCE, "teacher.reference.model"),
    ],
)
def test_what_to_change_for_a_level(level: TeacherLevel, words: str) -> None:
    with pytest.raises(CapabilityError, match=words):
        replace(OTHER, level=level).check(TeacherCaps(level=TeacherLevel.REALISED, generates=True), "t")


def test_a_reference_is_apart_from_the_level() -> None:
    # Whole distributions are no reference, and a reference brings no distributions.
    reference, logits = (
        replace(OTHER, level=level) for level in (TeacherLevel.REFERENCE, TeacherLevel.LOGITS)
    )
    plain = TeacherCaps(level=TeacherLevel.REALISED, generates=True, has_reference=True)
    reference.check(plain, "t")
    with pytest.raises(CapabilityError, match="level 2"):
        logits.check(plain, "t")
    with pytest.raises(CapabilityError, match="level 3"):
        reference.check(TeacherCaps(level=TeacherLevel.LOGITS, generates=True), "t")


def test_equal_tokenizers(tmp_path: Path) -> None:
    strict = replace(OTHER, equal_tokenizers=True)
    student = Tokenization.from_pretrained(str(tiny.byte_level(tmp_path / "a")))
    other = Tokenization.from_pretrained(str(tiny.sentencepiece(tmp_path / "b")))
    strict.check_tokenizers(student, student)
    OTHER.check_tokenizers(student, other)
    with pytest.raises(CapabilityError, match=r"'other' compares distributions id by id"):
        strict.check_tokenizers(student, other)
    assert strict.needs == "level 0 (realised), equal tokenizers"


@pytest.mark.parametrize(
    "key",
    ["negative=divergence", "student_topk=4", "mask_whitespace=true", "reliability=mass"],
)
def test_a_setting_that_credits_would_ignore(key: str) -> None:
    name, value = key.split("=")
    found = {"true": True, "4": 4}.get(value, value)
    config = MethodConfig.model_validate({name: found})
    with pytest.raises(ConfigError, match=rf"method\.{name} is {found!r}, which method 'other' would ignore"):
        OTHER.check_settings(config)
    replace(OTHER, settings=frozenset({name})).check_settings(config)
    replace(OTHER, settings=None).check_settings(config)


@pytest.mark.parametrize(
    ("name", "settings", "ignored"),
    [
        ("bpm", {"clamp": 5.0}, "clamp is 5.0"),
        ("bpm", {"clip_low": 0.1}, "clip_low is 0.1"),
        ("alm", {"dual_clip": None}, "dual_clip is None"),
        ("canon", {"guard": "mask", "guard_penalty": 2.0}, "guard_penalty is 2.0"),
        ("chunk", {"guard": "mask", "guard_penalty": 2.0}, "guard_penalty is 2.0"),
        ("chunk", {"credit_coef": 0.5}, "credit_coef is 0.5"),
        ("retok", {"beta": 0.3}, "beta is 0.3"),
        ("gkd", {"divergence": "jsd", "row_floor": 1e-3}, "row_floor is 0.001"),
        ("retok", {"log_ratio_clamp": 5.0}, "log_ratio_clamp is 5.0"),
        ("sft", {"guard": "mask"}, "guard is 'mask'"),
        ("sft", {"clamp": 5.0}, "clamp is 5.0"),
        ("sft", {"max_chunk_tokens": 4}, "max_chunk_tokens is 4"),
        ("sft", {"normalised": "mask"}, "normalised is 'mask'"),
    ],
)
def test_a_setting_that_does_nothing(name: str, settings: dict[str, Any], ignored: str) -> None:
    with pytest.raises(ConfigError, match=rf"method\.{ignored}, which method '{name}' would ignore"):
        get_method(name).check_settings(MethodConfig.model_validate(settings))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("chunk", {"guard": "penalty", "guard_penalty": 2.0, "clamp": 5.0, "dual_clip": None}),
        ("canon_span", {"guard": "penalty", "guard_penalty": 2.0, "clip_low": 0.1, "credit_coef": 0.5}),
        ("retok", {"divergence": "skewed", "beta": 0.3}),
        ("retok", {"reference_kl": 0.5, "log_ratio_clamp": 5.0}),
        ("alm", {"guard": "mask", "max_chunk_tokens": 4, "tau": 10.0}),
        # the method's own default under another guard is not the user's wish
        ("span", {"guard": "mask", "guard_penalty": 1.0}),
    ],
)
def test_a_setting_that_does_something(name: str, settings: dict[str, Any]) -> None:
    get_method(name).check_settings(MethodConfig.model_validate(settings))


def test_likely_tokens_that_nobody_reads() -> None:
    for name in ("span", "alm", "compass", "sft"):
        asked = configuration({"teacher.topk": 8}).teacher
        with pytest.raises(ConfigError, match=rf"teacher\.topk is 8, but method '{name}' needs"):
            get_method(name).check_teacher(asked)
        get_method(name).check_teacher(configuration({}).teacher)
    for name in ("marginal", "canon", "uld"):
        get_method(name).check_teacher(configuration({"teacher.topk": "all"}).teacher)


@pytest.mark.parametrize("name", NAMES)
def test_a_method_reads_its_own_defaults(name: str) -> None:
    method = get_method(name)
    assert method.reads is not None
    keys = {key.removeprefix("method.") for key in method.defaults if key.startswith("method.")}
    assert keys <= method.reads | {"normalise"}
    assert ("guard" in method.reads) == (name != "sft")
    assert ("clamp" in method.reads) == (method.credit is not None or name == "compass")


@pytest.mark.parametrize("key", ["reference_kl", "max_policy_shift"])
def test_a_setting_that_given_answers_would_ignore(key: str) -> None:
    config = MethodConfig.model_validate({key: 0.5})
    OTHER.check_settings(config)
    with pytest.raises(ConfigError, match=rf"method\.{key} is 0\.5, which method 'sft' would ignore"):
        get_method("sft").check_settings(config)


def test_a_supervision_that_is_not_there(tmp_path: Path) -> None:
    same = Tokenization.from_pretrained(str(tiny.byte_level(tmp_path)))
    tables = PairTables(same, same)
    assert get_method("sft").build(tables, MethodConfig()) is None
    for path in ("dragoman.nowhere:build", "dragoman.methods:nothing"):
        with pytest.raises(ConfigError, match=rf"'other' names '{path}', which cannot be imported"):
            replace(OTHER, supervise=path).build(tables, MethodConfig())


def test_a_writing_teacher_must_generate() -> None:
    get_method("sft").check(TeacherCaps(level=TeacherLevel.REALISED, generates=True), "t")
    with pytest.raises(CapabilityError, match=r"'sft' trains on answers that the teacher writes, but 'api'"):
        get_method("sft").check(TeacherCaps(level=TeacherLevel.LOGITS, generates=False), "api")


# --- methods of other packages


def test_installed_methods_come_last(installed: list[EntryPoint]) -> None:
    installed.append(entry("other", f"{__name__}:OTHER"))
    assert list(methods()) == [*NAMES, "other"]
    assert get_method("other") is OTHER


@pytest.mark.parametrize(
    "value",
    ["dragoman.methods:BUILT_IN", "dragoman.methods.sampled:GUARDED"],
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
