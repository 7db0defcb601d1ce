"""The command line: verbs, help, exit codes. What a verb does lives in the other rooms.

Results go to stdout, progress to stderr. Exit codes: 0 done, 1 failed, 2 the call cannot be meant.
"""

from __future__ import annotations

import sys

import click

from dragoman.cli.align import align
from dragoman.cli.assets import assets
from dragoman.cli.audit import audit
from dragoman.cli.doctor import doctor
from dragoman.cli.lab import lab
from dragoman.cli.methods import methods
from dragoman.cli.process import prepare
from dragoman.cli.profile import profile
from dragoman.cli.train import evaluate, train
from dragoman.cli.view import view
from dragoman.errors import DragomanError, UsageError

_HELP = {"help_option_names": ["-h", "--help"]}


@click.group(context_settings=_HELP)
@click.version_option(package_name="dragoman", prog_name="dragoman")
def cli() -> None:
    """Distil a language model into another that does not share its tokenizer.

    \b
    dragoman assets get                     # a small teacher and student to begin with
    dragoman train recipes/quickstart.yaml  # the student writes, the teacher scores every token
    dragoman align --student assets:smollm2-135m-instruct --teacher assets:gemma-3-270m "naïve 🙂"

    The two models' tokens are matched on the bytes they spell, exactly, for any two tokenizers.
    """


for command in (train, evaluate, audit, align, view, profile, lab, methods, doctor, assets):
    # Also where a command is called by itself: click keeps the names it has once seen.
    command.context_settings.update(_HELP)
    cli.add_command(command)


def main() -> None:
    """Entry point: errors of dragoman and of its user are one paragraph, never a traceback."""
    prepare()
    try:
        cli()
    except DragomanError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)
