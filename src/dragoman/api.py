"""What the command line does, from Python."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dragoman.config import Config, load_config
from dragoman.data import BadValueError, read_prompt
from dragoman.errors import DataError, UsageError
from dragoman.methods import method_defaults
from dragoman.models.settings import settings_kept
from dragoman.observe import RunDirectory
from dragoman.report import write_report
from dragoman.train.loop import Progress, silent, train
from dragoman.train.setup import build_session
from dragoman.train.threads import recorded_threads, tuned, using
from dragoman.types import Prompt

logger = logging.getLogger(__name__)

IN_PYTHON = "prompts given in Python"
PromptLike = str | Sequence[Mapping[str, Any]] | Mapping[str, Any] | Prompt


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """A finished run: its folder, the trained model's folder and the content of `summary.json`."""

    path: Path
    model: Path
    summary: Mapping[str, Any]


def distill(
    *,
    student: str,
    teacher: str,
    prompts: str | Sequence[PromptLike],
    heldout: str | Sequence[PromptLike] | None = None,
    method: str = "span",
    steps: int = 100,
    out: str | Path = "runs/distill",
    settings: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Distillation:
    """Distil a teacher into a student on-policy and save the result in `out`.

    `student` and `teacher` are folders, hub ids or `assets:NAME`. Prompts are a file or data set as in
    `data.train`, or a sequence of texts, conversations (lists of messages), objects with `messages` and
    `tools` as in a prompt file, or `Prompt`s.
    `settings` are configuration keys with dots, such as `{"rollout.max_new_tokens": 64}`.

    >>> result = dragoman.distill(student="assets:smollm2-135m-instruct", teacher="assets:gemma-3-270m",
    ...                           prompts=["The sea is", "A good proof"], method="span", steps=2)
    >>> result.summary["tokens"]["rollouts"]
    32

    Raises a DragomanError that says what to change.
    """
    tree: dict[str, Any] = {
        "run": {"dir": str(out)},
        "student": {"model": student},
        "teacher": {"model": teacher},
        "data": {"train": prompts if isinstance(prompts, str) else IN_PYTHON},
        "method": {"name": method},
        "train": {"steps": steps},
    }
    if heldout is not None:
        tree["data"]["heldout"] = heldout if isinstance(heldout, str) else IN_PYTHON
    overrides = [f"{key}={json.dumps(value)}" for key, value in (settings or {}).items()]
    config = load_config(tree, overrides, method_defaults)
    return run_training(
        config,
        text=json.dumps(tree, indent=2) + "\n",
        overrides=overrides,
        prompts=None if isinstance(prompts, str) else as_prompts(prompts, "train"),
        heldout=None if heldout is None or isinstance(heldout, str) else as_prompts(heldout, "heldout"),
        progress=progress,
    )


@settings_kept()
def run_training(
    config: Config,
    *,
    text: str,
    overrides: Sequence[str] = (),
    prompts: Sequence[Prompt] | None = None,
    heldout: Sequence[Prompt] | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> Distillation:
    """Train as a configuration says; `text` is the configuration as the user gave it."""
    from accelerate import PartialState

    path = Path(config.run.dir)
    if not resume and path.is_dir() and any(path.iterdir()):
        raise UsageError(
            f"the run folder {path} is not empty; go on with that run by --resume, or name another with "
            "run.dir"
        )
    session = tuned(build_session(config, path, prompts, heldout), recorded_threads(path) if resume else None)
    if PartialState().is_main_process:
        run = RunDirectory.create(
            path,
            text,
            config.to_json(),
            overrides=overrides,
            resume=resume,
            environment={"threads": asdict(session.threads)},
        )
        if run.changed_keys:
            logger.warning("resumed with other settings than before: %s", ", ".join(run.changed_keys))
    else:
        run = RunDirectory(path)
    session.accelerator.wait_for_everyone()
    with using(session.threads.other):
        summary = train(session, run, resume=resume, progress=progress)
    if session.accelerator.is_main_process:
        write_report(path)
    return Distillation(path=path, model=path / "final", summary=summary)


def as_prompts(items: Sequence[PromptLike], name: str) -> list[Prompt]:
    """Texts and conversations as prompts with keys `NAME:1`, `NAME:2` and so on.

    Raises DataError for a conversation that a prompt file could not hold, or a key that two prompts share.
    """
    if not items:
        raise UsageError(f"no {name} prompts: the list is empty, so there is nothing to answer")
    found: dict[str, Prompt] = {}
    for number, item in enumerate(items, 1):
        try:
            prompt = _as_prompt(item, f"{name}:{number}")
        except BadValueError as problem:
            raise DataError(f"{name} prompt {number}: {problem}") from None
        if prompt.key in found:
            raise DataError(f"{name} prompt {number} has the key {prompt.key!r} of an earlier one")
        found[prompt.key] = prompt
    return list(found.values())


def _as_prompt(item: PromptLike, key: str) -> Prompt:
    if isinstance(item, Prompt):
        return item
    if isinstance(item, Mapping):
        return read_prompt(item, key, key)
    return read_prompt({"prompt" if isinstance(item, str) else "messages": item}, key, key)
