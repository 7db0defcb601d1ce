"""Promises of the repository itself: portable files, recipes that load, commands that exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from dragoman.cli import cli
from dragoman.config import load_config
from dragoman.methods import method_defaults

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
DOCUMENTS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))

# Home, scratch and mount folders of one machine, and hosts that package indexes are served from.
LOCAL = re.compile(
    rb"(?<![\w.~}-])/(?:work|tmp|root|home|opt|mnt|Users)\b|file:///\w|\b[A-Z]:\\\\?Users\b"
    rb"|\bpypi\.org|pythonhosted\.org|npmjs\.(?:org|com)|download\.pytorch\.org|anaconda\.org"
)
CONSOLE_BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL_OPERATORS = {"|", "||", "&&", ";", ">", ">>", "2>", "<", "&"}


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def test_no_file_names_a_machine_path_or_a_package_host() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout: which files belong to the repository is unknown")
    names = git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    paths = [ROOT / name for name in names if name and (ROOT / name).is_file()]
    assert Path(__file__) in paths
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0].decode()}"
        for path in paths
        for number, line in enumerate(path.read_bytes().splitlines(), 1)
        for match in LOCAL.finditer(line)
    ]
    assert found == []


def test_there_are_recipes() -> None:
    assert ROOT / "recipes" / "quickstart.yaml" in RECIPES


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_load(recipe: Path) -> None:
    config = load_config(recipe, defaults=method_defaults)
    assert load_config(config.model_dump(mode="json"), defaults=method_defaults) == config


def commands(document: Path) -> Iterator[list[str]]:
    """The arguments of every `dragoman` command in the console blocks of a document."""
    for block in CONSOLE_BLOCK.findall(document.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True) if line.startswith("$ ") else []
            if words and Path(words[0]).name == "dragoman":
                end = next((i for i, word in enumerate(words) if word in SHELL_OPERATORS), len(words))
                yield words[1:end]


def check_command(command: click.Command, words: list[str], parent: click.Context | None = None) -> None:
    """Assert that verbs and options exist; values and arguments are not looked at."""
    context = command.make_context(command.name, [], parent=parent, resilient_parsing=True)
    known = {
        name: option
        for option in command.get_params(context)
        if isinstance(option, click.Option)
        for name in (*option.opts, *option.secondary_opts)
    }
    rest = iter(words)
    for word in rest:
        if word.startswith("-"):
            name, has_value, _ = word.partition("=")
            assert name in known, f"`{command.name}` has no option {name}"
            option = known[name]
            if not (has_value or option.is_flag or option.count):
                assert next(rest, None) is not None, f"`{command.name} {name}` needs a value"
        elif isinstance(command, click.Group):
            verb = command.get_command(context, word)
            assert verb is not None, f"`{command.name}` has no verb {word!r}"
            check_command(verb, list(rest), context)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documented_commands_exist(document: Path) -> None:
    for words in commands(document):
        check_command(cli, words)


def test_the_readme_shows_commands() -> None:
    assert list(commands(ROOT / "README.md"))
