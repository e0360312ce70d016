"""All rows, and all commands."""

import importlib
import pkgutil

import click

import tests.bad_inputs
from tests.bad_inputs.row import COMMANDS, Row


def rows() -> list[Row]:
    """Return the rows of every file that has some."""
    found: list[Row] = []
    for file in pkgutil.iter_modules(tests.bad_inputs.__path__):
        # the tests hold the whole table
        if file.name.startswith("test_"):
            continue
        module = importlib.import_module(f"tests.bad_inputs.{file.name}")
        found += getattr(module, "ROWS", [])
    return found


def commands() -> set[str]:
    """Return the words of every command, such as ``data tokenize``."""
    return _leaves(COMMANDS, ())


def _leaves(command: click.Command, words: tuple[str, ...]) -> set[str]:
    if not isinstance(command, click.Group):
        return {" ".join(words)}
    leaves = set()
    for name, part in command.commands.items():
        leaves |= _leaves(part, (*words, name))
    return leaves
