"""`dragoman train` and `dragoman eval`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from dragoman.config import Config
    from dragoman.train import Session

_CONFIG = click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
_OVERRIDES = click.argument("overrides", nargs=-1, metavar="[a.b=VALUE]...")
_STUDENT = click.option("--student", help="Folder, hub id or assets:NAME instead of student.model.")
_TEACHER = click.option("--teacher", help="Folder, hub id or assets:NAME instead of teacher.model.")


@click.command()
@_CONFIG
@_OVERRIDES
@_STUDENT
@_TEACHER
@click.option("--dry-run", is_flag=True, help="Load and check everything, align one response, train nothing.")
@click.option("--resume", is_flag=True, help="Go on from the latest checkpoint in the run folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def train(
    config: Path,
    overrides: tuple[str, ...],
    student: str | None,
    teacher: str | None,
    dry_run: bool,
    resume: bool,
    as_json: bool,
) -> None:
    """Train as CONFIG says, with any key overridden.

    \b
    dragoman train recipes/quickstart.yaml
    dragoman train recipes/quickstart.yaml train.steps=5 method.name=dpca run.dir=runs/dpca
    dragoman train recipes/quickstart.yaml --resume
    """
    settings, changes = _load(config, overrides, student, teacher)
    if dry_run:
        _dry_run(settings)
        return
    from dragoman.api import run_training
    from dragoman.cli.progress import ProgressDisplay

    with ProgressDisplay() as progress:
        result = run_training(
            settings,
            text=config.read_text(encoding="utf-8"),
            overrides=changes,
            resume=resume,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps(dict(result.summary), indent=2))
        return
    click.echo(_outcome(result.summary))
    click.echo(f"report   {result.path / 'report.html'}\nmodel    {result.model}\nfolder   {result.path}")


@click.command(name="eval")
@_CONFIG
@_OVERRIDES
@_STUDENT
@_TEACHER
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def evaluate(
    config: Path, overrides: tuple[str, ...], student: str | None, teacher: str | None, as_json: bool
) -> None:
    """Measure a student against the teacher on the held-out prompts of CONFIG.

    \b
    dragoman eval recipes/quickstart.yaml
    dragoman eval recipes/quickstart.yaml --student runs/quickstart/final
    """
    settings, _ = _load(config, overrides, student, teacher)
    from dragoman.evaluate import evaluate as evaluate_heldout
    from dragoman.observe import finite

    session = _session(settings)
    if not session.heldout:
        raise click.UsageError("data.heldout is not set, so there is nothing to evaluate on")
    found = evaluate_heldout(
        session.heldout_pipeline,
        session.heldout,
        samples=settings.eval.samples,
        seed=settings.eval.seed,
        forward=session.forward,
    )
    if as_json:
        click.echo(json.dumps(finite(found.summary()), indent=2))
        return
    for name, value in found.summary().items():
        if not name.endswith("_ci"):
            low, high = found.interval(name)
            click.echo(f"{name:22} {value:10.4f}   95 % interval {low:.4f} to {high:.4f}")


def _load(
    config: Path, overrides: tuple[str, ...], student: str | None, teacher: str | None
) -> tuple[Config, list[str]]:
    from dragoman.config import load_config
    from dragoman.methods import method_defaults

    named = {"student.model": student, "teacher.model": teacher}
    changes = [
        *overrides,
        *(f"{key}={json.dumps(value)}" for key, value in named.items() if value is not None),
    ]
    return load_config(config, changes, method_defaults), changes


def _session(settings: Config) -> Session:
    from dragoman.train import build_session

    return build_session(settings, Path(settings.run.dir))


def _dry_run(settings: Config) -> None:
    """Build everything, take one response through all stages but the update, and say what was found."""
    from dragoman.evaluate import measure
    from dragoman.rollout import Request

    session = _session(settings)
    record = session.pipeline.records(
        [Request(prompt=session.prompts[0], sample=0)], seed=settings.run.seed, step=1
    )[0]
    values = measure(record).values()
    click.echo(settings.to_json(), nl=False)
    click.echo(
        f"checked: {len(session.prompts)} prompts, {len(session.heldout)} held out; one response of "
        f"{len(record.rollout.completion)} tokens, coverage {values.get('coverage', 1.0):.1%}; "
        "nothing was trained",
        err=True,
    )


def _outcome(summary: Mapping[str, object]) -> str:
    before, after, change = summary["before"], summary["after"], summary["change"]
    lines = [f"{summary['method']}: {summary['steps']} steps in {summary['seconds']:.0f} s"]
    threads = summary["threads"]
    if isinstance(threads, Mapping) and threads["other"] is not None:
        lines.append(
            f"threads  {threads['sampling']} while sampling, {threads['other']} otherwise, as measured"
        )
    if isinstance(before, Mapping) and isinstance(after, Mapping) and isinstance(change, Mapping):
        for when, values in (("before", before), ("after", after)):
            low, high = values["kl_per_byte_ci"]
            lines.append(
                f"{when:8} reverse KL {values['kl_per_byte']:.4f} nats a byte (95 % interval {low:.4f} to "
                f"{high:.4f}), coverage {values['coverage']:.1%}, "
                f"non-canonical {values['noncanonical_rate']:.1%}"
            )
        low, high = change["relative_ci"]
        lines.append(
            f"change   {change['relative']:+.1%} (95 % interval {low:+.1%} to {high:+.1%}, paired by prompt)"
        )
    return "\n".join(lines)
