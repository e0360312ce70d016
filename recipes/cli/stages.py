"""``granite41 list``, ``show`` and ``check``: recipes as tables, and what proves them."""

import json
from typing import Annotated

import typer

from recipes.cli.options import JsonOption, OverridesArgument, SizeOption, StageArgument
from recipes.common.check_result import print_checks
from recipes.common.tables import human, print_table
from recipes.registry.resolve import resolve
from recipes.registry.stages import STAGES, stage_sizes
from recipes.spec.tree import flatten


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
                "sizes": list(stage_sizes(name)),
                "status": recipe.status,
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    print_table(
        [
            "stage",
            "title",
            "tokens",
            "tokens are",
            "sequence length",
            "LR schedule",
            "sizes",
            "status",
        ],
        [
            [" ".join(cell) if isinstance(cell, list) else human(cell) for cell in row.values()]
            for row in rows
        ],
    )


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
        values = {
            path: {"value": leaf.value, "origin": leaf.origin, "why": leaf.why}
            for path, leaf in leaves.items()
        }
        typer.echo(json.dumps({"stage": stage, "size": size, "values": values}, indent=2))
        return
    parent = f"starts from {recipe.parent}" if recipe.parent else "starts from random weights"
    typer.echo(f"{stage} for {size}: {recipe.title}; {parent}; {recipe.status}")
    print_table(
        ["path", "value", "origin", "why"],
        [[path, human(leaf.value), leaf.origin, leaf.why] for path, leaf in leaves.items()],
    )


def check_recipes(
    size: SizeOption,
    stage: Annotated[
        str | None,
        typer.Option(
            metavar="STAGE", help="One stage  [default: all of pre-training and long context]"
        ),
    ] = None,
    overrides: OverridesArgument = None,
    trace: Annotated[
        bool, typer.Option("--trace", help="Run a whole step of a rank on fake tensors, too.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Prove a recipe without GPUs: its arithmetic, its memory (an estimate), the model's shards."""
    from recipes.model.shards import check_stages

    checks = check_stages(size, stage, overrides or [], trace)
    if not print_checks(checks, as_json, size=size):
        raise typer.Exit(1)
