"""A row of the table, and what happens when its command runs."""

import hashlib
import io
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import typer

from recipes.cli import main as cli

# typer builds the tree of commands anew for each command line, which takes longer than most rows
COMMANDS = typer.main.get_command(cli.app)
Input = Callable[[Path], object]


@dataclass(frozen=True)
class Row:
    """A command that must be refused.

    Attributes:
        name: what is wrong, in a few words; no two rows have the same.
        command: the words after ``granite41``, quoted as in a shell.
        says: strings that the sentence contains.
        input: functions that write files into the folder in which the command runs.
        environment: variables that the command has beside those of the tests; None removes one.
        slow: a large library is imported before the input is refused.
    """

    name: str
    command: str
    says: Sequence[str]
    input: Sequence[Input] = ()
    environment: Mapping[str, str | None] = field(default_factory=dict)
    slow: bool = False


@dataclass(frozen=True)
class Outcome:
    """The end of a command."""

    status: int
    stdout: str
    stderr: str

    @property
    def sentence(self) -> str:
        """The line that says what is wrong.

        Of a command line that cannot be parsed, click prints the usage before it.
        """
        if self.stderr.startswith("Usage: "):
            return self.stderr.partition("\nError: ")[2]
        return self.stderr


def run(command: str, folder: Path, environment: Mapping[str, str | None]) -> Outcome:
    """Run a row's command in ``folder``."""
    out = io.StringIO()
    error = io.StringIO()
    argv = ["granite41", *shlex.split(command)]

    variables = {**os.environ, **environment}
    given = {name: value for name, value in variables.items() if value is not None}
    status: object = 0
    with (
        chdir(folder),
        mock.patch.object(cli, "app", COMMANDS),
        mock.patch.object(sys, "argv", argv),
        mock.patch.dict(os.environ, given, clear=True),
        redirect_stdout(out),
        redirect_stderr(error),
    ):
        try:
            cli.main()
        except SystemExit as ended:
            status = ended.code or 0
    return Outcome(int(str(status)), out.getvalue(), error.getvalue())


def listing(folder: Path) -> dict[str, str]:
    """Return what is in a folder: path -> hash of the content, target of a link, or "folder"."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_dir():
            found[name] = "folder"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "special"
    return found
