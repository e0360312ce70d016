"""The options of ``granite41 data ...``: old spellings are accepted, but not shown."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from data_prep import tokenization
from data_prep.quality import filter
from recipes.cli.data import data_app

pytestmark = pytest.mark.fast


class Stop(Exception):
    """Ends a command where its work would start."""


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a command passes on by keyword, and to the filter as steps."""
    options: dict[str, Any] = {}

    def stop(*arguments: Any, **keywords: Any) -> None:
        options.update(keywords)
        for argument in arguments:
            if isinstance(argument, filter.Steps):
                options["steps"] = argument
        raise Stop

    monkeypatch.setattr(tokenization, "tokenize", stop)
    monkeypatch.setattr(filter, "run", stop)
    return options


def run(*words: str) -> None:
    with pytest.raises(Stop):
        CliRunner().invoke(data_app, words, catch_exceptions=False)


@pytest.mark.parametrize(
    "words",
    [("--license", "MIT"), ("--license=MIT",), ("--licence", "MIT"), ("--licence=MIT",)],
)
def test_license(received: dict[str, Any], tmp_path: Path, words: tuple[str, ...]) -> None:
    folder = str(tmp_path)
    run("tokenize", *words, "--tokenizer", folder, "--output", folder, "--input", "a", "b")
    assert received["license"] == "MIT"


@pytest.mark.parametrize("flag", ["--normalize", "--normalise"])
def test_normalize(received: dict[str, Any], tmp_path: Path, flag: str) -> None:
    run("filter", "--input", "a", "b", flag, "--output", str(tmp_path))
    assert received["steps"] != filter.Steps()


@pytest.mark.parametrize(
    ("command", "shown", "hidden"),
    [("tokenize", "--license", "--licence"), ("filter", "--normalize", "--normalise")],
)
def test_help_shows_one_spelling(command: str, shown: str, hidden: str) -> None:
    text = CliRunner().invoke(data_app, [command, "--help"]).output
    assert shown in text
    assert hidden not in text
