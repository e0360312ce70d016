"""``granite41 merge``, ``export``, ``import`` and ``generate``: what is done with checkpoints."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recipes.common.errors import UserError

if TYPE_CHECKING:
    from recipes.merging.sweep import Texts


def export_checkpoint(
    checkpoint: Annotated[
        Path, typer.Option(help="A NeMo checkpoint, or a finished stage's folder.")
    ],
    output: Annotated[Path, typer.Option(help="The Hugging Face folder to write.")],
) -> None:
    """Export a NeMo checkpoint to a Hugging Face folder."""
    from recipes.runs.stage_folder import final_checkpoint

    # a stage's folder means the checkpoint that it leaves
    source = final_checkpoint(checkpoint) or checkpoint
    from recipes.model.bridge.to_hf import export_hf

    export_hf(source, output)


def import_folder(
    hf: Annotated[
        str, typer.Option("--hf", help="A folder of a GraniteForCausalLM, or its name on the Hub.")
    ],
    output: Annotated[Path, typer.Option(help="The NeMo checkpoint to write.")],
) -> None:
    """Import a Hugging Face model as a NeMo checkpoint."""
    from recipes.model.bridge.from_hf import import_hf
    from recipes.model_folder.hub import local_folder

    import_hf(local_folder(hf), output)


def merge_checkpoints(
    method: Annotated[str, typer.Option(help="linear, slerp or task.")],
    parents: Annotated[
        list[Path],
        typer.Option(
            help="Hugging Face folders, or NeMo checkpoints and finished stages' folders."
        ),
    ],
    output: Annotated[Path, typer.Option(help="The checkpoint to write, of the parents' kind.")],
    weights: Annotated[
        list[float] | None, typer.Option(help="One for each parent; for slerp 1-t t.")
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="For task: what the parents were trained from.")
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            metavar="FIRST..LAST[:STEP]",
            help="In place of --weights: the second's; the best is kept.",
        ),
    ] = None,
    short: Annotated[
        Path | None, typer.Option(help="For --sweep: short texts, JSON lines or a text file.")
    ] = None,
    long: Annotated[Path | None, typer.Option(help="For --sweep: long texts.")] = None,
) -> None:
    """Merge checkpoints into one: a weighted sum, SLERP, or task vectors added to a base."""
    if (weights is None) == (sweep is None):
        raise UserError("a merge needs either --weights or --sweep; give one of the two")
    if (sweep is None) != (short is None) or (sweep is None) != (long is None):
        raise UserError("--sweep, --short and --long belong together; give all three or none")
    if weights is not None:
        from recipes.merging.merge import merge

        merge(method, parents, weights, output, base=base)
    if sweep and short and long:
        from recipes.merging.sweep import parse_sweep, text_evaluation
        from recipes.merging.sweep import sweep as sweep_weights

        candidates = parse_sweep(sweep)
        sweep_weights(
            method,
            parents,
            candidates,
            output,
            text_evaluation(_read_texts(short), _read_texts(long)),
            base=base,
        )


def _read_texts(path: Path) -> "Texts":
    """Return the documents of a file: JSON lines with a field ``text``, or a text file."""
    from data_prep import documents
    from recipes.merging.sweep import Texts

    # one part for the whole file
    parts = documents.split_inputs([str(path)], 2**62)
    texts = [document.text for part in parts for document in documents.read(part, "text")]
    if not any(texts):
        raise UserError(f"{path}: no text in it; give JSON lines with a field text, or a text file")
    return Texts(str(path), texts)


def generate(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A Hugging Face model folder.")],
    prompt: Annotated[str, typer.Option(help="The text to continue.")] = "def __init__(self, ",
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate.")] = 48,
    chat: Annotated[
        bool,
        typer.Option("--chat", help="Ask the prompt in the chat format, and print the reply."),
    ] = False,
) -> None:
    """Continue a prompt with an exported model, through transformers."""
    from recipes.model.generate import generate as generate_text

    typer.echo(generate_text(folder, prompt, tokens, chat))
