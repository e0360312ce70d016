"""The commands ``granite41 data ...``: one function per command, each importing what it needs when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from recipes.spec import SIZES

data_app = typer.Typer(help="Prepare training data.", no_args_is_help=True, rich_markup_mode=None)


@data_app.command("tiny")
def data_tiny(
    output: Annotated[Path, typer.Option(help="The folder to write.")],
    vocab_size: Annotated[int, typer.Option(help="Entries of the tokenizer.")] = SIZES["tiny"].vocab_size.value,
    text: Annotated[Path | None, typer.Option(help="A folder of your own text instead of this machine's.")] = None,
) -> None:
    """Prepare real text of this machine, or your own, for size tiny: tokenizer and Megatron files."""
    from data_prep.tiny import prepare

    prepare(output, vocab_size=vocab_size, text=text, say=typer.echo)
