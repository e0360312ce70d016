"""The command line ``granite41``: one function per command, each importing what it needs when it runs."""

import json
import logging
import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recipes.cli import cluster as slurm_cli
from recipes.cli.data import data_app
from recipes.cli.evaluate import eval_app
from recipes.cli.grouped_help import GroupedHelp
from recipes.common import logs
from recipes.common.check_result import print_checks
from recipes.common.environment import PRELOADED
from recipes.common.errors import USER_ERROR_MARKER, LockedError, UserError
from recipes.common.multi_value import MultiValueCommand
from recipes.common.progress import duration
from recipes.common.tables import human, print_table
from recipes.registry.resolve import resolve
from recipes.registry.stages import STAGES, stage_sizes
from recipes.spec.tree import flatten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from recipes.merging.sweep import Texts
    from recipes.runs.chain_request import ChainRequest
    from recipes.runs.task import Task

_log = logging.getLogger(__name__)

app = typer.Typer(
    cls=GroupedHelp,
    help="Recipes that reproduce IBM's Granite 4.1 language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # plain help and usage errors: readable in a pipe, and Rich is not imported for them
    rich_markup_mode=None,
    # click suggests the nearest command by itself
    suggest_commands=False,
)

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
TrackerOption = Annotated[
    str | None,
    typer.Option("--log", help="Log to wandb or mlflow too, beside TensorBoard's files."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def main() -> None:
    """Run the command line; a user's mistake ends it with one sentence on stderr and exit status 2."""
    if PRELOADED in os.environ:
        from recipes.launch.preloaded import run_in_fork

        sys.exit(run_in_fork(os.environ[PRELOADED], sys.argv[1:]))
    # torch warns so at import; nvidia-modelopt and nvidia-resiliency-ext bring the package in
    warnings.filterwarnings(
        "ignore", message="The pynvml package is deprecated", category=FutureWarning
    )
    # what stands in for them on a CPU is this project's
    warnings.filterwarnings(
        "ignore", message="Transformer Engine and Apex are not installed", category=UserWarning
    )
    try:
        app(prog_name="granite41")
    except UserError as error:
        print(f"granite41: {error}", file=sys.stderr)
        if USER_ERROR_MARKER in os.environ and not isinstance(error, LockedError):
            with suppress(OSError):
                Path(os.environ[USER_ERROR_MARKER]).touch()
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
    ctx: typer.Context,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show details, and all that tasks print.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    ctx.obj = verbose
    logs.configure(verbose)


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


@app.command("check")
def check_recipes(
    size: SizeOption,
    stage: Annotated[
        str | None,
        typer.Option(
            metavar="STAGE", help="One stage  [default: all of pre-training and long context]"
        ),
    ] = None,
    overrides: OverridesArgument = None,
    as_json: JsonOption = False,
) -> None:
    """Prove a recipe without GPUs: its arithmetic, its memory (an estimate), and the real model's shards."""
    from recipes.model.shards import check_stages

    checks = check_stages(size, stage, overrides or [])
    if not print_checks(checks, as_json, size=size):
        raise typer.Exit(1)


@app.command("run")
def run_stages(
    ctx: typer.Context,
    stages: Annotated[
        str, typer.Argument(metavar="STAGE[..STAGE]", help="One stage, or a range: phase1..phase4.")
    ],
    size: SizeOption,
    overrides: OverridesArgument = None,
    on: Annotated[
        str,
        typer.Option(
            "--on", metavar="local|CLUSTER", help="This machine, or a cluster file or its name."
        ),
    ] = "local",
    run_dir: Annotated[
        Path | None,
        typer.Option(
            help="The run's folder  [default: runs/SIZE; on a cluster in its shared folder]"
        ),
    ] = None,
    data: DataOption = None,
    devices: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes to train with, a GPU each  [default: one replica's; on a cluster all]",
        ),
    ] = None,
    first: Annotated[
        str | None,
        typer.Option("--from", metavar="STAGE", help="Leave out the stages before this one."),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="Begin with a checkpoint, a finished stage's folder, or hf:NAME or hf:FOLDER."
        ),
    ] = None,
    evaluate: Annotated[
        bool, typer.Option("--eval/--no-eval", help="Evaluate each stage, and stop at its gate.")
    ] = True,
    log: TrackerOption = None,
    dryrun: Annotated[
        bool, typer.Option("--dryrun", help="Print the tasks and run nothing.")
    ] = False,
) -> None:
    """Run stages and what belongs to them: data (size tiny), training, merge, export, evaluation, report."""
    from recipes.launch.chain import build_chain, require_inputs, select_stages
    from recipes.runs.chain_request import ChainRequest

    request = ChainRequest(
        stages=select_stages(stages, size, first),
        size=size,
        overrides=overrides or [],
        data=str(data) if data else None,
        devices=devices,
        init=init,
        evaluate=evaluate,
        log=log,
    )
    if log:
        from recipes.training.trackers import check_tracker

        check_tracker(log, is_used_here=on == "local")
    if on != "local":
        from recipes.launch.on_slurm import run_on_cluster

        run_on_cluster(on, run_dir, request, dryrun)
        return

    run_folder = run_dir or Path("runs") / size
    chain = build_chain(request, run_folder)
    if dryrun:
        for stage in request.stages:
            if stage not in [task.name for task in chain]:
                typer.echo(f"{stage}: finished already")
        for task in chain:
            typer.echo(str(task))
        return
    require_inputs(chain, data, init)
    _run_here(request, chain, run_folder, verbose=bool(ctx.obj))


def _run_here(
    request: "ChainRequest", chain: "Sequence[Task]", run_folder: Path, verbose: bool
) -> None:
    """Run a chain on this machine, with its plan, its progress and a summary at the end."""
    from recipes.launch.chain import resolve_recipes
    from recipes.launch.display import next_steps, plan_lines
    from recipes.launch.durations import expected_seconds
    from recipes.reports.summary import run_summary, summary_text

    seconds = expected_seconds(chain, resolve_recipes(request))
    typer.echo("\n".join(plan_lines(chain, request.stages)))
    typer.echo(f"{len(chain)} tasks, about {duration(sum(seconds.values()))} on two cores\n")

    from recipes.launch.locally import run_local

    try:
        run_local(chain, run_folder, seconds, verbose)
    except KeyboardInterrupt:
        print("granite41: interrupted; the same command continues", file=sys.stderr)
        sys.exit(130)
    typer.echo(f"\n{summary_text(run_summary(run_folder))}")
    typer.echo("\n".join(next_steps(run_folder, request.stages[-1], request.size)))


app.command()(slurm_cli.status)
app.command()(slurm_cli.logs)
app.command()(slurm_cli.cancel)


@app.command()
def resume(run_dir: slurm_cli.RunDirOption, on: slurm_cli.OnOption = None) -> None:
    """Submit again what is left of a chain that was cancelled or has failed on a cluster."""
    from recipes.launch.on_slurm import resume as resume_chain

    resume_chain(run_dir, on)


@app.command()
def train(
    stage: StageArgument,
    size: SizeOption,
    run_dir: Annotated[Path, typer.Option(help="The run's folder.")],
    data: Annotated[Path, typer.Option(help="A folder of prepared data.")],
    overrides: OverridesArgument = None,
    init: Annotated[
        Path | None,
        typer.Option(
            help="Start from this checkpoint or finished stage's folder  [default: the parent's]"
        ),
    ] = None,
    log: TrackerOption = None,
) -> None:
    """Train one stage in this process, or in each process of torchrun; continue it if it was interrupted."""
    from recipes.training.run import prepare

    stage_run = prepare(stage, size, run_dir, data, overrides or [], init, log)
    if stage_run is None:
        return
    try:
        stage_run.train()
    finally:
        # also of a stage that has failed or was stopped
        if stage_run.has_begun:
            _write_report(run_dir)


def _write_report(run_folder: Path) -> None:
    """Write the run's report; where it cannot be, say so and hide no other error."""
    from recipes.reports.run import write_report

    try:
        write_report(run_folder)
    except (OSError, UserError) as error:
        _log.warning("%s: no report was written: %s", run_folder, error)


@app.command("export")
def export_checkpoint(
    checkpoint: Annotated[
        Path, typer.Option(help="A NeMo checkpoint, or a finished stage's folder.")
    ],
    output: Annotated[Path, typer.Option(help="The Hugging Face folder to write.")],
) -> None:
    """Export a NeMo checkpoint to a Hugging Face folder."""
    from recipes.runs.stage_folder import final_checkpoint

    source = final_checkpoint(checkpoint) or checkpoint
    from recipes.model.bridge.to_hf import export_hf

    export_hf(source, output)


@app.command("import")
def import_folder(
    hf: Annotated[
        str, typer.Option("--hf", help="A folder of a GraniteForCausalLM, or its name on the Hub.")
    ],
    output: Annotated[Path, typer.Option(help="The NeMo checkpoint to write.")],
) -> None:
    """Import a Hugging Face model as a NeMo checkpoint."""
    from recipes.model.bridge.hf_folder import local_folder

    source = local_folder(hf)
    from recipes.model.bridge.from_hf import import_hf

    import_hf(source, output)


@app.command("merge", cls=MultiValueCommand)
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

    parts = documents.split_inputs([str(path)], 2**62)
    texts = [document.text for part in parts for document in documents.read(part, "text")]
    if not any(texts):
        raise UserError(f"{path}: no text in it; give JSON lines with a field text, or a text file")
    return Texts(str(path), texts)


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
    """Write the run's reports as HTML and Markdown, and print the latter.

    report.html is on the training, evaluation.html on the evaluations, if any.
    """
    from recipes.reports import evaluation, run
    from recipes.reports.evaluation_files import evaluation_paths

    # the run's report links to that on evaluations
    pages = [evaluation.write_report(run_dir)] if evaluation_paths(run_dir) else []
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


app.add_typer(data_app, name="data")
app.add_typer(eval_app, name="eval")
app.add_typer(plot_app, name="plot")
app.add_typer(slurm_cli.cluster_app, name="cluster")


if __name__ == "__main__":
    main()
