"""``--input A B C``: several values after one flag, beside arguments and other options."""

from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from recipes.common.multi_value import MultiValueCommand

app = typer.Typer()


@app.command(cls=MultiValueCommand)
def command(
    names: Annotated[list[str] | None, typer.Argument()] = None,
    inputs: Annotated[list[str] | None, typer.Option("--input")] = None,
    weights: Annotated[list[float] | None, typer.Option("--weights")] = None,
    output: Annotated[str, typer.Option("--output")] = "",
) -> None:
    typer.echo(f"{names} {inputs} {weights} {output}")


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        ("--input a b --output o", "None ['a', 'b'] None o"),
        ("--input a --input b", "None ['a', 'b'] None "),
        ("--output o x y --input a b c", "['x', 'y'] ['a', 'b', 'c'] None o"),
        ("--input a b -- x", "['x'] ['a', 'b'] None "),
        ("--weights 0.5 -0.25 1e-3 --input -", "None ['-'] [0.5, -0.25, 0.001] "),
        ("--input=a x", "['x'] ['a'] None "),
    ],
)
def test_several_values(words: str, printed: str) -> None:
    result = CliRunner().invoke(app, words.split())
    assert (result.exit_code, result.output) == (0, printed + "\n")
