"""``granite41 report`` and ``plot``."""

from pathlib import Path
from typing import Annotated

import typer


def report(run_dir: Annotated[Path, typer.Option(help="The run's folder.")]) -> None:
    """Write the run's reports as HTML and Markdown, and print the latter.

    report.html is on the training, evaluation.html on the evaluations, if any.
    """
    from recipes.reports import evaluation, run
    from recipes.reports.records import evaluation_folders

    # the run's report links to that on evaluations
    pages = [evaluation.write_report(run_dir)] if evaluation_folders(run_dir) else []
    path = run.write_report(run_dir)

    typer.echo(path.read_text(encoding="utf-8"))
    for page in (path, path.with_suffix(".html"), *pages):
        typer.echo(str(page))


plot_app = typer.Typer(
    help="Draw the recipes as pictures.",
    no_args_is_help=True,
    rich_markup_mode=None,
    suggest_commands=False,
)
PictureOption = Annotated[
    Path | None, typer.Option(help="A .png or .svg file  [default: plots/COMMAND.png]")
]
PlotSizeOption = Annotated[str, typer.Option("--size", metavar="SIZE", help="3b, 8b, 30b or tiny.")]


@plot_app.command("lr")
def plot_lr(size: PlotSizeOption = "8b", output: PictureOption = None) -> None:
    """Draw the learning rate over pre-training and long-context extension."""
    from recipes.reports import plots

    output = output or Path("plots/lr.png")
    plots.plot_lr(size, output)
    typer.echo(str(output))


@plot_app.command("mixture")
def plot_mixture(size: PlotSizeOption = "8b", output: PictureOption = None) -> None:
    """Draw the data mixture of each stage of pre-training and long-context extension."""
    from recipes.reports import plots

    output = output or Path("plots/mixture.png")
    plots.plot_mixture(size, output)
    typer.echo(str(output))
