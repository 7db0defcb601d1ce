"""A tiny pair of models of two tokenizers, and runs on them that last a second or two."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import tiny
from dragoman import cli
from dragoman.api import Distillation, run_training
from dragoman.config import Config, load_config
from dragoman.methods import method_defaults
from dragoman.train.loop import Progress, silent

PROMPTS = (
    {"prompt": "The interpreter stood"},
    {"prompt": "A teacher"},
    {"messages": [{"role": "user", "content": "What is 12 + 30?"}]},
    {"id": "named", "prompt": "Hello world, hello"},
)
HELDOUT = ({"prompt": "There are some"}, {"prompt": "The other tokenizer splits"})

Lines = Callable[..., Path]
Settings = Callable[..., Config]
Run = Callable[..., Distillation]


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level model of 2 layers; tests must not write into its folder."""
    return tiny.byte_level_model(tmp_path_factory.mktemp("models") / "student", seed=1)


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 2 layers with SentencePiece's spelling; tests must not write into its folder."""
    return tiny.sentencepiece_model(tmp_path_factory.mktemp("models") / "teacher", seed=2)


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    """`lines(name, rows)` writes a JSON Lines file."""

    def write(name: str, rows: tuple[Mapping[str, Any], ...]) -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def tree(student: Path, teacher: Path, tmp_path: Path, lines: Lines) -> dict[str, Any]:
    """The configuration that tests vary: 2 steps of 4 prompts, 8 tokens an answer."""
    return {
        "run": {"dir": str(tmp_path / "run"), "threads": 1, "trackers": []},
        "student": {"model": str(student)},
        "teacher": {"model": str(teacher)},
        "data": {
            "train": str(lines("train.jsonl", PROMPTS)),
            "heldout": str(lines("heldout.jsonl", HELDOUT)),
        },
        "rollout": {"max_new_tokens": 8},
        "train": {"steps": 2, "prompts_per_step": 4, "lr": 1e-3, "warmup_steps": 0},
    }


@pytest.fixture
def configured(tree: dict[str, Any]) -> Settings:
    """`configured({"train.lr": 0.1})` is the resolved configuration with some keys changed."""

    def load(changes: Mapping[str, Any] | None = None) -> Config:
        overrides = [f"{key}={json.dumps(value)}" for key, value in (changes or {}).items()]
        return load_config(tree, overrides, method_defaults)

    return load


@pytest.fixture
def run(configured: Settings, tmp_path: Path) -> Run:
    """`run(name, {"train.lr": 0.1})` trains in a folder of that name."""

    def start(
        name: str = "run",
        changes: Mapping[str, Any] | None = None,
        *,
        resume: bool = False,
        progress: Progress = silent,
    ) -> Distillation:
        config = configured({"run.dir": str(tmp_path / name), **(changes or {})})
        return run_training(config, text=config.to_json(), resume=resume, progress=progress)

    return start


def read_without_seconds(path: Path) -> list[dict[str, Any]]:
    text = (path / "metrics.jsonl").read_text(encoding="utf-8")
    return [
        {key: value for key, value in json.loads(line).items() if not key.startswith("seconds")}
        for line in text.splitlines()
    ]


@pytest.fixture
def metrics() -> Callable[[Path], list[dict[str, Any]]]:
    """`metrics(path)` are the lines of a run's `metrics.jsonl` without what no two runs share: seconds."""
    return read_without_seconds


class Refusal(NamedTuple):
    """What a refused call left behind."""

    code: int
    message: str


@pytest.fixture
def refused(
    tree: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Refusal]:
    """`refused({"train.lr": -1})` is what `dragoman train` says to the tiny configuration so changed."""

    def call(changes: Mapping[str, Any] | None = None) -> Refusal:
        path = tmp_path / "tiny.yaml"
        path.write_text(json.dumps(tree), encoding="utf-8")
        overrides = [f"{key}={json.dumps(value)}" for key, value in (changes or {}).items()]
        monkeypatch.setattr(sys, "argv", ["dragoman", "train", str(path), *overrides])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert out == ""
        assert "Traceback" not in err
        assert isinstance(ended.value.code, int)
        return Refusal(ended.value.code, err[err.index("error: ") :])

    return call


class Outcome:
    """What a call of the command did."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`call("align", "--json", ...)` is the command `dragoman align --json ...`."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["dragoman", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        out, err = capsys.readouterr()
        assert isinstance(code, int)
        return Outcome(code, out, err)

    return run


@pytest.fixture
def config(tree: dict[str, Any], tmp_path: Path) -> Path:
    """The tiny configuration as a file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(tree), encoding="utf-8")
    return path
