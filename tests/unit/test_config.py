"""Configuration: layers, YAML 1.2, strictness, and errors that name key, source and what was expected."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dragoman.config import Config, load_config, resolve_data_path
from dragoman.config.describe import section_of
from dragoman.config.docs import configuration_markdown
from dragoman.config.problems import all_keys
from dragoman.errors import ConfigError

DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"

MINIMAL: dict[str, Any] = {
    "student": {"model": "s"},
    "teacher": {"model": "t"},
    "data": {"train": "prompts.jsonl"},
    "train": {"steps": 10},
}
TEXT = "student: {model: s}\nteacher: {model: t}\ndata: {train: prompts.jsonl}\ntrain: {steps: 10}\n"


def write(folder: Path, more: str = "", name: str = "study.yaml") -> Path:
    path = folder / name
    path.write_text(TEXT + more, encoding="utf-8")
    return path


def refused(overrides: list[str], **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(MINIMAL, overrides, **options)
    return str(caught.value)


def test_plain_defaults() -> None:
    config = load_config(MINIMAL)
    assert (config.run.dir, config.run.seed, config.run.trackers) == ("runs/run", 0, ("tensorboard",))
    assert (config.method.name, config.method.guard, config.method.clamp) == ("span", "off", None)
    assert (config.method.clip_low, config.method.clip_high, config.method.dual_clip) == (0.2, 0.28, 10.0)
    assert (config.train.lr, config.train.betas, config.train.eps) == (1e-5, (0.9, 0.999), 1e-8)
    assert (config.teacher.batch_tokens, config.teacher.logit_slice, config.eval.seed) == (16384, None, 1234)
    assert config.student.lora is None


def test_layers_later_ones_win(tmp_path: Path) -> None:
    # clip_low: schema only; clamp: method over schema; lr: file over method; steps: override over file
    asked = []

    def defaults(method: str) -> dict[str, Any]:
        asked.append(method)
        return {"method.clamp": 10.0, "method.guard": "penalty", "train.lr": 1e-6, "train.warmup_steps": 3}

    path = write(tmp_path, "method: {name: dpca, guard: off}\n").read_text()
    path = path.replace("{steps: 10}", "{steps: 10, lr: 3e-4}")
    (tmp_path / "study.yaml").write_text(path)
    config = load_config(tmp_path / "study.yaml", ["train.steps=20"], defaults)
    assert asked == ["dpca"]
    assert config.method.clip_low == 0.2
    assert (config.method.clamp, config.train.warmup_steps) == (10.0, 3)
    assert (config.train.lr, config.method.guard) == (3e-4, "off")
    assert config.train.steps == 20


def test_method_name_may_come_from_an_override_or_the_schema() -> None:
    asked: list[str] = []

    def defaults(method: str) -> dict[str, Any]:
        asked.append(method)
        return {}

    load_config(MINIMAL, ["method.name=gkd"], defaults)
    load_config(MINIMAL, defaults=defaults)
    assert asked == ["gkd", "span"]


def test_null_given_by_the_user_beats_the_method() -> None:
    config = load_config(MINIMAL, ["method.clamp=null"], lambda _: {"method.clamp": 10.0})
    assert config.method.clamp is None


def test_error_of_the_method_list_passes_through() -> None:
    def defaults(method: str) -> dict[str, Any]:
        raise ConfigError(f"no method {method!r}")

    assert refused([], defaults=defaults) == "no method 'span'"


def test_bad_method_default_is_blamed_on_the_method() -> None:
    message = refused([], defaults=lambda _: {"method.clamp": -1.0})
    assert "method.clamp in the defaults of method 'span': got -1.0, expected number > 0, or null" in message


def test_run_dir_follows_the_file_name(tmp_path: Path) -> None:
    assert load_config(write(tmp_path)).run.dir == "runs/study"
    assert load_config(write(tmp_path, "run: {dir: null}\n")).run.dir == "runs/study"
    assert load_config(write(tmp_path), ["run.dir=out/x"]).run.dir == "out/x"


def test_empty_section_is_an_absent_one(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "eval:\n  # every: 5\n")).eval.every == 0


def test_resolved_json_reads_back_equal(tmp_path: Path) -> None:
    config = load_config(
        MINIMAL, ["student.lora={target_modules: [q_proj, v_proj]}", "train.lr=1.5e-7", "method.guard=off"]
    )
    assert load_config(json.loads(config.to_json())) == config
    path = tmp_path / "config.resolved.json"
    path.write_text(config.to_json())
    assert load_config(path) == config


def test_given_mapping_is_not_changed() -> None:
    given = json.loads(json.dumps(MINIMAL))
    load_config(given, ["train.lr=1", "run.seed=3"])
    assert given == MINIMAL


def test_config_is_frozen() -> None:
    config = load_config(MINIMAL)
    with pytest.raises(ValidationError, match="frozen"):
        config.train.lr = 1.0


# --- overrides


def test_override_values_are_yaml_and_open_sections() -> None:
    config = load_config(
        MINIMAL,
        [
            "student.lora.r=8",
            "train.betas=[0.8, 0.9]",
            "student.chat_template_kwargs.enable_thinking=false",
            "run.project=a=b",
            "run.trackers=[]",
            "run.project= spaced ",
            "train.max_grad_norm=",
        ],
    )
    assert config.student.lora is not None
    assert (config.student.lora.r, config.student.lora.alpha) == (8, 32)
    assert config.train.betas == (0.8, 0.9)
    assert config.student.chat_template_kwargs == {"enable_thinking": False}
    assert (config.run.project, config.run.trackers) == ("spaced", ())
    assert config.train.max_grad_norm is None


@pytest.mark.parametrize("override", ["train.lr", "=3", "train..lr=3", ".lr=3"])
def test_override_without_key_or_value(override: str) -> None:
    assert refused([override]) == (
        f"got the override {override!r}, expected section.key=value, such as train.lr=1e-5"
    )


def test_override_below_a_plain_value() -> None:
    assert refused(["train.steps.x=3"]) == (
        "override 'train.steps.x=3' sets train.steps.x, but steps is 10, which holds no keys"
    )
    assert "train.lr in override 'train.lr.x=3': got {\"x\": 3}, expected number >= 0" in refused(
        ["train.lr.x=3"]
    )


def test_override_with_broken_yaml() -> None:
    assert refused(["train.betas=[1"]).startswith("override 'train.betas=[1', line 1, column 3: ")


# --- unknown keys


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("train.lrr=3", "did you mean train.lr?"),
        ("trainn.lr=3", "did you mean train?"),
        ("student.lora.target_module=x", "did you mean student.lora.target_modules?"),
        ("lr=3", "did you mean train.lr?"),
        ("rollout.logit_slice=3", "did you mean teacher.logit_slice or train.logit_slice?"),
        ("student.lora.rank=3", "known here: r, alpha, dropout, target_modules"),
    ],
)
def test_unknown_key(override: str, hint: str) -> None:
    message = refused([override])
    assert message.startswith("unknown key ")
    assert f"in override {override!r}; {hint}" in message


def test_unknown_key_names_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "rollout: {tmperature: 1}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value) == (
        f"unknown key 'rollout.tmperature' in {path}; did you mean rollout.temperature?"
    )


def test_all_problems_at_once() -> None:
    message = refused(["train.lr=x", "run.sed=1", "method.guard=on"])
    assert message.startswith("3 problems in the configuration:\n  ")
    assert message.count("\n") == 3


# --- types and bounds


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.steps=ten", 'got "ten" (text), expected whole number >= 1'),
        ('train.steps="10"', 'got "10" (text), expected whole number >= 1'),
        ("train.steps=1.0", "got 1.0, expected whole number >= 1"),
        ("train.steps=true", "got true, expected whole number >= 1"),
        ("train.steps=0", "got 0, expected whole number >= 1"),
        ("train.lr=.nan", "got NaN, expected number >= 0"),
        ("rollout.top_p=1.5", "got 1.5, expected number > 0 and <= 1"),
        ("rollout.temperature=0", "got 0, expected number > 0"),
        ("method.dual_clip=1", "got 1, expected number > 1, or null"),
        ("method.guard=on", "got \"on\" (text), expected one of 'off', 'mask', 'penalty'"),
        ("train.betas=[0.9, 1]", "got [0.9, 1], expected list of 2, each a number >= 0 and < 1"),
        ("train.betas=[0.9]", "got [0.9], expected list of 2, each a number >= 0 and < 1"),
        ("run.trackers=wandb", 'got "wandb" (text), expected list of text'),
        ("student.lora.target_modules=[1]", "got [1], expected 'all-linear', or list of text"),
        ("student.lora=yes", 'got "yes" (text), expected section, or null'),
        ("student.model=''", 'got "" (text), expected text that is not empty'),
        ("student.chat_template_kwargs=1", "got 1, expected mapping"),
        ("data.shuffle=1", "got 1, expected true or false"),
        ("train=4", "got 4, expected section"),
    ],
)
def test_wrong_value(override: str, expected: str) -> None:
    key = override.partition("=")[0]
    message = refused([override])
    assert message.startswith(f"{key} in override {override!r}: {expected}. ")
    assert "\n" not in message


def test_value_in_file_is_blamed_on_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "eval: {every: often}\n")
    with pytest.raises(ConfigError, match=r"^eval\.every in .*study\.yaml: got \"often\" \(text\)"):
        load_config(path)


def test_missing_keys_are_named_one_by_one() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({})
    lines = str(caught.value).splitlines()
    assert [line.split()[0] for line in lines[1:]] == [
        "student.model",
        "teacher.model",
        "data.train",
        "train.steps",
    ]
    assert "train.steps is missing from the mapping given: expected whole number >= 1" in lines[4]


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["rollout.engine=replay"], "engine is 'replay', but rollout.replay does not say"),
        (["rollout.replay=old"], "engine 'sample' would ignore it"),
        (["data.prompt_field=messages"], "are both 'messages'"),
        (["train.minibatches=17"], "train.minibatches is 17, but a step has only 16 rollouts"),
        (["eval.every=5"], "eval.every is 5, but data.heldout is not set"),
    ],
)
def test_contradictions(overrides: list[str], part: str) -> None:
    message = refused(overrides)
    assert part in message
    assert "the mapping given" in message


def test_as_many_minibatches_as_rollouts() -> None:
    # 2 prompts x 3 samples = 6 rollouts
    overrides = ["train.prompts_per_step=2", "rollout.samples_per_prompt=3", "train.minibatches=6"]
    assert load_config(MINIMAL, overrides).train.minibatches == 6


def test_keys_that_are_not_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"got the key 3 in student\., expected text"):
        load_config({**MINIMAL, "student": {"model": "s", 3: 4}})
    with pytest.raises(ConfigError, match="line 5, column 7: got the key 3, expected text"):
        load_config(write(tmp_path, "run: {3: 4}\n"))


# --- files and YAML


def test_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*none\.yaml"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match=r"list\.yaml: got \[1\], expected a mapping of sections: run, "):
        load_config(tmp_path / "list.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"run: {project: \xe9t\xe9}\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml: .*0xe9"):
        load_config(tmp_path / "latin.yaml")


def test_key_given_twice(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"line 5, column 1: key 'train' is given twice"):
        load_config(write(tmp_path, "train: {lr: 1}\n"))


# --- paths


def test_data_paths_working_directory_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work, folder = tmp_path / "work", tmp_path / "configs"
    work.mkdir()
    folder.mkdir()
    monkeypatch.chdir(work)
    path = write(folder, "rollout: {engine: replay, replay: old}\n")
    (folder / "prompts.jsonl").write_text("{}")
    (folder / "old").mkdir()
    config = load_config(path)
    assert (config.data.train, config.rollout.replay) == (str(folder / "prompts.jsonl"), str(folder / "old"))
    (work / "prompts.jsonl").write_text("{}")
    assert load_config(path).data.train == "prompts.jsonl"
    assert load_config(path, ["data.heldout=some/dataset"]).data.heldout == "some/dataset"
    assert resolve_data_path("old", None) == "old"


# --- documentation and import


def test_every_key_has_a_description() -> None:
    undescribed = []
    stack = [("", Config)]
    while stack:
        prefix, section = stack.pop()
        for name, field in section.model_fields.items():
            if not field.description or not field.description.endswith("."):
                undescribed.append(prefix + name)
            inner = section_of(field.annotation)
            if inner is not None:
                stack.append((f"{prefix}{name}.", inner))  # type: ignore[arg-type]
    assert undescribed == []


def test_page_is_the_generated_one() -> None:
    page = configuration_markdown()
    assert DOCS.read_text(encoding="utf-8") == page, (
        "regenerate docs/configuration.md from dragoman.config.docs.configuration_markdown()"
    )
    assert all(f"`{key}`" in page for key in all_keys(Config))


def test_example_on_the_page_loads(tmp_path: Path) -> None:
    example = configuration_markdown().split("```yaml\n")[1].split("```")[0]
    (tmp_path / "example.yaml").write_text(example)
    assert load_config(tmp_path / "example.yaml").train.steps == 100


def test_import_is_light_and_fast() -> None:
    program = (
        "import sys, time; start = time.process_time(); import dragoman.config; "
        "print(time.process_time() - start, "
        "[name for name in ('numpy', 'torch', 'transformers', 'datasets') if name in sys.modules])"
    )
    runs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    seconds, heavy = zip(*(run.stdout.split(maxsplit=1) for run in runs), strict=True)
    assert set(heavy) == {"[]\n"}
    assert min(map(float, seconds)) < 0.25


@pytest.mark.parametrize(
    ("overrides", "method"),
    [
        ([], "span"),
        (["teacher.topk=0"], "span"),
        (["teacher.topk=64"], "canon_span"),
        (["teacher.topk=all"], "canon_span"),
        (["teacher.topk=64", "method.name=bpm"], "bpm"),
    ],
)
def test_the_default_method_is_by_what_the_teacher_tells(overrides: list[str], method: str) -> None:
    tree = {
        "student": {"model": "s"},
        "teacher": {"model": "t"},
        "data": {"train": "p.jsonl"},
        "train": {"steps": 1},
    }
    seen: list[str] = []
    config = load_config(tree, overrides, lambda name: seen.append(name) or {"method.clamp": 7.0})  # type: ignore[func-returns-value]
    assert config.method.name == method and seen == [method] and config.method.clamp == 7.0
