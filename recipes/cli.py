"""The command line ``granite41``: one function per command, each importing what it needs when it runs."""

import json
import sys
from typing import Annotated, Any

import typer

from recipes.spec import STAGES, UserError, flatten, resolve, sizes_of

app = typer.Typer(
    help="Recipes that reproduce IBM's Granite 4.1 language models.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # plain help and usage errors: readable in a pipe, and Rich is not imported for them
    rich_markup_mode=None,
)

StageArgument = Annotated[str, typer.Argument(metavar="STAGE", help="A stage that `granite41 list` names.")]
SizeOption = Annotated[str, typer.Option("--size", metavar="SIZE", help="3b, 8b, 30b or tiny.")]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, by the dot paths that `granite41 show` prints."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def main() -> None:
    """Run the command line; a user's mistake ends it with one sentence on stderr and exit status 2."""
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
        ["stage", "title", "tokens", "sequence length", "LR schedule", "sizes", "status"],
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


def human(value: Any) -> str:
    """Return ``value`` for a reader: 10T, 4,096, 0.000875, true, a list by commas, a dash for None."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(human(item) for item in value)
    if isinstance(value, int):
        for unit, suffix in ((10**12, "T"), (10**9, "B"), (10**6, "M")):
            if value >= unit:
                # three decimals only where they lose nothing
                return f"{value / unit:.6g}{suffix}" if value * 1000 % unit == 0 else f"{value:,}"
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """Print a table to stdout, as wide as it needs to be where stdout is not a terminal."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else 10_000
    Console(width=width, markup=False, highlight=False).print(table)


if __name__ == "__main__":
    main()
