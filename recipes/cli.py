"""The command line ``granite41``: one function per command, each importing what it needs when it runs."""

import json
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from data_prep.cli import data_app
from recipes.spec import STAGES, UserError, flatten, resolve, sizes_of
from recipes.tables import human, print_table

app = typer.Typer(
    help="Recipes that reproduce IBM's Granite 4.1 language models.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # plain help and usage errors: readable in a pipe, and Rich is not imported for them
    rich_markup_mode=None,
    # click suggests the nearest command by itself
    suggest_commands=False,
)

StageArgument = Annotated[str, typer.Argument(metavar="STAGE", help="A stage that `granite41 list` names.")]
SizeOption = Annotated[str, typer.Option("--size", metavar="SIZE", help="3b, 8b, 30b or tiny.")]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, by the dot paths that `granite41 show` prints."),
]
DataOption = Annotated[
    Path | None, typer.Option(help="A folder of prepared data  [default for tiny: prepared in the run's folder]")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def main() -> None:
    """Run the command line; a user's mistake ends it with one sentence on stderr and exit status 2."""
    # torch warns so at import; nvidia-modelopt and nvidia-resiliency-ext bring the package in
    warnings.filterwarnings("ignore", message="The pynvml package is deprecated", category=FutureWarning)
    try:
        app(prog_name="granite41")
    except UserError as error:
        print(f"granite41: {error}", file=sys.stderr)
        sys.exit(2)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(version("granite41-recipes"))
        except PackageNotFoundError as error:
            raise UserError(
                "granite41-recipes is not installed, so it has no version; run `pip install -e .`"
            ) from error
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command("list")
def list_stages(as_json: JsonOption = False) -> None:
    """List the stages: tokens, sequence length, learning-rate schedule, sizes and status."""
    rows = []
    for name in STAGES:
        # every stage exists at 8b, and the columns below are the same at every size but tiny
        recipe = resolve(name, "8b")
        tokens = flatten(recipe).get("tokens")
        rows.append(
            {
                "stage": name,
                "title": recipe.title,
                "tokens": tokens.value if tokens else None,
                "tokens_origin": tokens.origin if tokens else None,
                "sequence_length": recipe.sequence_length.value,
                "lr_schedule": str(recipe.schedule),
                "sizes": list(sizes_of(name)),
                "status": recipe.status,
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    print_table(
        ["stage", "title", "tokens", "tokens are", "sequence length", "LR schedule", "sizes", "status"],
        [[" ".join(cell) if isinstance(cell, list) else human(cell) for cell in row.values()] for row in rows],
    )


@app.command()
def show(
    stage: StageArgument,
    size: SizeOption,
    overrides: OverridesArgument = None,
    as_json: JsonOption = False,
) -> None:
    """Show a stage's resolved recipe: every value with its origin and the reason for it."""
    recipe = resolve(stage, size, overrides or [])
    leaves = flatten(recipe)
    if as_json:
        values = {path: {"value": leaf.value, "origin": leaf.origin, "why": leaf.why} for path, leaf in leaves.items()}
        typer.echo(json.dumps({"stage": stage, "size": size, "values": values}, indent=2))
        return
    parent = f"starts from {recipe.parent}" if recipe.parent else "starts from random weights"
    typer.echo(f"{stage} for {size}: {recipe.title}; {parent}; {recipe.status}")
    print_table(
        ["path", "value", "origin", "why"],
        [[path, human(leaf.value), leaf.origin, leaf.why] for path, leaf in leaves.items()],
    )


@app.command("run")
def run_stages(
    stage: StageArgument,
    size: SizeOption,
    overrides: OverridesArgument = None,
    on: Annotated[str, typer.Option("--on", help="Where to run: local.")] = "local",
    run_dir: Annotated[Path | None, typer.Option(help="The run's folder  [default: runs/SIZE]")] = None,
    data: DataOption = None,
    devices: Annotated[
        int | None, typer.Option(min=1, help="Processes to train with, a GPU each  [default: one replica's]")
    ] = None,
    dryrun: Annotated[bool, typer.Option("--dryrun", help="Print the tasks and run nothing.")] = False,
) -> None:
    """Run a stage and what belongs to it: data (size tiny), training, export, generation, report."""
    from recipes import pipeline

    if on != "local":
        raise UserError(f"--on {on}: no such place; stages run with --on local")
    run_folder = run_dir or Path("runs") / size
    chain = pipeline.tasks(stage, size, run_folder, data, devices, overrides or [])
    for task in chain:
        typer.echo(str(task))
    if dryrun:
        return
    try:
        pipeline.run_local(chain, run_folder)
    except KeyboardInterrupt:
        print("granite41: interrupted; the same command continues", file=sys.stderr)
        sys.exit(130)


@app.command()
def train(
    stage: StageArgument,
    size: SizeOption,
    run_dir: Annotated[Path, typer.Option(help="The run's folder.")],
    data: Annotated[Path, typer.Option(help="A folder of prepared data.")],
    overrides: OverridesArgument = None,
) -> None:
    """Train one stage in this process, or in each process of torchrun; continue it if it was interrupted."""
    from recipes.training.run import train as train_stage

    train_stage(stage, size, run_dir, data, overrides or [])


@app.command("export")
def export_checkpoint(
    checkpoint: Annotated[Path, typer.Option(help="A NeMo checkpoint, or a finished stage's folder.")],
    output: Annotated[Path, typer.Option(help="The Hugging Face folder to write.")],
) -> None:
    """Export a NeMo checkpoint to a Hugging Face folder."""
    from recipes.training.stage_folder import final_checkpoint

    source = final_checkpoint(checkpoint) or checkpoint
    from recipes.model.bridge.to_hf import export_hf

    export_hf(source, output, say=typer.echo)


@app.command("import")
def import_folder(
    hf: Annotated[Path, typer.Option("--hf", help="A Hugging Face folder of a GraniteForCausalLM.")],
    output: Annotated[Path, typer.Option(help="The NeMo checkpoint to write.")],
) -> None:
    """Import a Hugging Face folder as a NeMo checkpoint."""
    from recipes.model.bridge.from_hf import import_hf

    import_hf(hf, output)


@app.command()
def generate(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A Hugging Face model folder.")],
    prompt: Annotated[str, typer.Option(help="The text to continue.")] = "def __init__(self, ",
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate.")] = 48,
) -> None:
    """Continue a prompt with an exported model, through transformers."""
    from recipes.model.generate import generate as generate_text

    typer.echo(generate_text(folder, prompt, tokens))


@app.command()
def report(run_dir: Annotated[Path, typer.Option(help="The run's folder.")]) -> None:
    """Write the run's report.md and print it."""
    from recipes.report import write_report

    path = write_report(run_dir)
    typer.echo(path.read_text() + f"\n{path}")


app.add_typer(data_app, name="data")


if __name__ == "__main__":
    main()
