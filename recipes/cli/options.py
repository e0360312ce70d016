"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

StageArgument = Annotated[
    str, typer.Argument(metavar="STAGE", help="A stage that `granite41 list` names.")
]
SizeOption = Annotated[str, typer.Option("--size", metavar="SIZE", help="3b, 8b, 30b or tiny.")]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Overrides, by the dot paths that `granite41 show` prints."
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        help="A folder of prepared data  [default for tiny: prepared in the run's folder]"
    ),
]
PackedOption = Annotated[
    Path | None,
    typer.Option(help="A folder of packed conversations, of `granite41 data pack`, for sft."),
]
TrackerOption = Annotated[
    str | None,
    typer.Option("--log", help="Log to wandb or mlflow too, beside TensorBoard's files."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
