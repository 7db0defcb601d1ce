"""The command line: stdout holds the result and nothing else, exit codes are 0, 1 and 2."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dragoman.cli import process
from dragoman.cli.process import SPINS
from dragoman.methods import methods
from dragoman.text import Tokenization

TEXT = "naïve 🙂, said the interpreter"


Call = Callable[..., Any]
SPINNING = {"GOMP_SPINCOUNT": str(SPINS), "KMP_BLOCKTIME": "0"}


def test_the_installed_command_runs() -> None:
    """And imports no torch to print its help."""
    code = "import sys; from dragoman.cli import main; sys.argv[0] = 'dragoman'\ntry: main()\nfinally: " + (
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: dragoman [OPTIONS] COMMAND [ARGS]...")
    assert done.stderr == "False\n"


def test_settings_of_the_process() -> None:
    """Are there before torch is imported."""
    code = (
        "import os, sys; from dragoman.cli import main; sys.argv[:] = ['dragoman', '--version']\n"
        "try: main()\nfinally: print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    waiting = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    plain = {name: value for name, value in os.environ.items() if name not in waiting}
    for own, expected in (
        ({"OMP_NUM_THREADS": "1"}, "PASSIVE"),
        ({"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=plain | own
        )
        assert done.stdout.splitlines()[-1] == f"{expected} False"


@pytest.mark.parametrize(
    ("environ", "platform", "busy", "expected"),
    [
        ({}, "linux", 0.1, SPINNING),
        ({"OMP_NUM_THREADS": "8"}, "linux", 0.1, SPINNING),
        ({}, "linux", math.inf, {"OMP_WAIT_POLICY": "PASSIVE"}),
        ({}, "linux", 0.9, {"OMP_WAIT_POLICY": "PASSIVE"}),
        ({}, "darwin", 0.1, {"OMP_WAIT_POLICY": "PASSIVE"}),
        ({"OMP_NUM_THREADS": "1"}, "linux", 0.1, {"OMP_WAIT_POLICY": "PASSIVE"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "linux", 0.9, {}),
        ({"GOMP_SPINCOUNT": "7"}, "linux", 0.9, {}),
        ({"KMP_BLOCKTIME": "7"}, "linux", 0.1, {}),
    ],
)
def test_how_threads_wait(
    environ: dict[str, str],
    platform: str,
    busy: float,
    expected: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "busy_cores", lambda: busy)
    monkeypatch.setattr(sys, "platform", platform)
    assert process.waiting(environ) == expected


def test_a_busy_core_is_seen() -> None:
    """By a share of it only, where there are more busy processes than cores."""
    burner = [sys.executable, "-c", "print('on', flush=True)\nwhile True: pass"]
    with subprocess.Popen(burner, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            found = max(process.busy_cores() for _ in range(5))
        finally:
            other.kill()
    assert found > process.IDLE_CORES


def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError("/proc/stat")

    monkeypatch.setattr(process.psutil, "cpu_percent", refuse)
    assert process.busy_cores() == math.inf


def test_help_names_every_verb(call: Call) -> None:
    shown = call("--help")
    assert (shown.code, shown.err) == (0, "")
    for verb in ("train", "eval", "align", "profile", "methods", "doctor", "assets"):
        assert f"\n  {verb} " in shown.out
        assert call(verb, "-h").code == 0


def test_version(call: Call) -> None:
    assert call("--version").out == "dragoman, version 0.1.0\n"


def test_align_as_json(call: Call, student: Path, teacher: Path) -> None:
    found = call("align", "--json", "--student", student, "--teacher", teacher, TEXT)
    assert (found.code, found.err) == (0, "")
    value = json.loads(found.out)
    data = TEXT.encode()
    for side in ("student", "teacher"):
        bounds = value[side]["bounds"]
        assert len(bounds) == len(value[side]["ids"]) + 1
        assert (bounds[0], bounds[-1]) == (0, len(data))
    sides = {"student": Tokenization.from_pretrained(str(student)).view(value["student"]["ids"])}
    sides["teacher"] = Tokenization.from_pretrained(str(teacher)).view(value["teacher"]["ids"])
    assert all(text.data == data for text in sides.values())
    above, below = 0, 0
    for s0, s1, t0, t1, kind in value["chunks"]:
        assert (s0, t0) == (above, below)
        above, below = s1, t1
        tokens = s1 - s0, t1 - t0
        label = {(True, True): "1:1", (True, False): "1:n", (False, True): "n:1", (False, False): "n:m"}
        assert kind == label[tokens[0] == 1, tokens[1] == 1]
        ends = [
            [value["student"]["bounds"][i] for i in (s0, s1)],
            [value["teacher"]["bounds"][i] for i in (t0, t1)],
        ]
        assert ends[0] == ends[1]
    assert (above, below) == (len(value["student"]["ids"]), len(value["teacher"]["ids"]))
    assert value["coverage"] == 1.0


def test_align_as_text(call: Call, student: Path, teacher: Path) -> None:
    shown = call("align", "--width", 60, "--student", student, "--teacher", teacher, "Hello world")
    assert (shown.code, shown.err) == (0, "")
    assert "Hello" in shown.out
    assert all(len(line) <= 60 for line in shown.out.splitlines())


def test_align_reads_stdin(student: Path, teacher: Path) -> None:
    command = [sys.executable, "-c", "from dragoman.cli import main; main()"]
    options = ["align", "--json", "--student", str(student), "--teacher", str(teacher), "-"]
    done = subprocess.run(command + options, input=b"\xff\xfe", capture_output=True, check=True)
    assert json.loads(done.stdout)["student"]["bounds"][-1] == 2


def test_methods_as_json_and_text(call: Call) -> None:
    found = json.loads(call("methods", "--json").out)
    assert [row["name"] for row in found] == list(methods())
    keys = {"name", "summary", "formula", "source", "needs", "teacher_level", "equal_tokenizers"}
    keys |= {"writer", "signal", "caveat", "defaults"}
    assert all(set(row) == keys for row in found)
    shown = call("methods").out
    assert all(f"{name}\n" in shown for name in methods())
    assert "level 0 (realised)" in shown


def test_one_method(call: Call) -> None:
    row = json.loads(call("methods", "dpca", "--json").out)
    assert row["name"] == "dpca"
    assert row["defaults"]["method.max_chunk_tokens"] == 6
    shown = call("methods", "dpca").out
    for words in (row["formula"], row["source"], row["needs"], "method.max_chunk_tokens", "train.lr"):
        assert words in shown
    refused = call("methods", "dpac")
    assert (refused.code, refused.out) == (2, "")
    assert "did you mean 'dpca'?" in refused.err


def test_doctor(call: Call) -> None:
    found = call("doctor", "--json")
    facts = json.loads(found.out)
    assert (found.code, found.err) == (0, "")
    assert set(facts["packages"]) >= {"dragoman", "torch", "transformers"}
    for kind in ("sampling", "other"):
        speeds = facts[f"{kind}_gflops"]
        assert speeds and all(speed > 0 for speed in speeds.values())
        assert f"{facts['threads_chosen'][kind]} threads" in speeds
    assert "packages\n" in call("doctor").out


def test_a_dry_run_checks_everything_and_writes_nothing(call: Call, config: Path, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    found = call("train", config, "--dry-run", "train.lr=0.5")
    assert found.code == 0
    assert json.loads(found.out)["train"]["lr"] == 0.5
    assert "checked: 4 prompts, 2 held out; one response of 8 tokens" in found.err
    assert set(tmp_path.rglob("*")) == before


def test_train_as_json_then_eval_of_its_model(call: Call, config: Path, tmp_path: Path) -> None:
    found = call("train", config, "--json", "train.steps=1")
    assert found.code == 0
    summary = json.loads(found.out)
    assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert "training 1/1" in found.err
    assert (tmp_path / "run" / "config.yaml").read_text().startswith("# overrides:\n#   train.steps=1\n")
    figures = call("eval", config, "--json", "--student", tmp_path / "run" / "final")
    assert figures.code == 0
    assert json.loads(figures.out) == summary["after"]


def test_train_and_eval_as_text(call: Call, config: Path, tmp_path: Path) -> None:
    found = call("train", config, "train.steps=1", "method.name=uniform")
    lines = found.out.splitlines()
    assert lines[0].startswith("uniform: 1 steps in ")
    assert [line.split()[0] for line in lines[1:]] == [
        "before",
        "after",
        "change",
        "report",
        "model",
        "folder",
    ]
    assert str(tmp_path / "run" / "report.html") in found.out
    shown = call("eval", config)
    assert shown.out.splitlines()[0].startswith("kl_per_byte ")
    assert "95 % interval" in shown.out
    refused = call("eval", config, "data.heldout=null")
    assert refused.code == 2
    assert "data.heldout is not set, so there is nothing to evaluate on" in refused.err


@pytest.mark.parametrize(
    "arguments",
    [["nothing"], ["train"], ["train", "absent.yaml"], ["align", "text"], ["methods", "--yaml"]],
    ids=" ".join,
)
def test_a_call_that_cannot_be_meant(call: Call, arguments: list[str]) -> None:
    refused = call(*arguments)
    assert refused.code == 2
    assert refused.out == ""
    assert "Error: " in refused.err
