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
PromptsOption = Annotated[
    Path | None,
    typer.Option(
        help="A folder of prompts, of `granite41 data prompts`, for RL, or of such folders by the "
        "name of their stage  [default for tiny: prepared in the run's folder]"
    ),
]
RewardModelOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL|FOLDER",
        help="The reward model of prompts that ask for one: servers' /classify, /score or "
        "/pooling, joined by commas, or a folder.",
    ),
]
RewardModelNameOption = Annotated[
    str, typer.Option(metavar="NAME", help="Of the reward model on its servers.")
]
TrackerOption = Annotated[
    str | None,
    typer.Option("--log", help="Log to wandb or mlflow too, beside TensorBoard's files."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
