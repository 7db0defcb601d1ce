"""`dragoman audit`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dragoman.config import Config
    from dragoman.types import Prompt

_OVERRIDE = re.compile(r"[a-z_]+(\.[a-z_]+)+=")
_OWN_PROMPTS = "the audit's own prompts"
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("arguments", nargs=-1, metavar="[STUDENT TEACHER] [a.b=VALUE]...")
@click.option(
    "--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A run to audit."
)
@click.option("--prompts", help="Prompts to audit on: a file or data set as for data.train.")
@click.option("--fast", is_flag=True, help="Tokenizers and templates only; read no weights.")
@click.option("--samples", type=click.IntRange(1), default=8, show_default=True, help="Responses sampled.")
@click.option("--max-new-tokens", type=click.IntRange(1), default=32, show_default=True, help="Their length.")
@click.option("--seed", type=click.IntRange(0), help="Seed of the samples; default: run.seed.")
@click.option("--html", type=_FILE, help="Write the page to this file too.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def audit(
    arguments: tuple[str, ...],
    config: Path | None,
    prompts: str | None,
    fast: bool,
    samples: int,
    max_new_tokens: int,
    seed: int | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Look at a pair before any training: what maps, what it costs, what to change.

    \b
    dragoman audit assets:smollm2-135m-instruct assets:gemma-3-270m
    dragoman audit --fast assets:smollm2-135m-instruct assets:qwen3 --html audit.html
    dragoman audit --config recipes/quickstart.yaml

    Nothing is looked up by family, everything is probed. Ends with 1 when training would be unsafe.
    """
    from rich.console import Console

    from dragoman.audit.run import run_audit

    settings = _config(arguments, config, prompts, seed)
    console = Console(stderr=True, highlight=False)
    _quiet()
    with console.status("reading the tokenizers") as status:
        found = run_audit(
            settings,
            _prompts(settings),
            fast=fast,
            num_prompts=samples,
            max_new_tokens=max_new_tokens,
            progress=status.update,
        )
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    else:
        from dragoman.report.audit_terminal import audit_terminal

        out = Console(highlight=False)
        out.print(audit_terminal(found))
    if html is not None:
        from dragoman.report.audit import write_audit

        write_audit(found, html)
        console.print(f"page     {html}", soft_wrap=True)
    sys.exit(0 if found.safe else 1)


def _config(arguments: Sequence[str], path: Path | None, prompts: str | None, seed: int | None) -> Config:
    """The configuration of a file or of two names, with overrides."""
    from dragoman.config import load_config
    from dragoman.errors import UsageError
    from dragoman.methods import method_defaults

    overrides = [argument for argument in arguments if _OVERRIDE.match(argument)]
    models = [argument for argument in arguments if not _OVERRIDE.match(argument)]
    if len(models) != 2 and not (path is not None and not models):
        raise UsageError(
            f"got {len(models)} models ({', '.join(models) or 'none'}), expected a student and a teacher, or "
            "a run with --config"
        )
    if models:
        student, teacher = map(json.dumps, models)
        overrides += [f"student.model={student}", f"teacher.model={teacher}"]
    if prompts is not None:
        overrides.append(f"data.train={json.dumps(prompts)}")
    if seed is not None:
        overrides.append(f"run.seed={seed}")
    plain: dict[str, Any] = {"data": {"train": _OWN_PROMPTS}, "train": {"steps": 1}}
    return load_config(plain if path is None else path, overrides, method_defaults)


def _prompts(config: Config) -> Sequence[Prompt]:
    from dragoman.data import load_prompts

    if config.data.train == _OWN_PROMPTS:
        return ()
    return load_prompts(
        config.data.train,
        prompt_field=config.data.prompt_field,
        messages_field=config.data.messages_field,
        split=config.data.split,
        limit=config.data.limit,
    )


def _quiet() -> None:
    """Without the bars of loading weights, which would stand among the progress."""
    from transformers.utils import logging

    logging.disable_progress_bar()
