"""``granite41 data conversations`` and ``data made-up``: conversations to curate."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recipes.cli.data import AsJson, OptionalInputs
from recipes.common.errors import UserError

if TYPE_CHECKING:
    from data_prep.catalog.conversation_sets import ConversationSet

SetName = Annotated[str | None, typer.Option("--source", metavar="ID", help="A set to convert.")]
OutputFile = Annotated[
    Path | None,
    typer.Option(help="The file of JSON lines to write, for `data curate`."),
]


def public_conversations(
    source: SetName = None,
    output: OutputFile = None,
    inputs: OptionalInputs = None,
    as_json: AsJson = False,
) -> None:
    """List public conversation sets and our mixture of them, or convert one of them."""
    from data_prep.catalog.conversation_sets import get_set, load_sets

    if source is None and (output or inputs):
        raise UserError("--output and --input: expected with --source; name a set to convert")
    if source is None:
        sets = load_sets().values()
        if as_json:
            typer.echo(json.dumps([asdict(entry) for entry in sets], indent=2))
        else:
            _print_sets(list(sets))
        return

    found = get_set(source)
    if output is None:
        raise UserError(f"--source {source}: expected with --output; name the file to write")
    from data_prep.conversations.convert import convert

    converted = convert(found, output, inputs or ())
    if as_json:
        typer.echo(json.dumps(asdict(converted), indent=2))
        return
    typer.echo(f"{converted.conversations:,} conversations, {found.license}")
    for reason, count in converted.left_out.items():
        typer.echo(f"left out: {count:,}: {reason}")


def _print_sets(sets: "list[ConversationSet]") -> None:
    from recipes.common.tables import print_table

    rows = []
    for entry in sets:
        rows.append(
            [
                entry.id,
                f"{entry.percent:g}",
                f"{entry.samples:,}",
                entry.license,
                "yes" if entry.ibm else "",
                str(entry.columns),
                entry.input,
            ]
        )
    columns = ["id", "percent", "samples", "license", "IBM's", "columns", "--input"]
    print_table(columns, rows)
    typer.echo("Percentages are assumed; --json has the reasons, and what was checked.")


def made_up_conversations(
    output: Annotated[Path, typer.Option(help="The folder to write.")],
    conversations: Annotated[
        int,
        typer.Option(min=1, help="How many to train on; one of eleven is bad on purpose."),
    ],
    seed: Annotated[int, typer.Option(help="Another one makes other conversations.")] = 1234,
    as_json: AsJson = False,
) -> None:
    """Make up conversations for size tiny, whose right replies follow by rule."""
    from data_prep.conversations.made_up.generation import write

    summary = write(output, conversations, seed)
    if as_json:
        typer.echo(json.dumps(asdict(summary), indent=2))
        return
    for part in (summary.kinds, summary.flaws):
        for name, count in part.items():
            typer.echo(f"{name}: {count:,}")
    typer.echo(f"held out: {summary.held_out:,}")
