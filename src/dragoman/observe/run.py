"""The run folder: everything a reader needs to know what was done and what came of it.

    config.yaml            as given, overrides in comments above it
    config.resolved.json   every setting; those of a run resumed with others keep a number
    env.json               versions and machine
    metrics.jsonl          one line a log call: step, phase and figures
    rollouts/              step-000001.jsonl and so on
    summary.json           written at the end

All but `metrics.jsonl` are replaced atomically; that one is appended to, a whole line at a time.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dragoman.errors import DataError, UsageError
from dragoman.observe.environment import describe_environment
from dragoman.observe.files import atomic_writer, write_text

_RESOLVED = "config.resolved.json"


@dataclass(frozen=True)
class RunDirectory:
    """An open run folder. Steps count from 1; step 0 is what was measured before training.

    `changed_keys` are the dotted keys whose resolved value differs from that of the run resumed.
    """

    path: Path
    changed_keys: tuple[str, ...] = ()

    @classmethod
    def create(
        cls,
        path: Path | str,
        config_text: str,
        config_json: str,
        *,
        overrides: Sequence[str] = (),
        resume: bool = False,
        environment: Mapping[str, Any] = MappingProxyType({}),
    ) -> RunDirectory:
        """Begin a run in an empty or new folder, or open an earlier run to go on with it.

        `config_text` is the configuration as the user wrote it, `config_json` the resolved one,
        `environment` what `env.json` says besides versions and machine. Before logging, a resumed run calls
        `truncate_after` with the step of its checkpoint.

        Raises UsageError if a new run meets a folder that holds something, or if there is nothing to
        resume.
        """
        path = Path(path)
        resolved = path / _RESOLVED
        changed: tuple[str, ...] = ()
        if path.exists() and not path.is_dir():
            raise UsageError(f"the run folder {path} is a file; name another one with run.dir")
        if resume:
            if not resolved.is_file():
                raise UsageError(
                    f"nothing to resume in {path}: it has no {_RESOLVED}; start the run without --resume, or "
                    "name its folder with run.dir"
                )
            changed = _changed_keys(json.loads(resolved.read_text(encoding="utf-8")), json.loads(config_json))
            if changed:
                number = 1 + sum(1 for _ in path.glob("config.resolved.*.json"))
                resolved.replace(path / f"config.resolved.{number}.json")
        elif path.is_dir() and any(path.iterdir()):
            raise UsageError(
                f"the run folder {path} is not empty, and a new run would mix with what is there; go on with "
                "that run by --resume, or name another folder with run.dir"
            )
        comment = [f"#   {line}\n" for override in overrides for line in override.splitlines()]
        write_text(path / "config.yaml", "".join(["# overrides:\n"] * bool(comment) + comment) + config_text)
        write_text(resolved, config_json)
        run = cls(path, changed)
        run.write_json("env.json", {**describe_environment(), **environment})
        return run

    def log(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        """Append one line to `metrics.jsonl`; NaN and infinity, which JSON lacks, become null.

        Raises ValueError if a figure is called `step` or `phase`.
        """
        if not values.keys().isdisjoint(("step", "phase")):
            raise ValueError(f"a metric may not be called 'step' or 'phase': {sorted(values)}")
        line = json.dumps({"step": step, "phase": phase, **finite(dict(values))}, allow_nan=False)
        with self.metrics_path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(line + "\n")

    @property
    def metrics_path(self) -> Path:
        """`metrics.jsonl`."""
        return self.path / "metrics.jsonl"

    def rollouts_path(self, step: int) -> Path:
        """Where the rollouts of a step are recorded (`dragoman.observe.records.write_records`)."""
        return self.path / "rollouts" / f"step-{step:06d}.jsonl"

    def write_text(self, name: str, text: str) -> None:
        """Write a file of the run folder atomically."""
        write_text(self.path / name, text)

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a mapping as indented JSON, atomically; NaN and infinity become null."""
        write_text(self.path / name, json.dumps(finite(values), indent=2, allow_nan=False) + "\n")

    def write_summary(self, values: Mapping[str, Any]) -> None:
        """Write `summary.json`, the result of the run."""
        self.write_json("summary.json", values)

    def truncate_after(self, step: int, *, keep_eval: bool = True) -> None:
        """Forget what was logged after `step`, so that going on from there repeats nothing.

        Drops later lines of `metrics.jsonl`, a last line cut short by an interruption, and later files
        of `rollouts/`; without `keep_eval` also the evaluation at `step` itself, as it will be repeated.
        """
        if self.metrics_path.exists():
            kept = [
                line
                for line in read_metrics(self.metrics_path)
                if line["step"] < step or (line["step"] == step and (keep_eval or line["phase"] != "eval"))
            ]
            with atomic_writer(self.metrics_path) as file:
                file.writelines(json.dumps(line) + "\n" for line in kept)
        for path in (self.path / "rollouts").glob("step-*.jsonl"):
            number = re.fullmatch(r"step-(\d+)", path.stem)
            if number is not None and int(number[1]) > step:
                path.unlink()


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a `metrics.jsonl`: `step`, `phase` and figures, null for what was not finite.

    A last line without its line end was cut short by an interruption and is left out. Raises DataError,
    with file and line, for any other line that is not such an object.
    """
    with path.open(encoding="utf-8", newline="\n") as file:
        for number, text in enumerate(file, 1):
            if not text.endswith("\n"):
                return
            try:
                line = json.loads(text)
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{path}:{number}: got no JSON ({error}), expected a line of metrics"
                ) from error
            if not isinstance(line, dict) or not isinstance(line.get("step"), int):
                raise DataError(f"{path}:{number}: got {text.strip()[:80]}, expected an object with a step")
            yield line


def finite(value: Any) -> Any:
    """The same JSON value with None for NaN and infinity, which JSON lacks."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> tuple[str, ...]:
    """Dotted keys whose values differ, in the order of their names."""
    changed: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changed += _changed_keys(before, after, f"{prefix}{key}.")
        elif before != after:
            changed.append(prefix + key)
    return tuple(changed)
