"""``granite41 run``, ``resume`` and ``train``: chains of stages, and one stage by hand."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recipes.cli.cluster import OnOption, RunDirOption
from recipes.cli.options import (
    DataOption,
    OverridesArgument,
    PackedOption,
    PromptsOption,
    RewardModelNameOption,
    RewardModelOption,
    SizeOption,
    StageArgument,
    TrackerOption,
)
from recipes.common.errors import UserError
from recipes.common.progress import duration

if TYPE_CHECKING:
    from recipes.runs.chain_request import ChainRequest
    from recipes.runs.task import Task
    from recipes.training.stage_run import StageRun

_log = logging.getLogger(__name__)


StagesArgument = Annotated[
    str, typer.Argument(metavar="STAGE[..STAGE]", help="One stage, or a range: phase1..phase4.")
]
WhereOption = Annotated[
    str,
    typer.Option(
        "--on", metavar="local|CLUSTER", help="This machine, or a cluster file or its name."
    ),
]
RunFolderOption = Annotated[
    Path | None,
    typer.Option(
        "--run-dir",
        help="The run's folder  [default: runs/SIZE; on a cluster in its shared folder]",
    ),
]
DevicesOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processes to train with, a GPU each  [default: one replica's; on a cluster all]",
    ),
]
FromOption = Annotated[
    str | None,
    typer.Option("--from", metavar="STAGE", help="Leave out the stages before this one."),
]
InitOption = Annotated[
    str | None,
    typer.Option(
        help="Start from a checkpoint, a finished stage's folder, or hf:NAME or hf:FOLDER."
    ),
]
EvaluateOption = Annotated[
    bool, typer.Option("--eval/--no-eval", help="Evaluate each stage, and stop at its gate.")
]
DryRunOption = Annotated[bool, typer.Option("--dryrun", help="Print the tasks and run nothing.")]


def run_stages(
    ctx: typer.Context,
    stages: StagesArgument,
    size: SizeOption,
    overrides: OverridesArgument = None,
    on: WhereOption = "local",
    run_dir: RunFolderOption = None,
    data: DataOption = None,
    packed: PackedOption = None,
    prompts: PromptsOption = None,
    reward_model: RewardModelOption = None,
    reward_model_name: RewardModelNameOption = "",
    devices: DevicesOption = None,
    first: FromOption = None,
    init: InitOption = None,
    evaluate: EvaluateOption = True,
    log: TrackerOption = None,
    dryrun: DryRunOption = False,
) -> None:
    """Run stages: data (size tiny), training, merge, export, evaluation, report."""
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
        packed=str(packed) if packed else None,
        prompts=str(prompts) if prompts else None,
        reward_model=reward_model,
        reward_model_name=reward_model_name,
    )
    # before anything starts, rather than in the first stage's task
    if log:
        from recipes.training.trackers import check_tracker

        check_tracker(log, is_used_here=on == "local")
    if on != "local":
        from recipes.launch.on_slurm import run_on_cluster

        run_on_cluster(on, run_dir, request, dryrun)
        return

    run_folder = run_dir or Path("runs") / size
    if run_folder.exists() and not run_folder.is_dir():
        raise UserError(f"--run-dir {run_folder}: is no folder; name another, or a new one")
    # what the run's folder holds already has no task
    chain = build_chain(request, run_folder)
    if dryrun:
        _print_tasks(request, chain)
        return
    # a dry run may name what does not exist yet
    require_inputs(chain, request)
    _run_here(request, chain, run_folder, verbose=bool(ctx.obj))


def _print_tasks(request: "ChainRequest", chain: Sequence["Task"]) -> None:
    names = [task.name for task in chain]
    for stage in request.stages:
        if stage not in names:
            typer.echo(f"{stage}: finished already")
    for task in chain:
        typer.echo(str(task))


def _run_here(
    request: "ChainRequest", chain: Sequence["Task"], run_folder: Path, verbose: bool
) -> None:
    """Run a chain on this machine, with its plan, its progress and a summary at the end."""
    from recipes.launch.chain import resolve_recipes
    from recipes.launch.display import next_steps, plan_lines
    from recipes.launch.durations import expected_seconds
    from recipes.reports.run import print_summary

    seconds = expected_seconds(chain, resolve_recipes(request))
    typer.echo("\n".join(plan_lines(chain, request.stages)))
    typer.echo(f"{len(chain)} tasks, about {duration(sum(seconds.values()))} on two cores\n")

    # after the plan is printed: nemo-run takes seconds to import
    from recipes.launch.locally import run_local

    try:
        run_local(chain, run_folder, seconds, verbose)
    except KeyboardInterrupt:
        print("granite41: interrupted; the same command continues", file=sys.stderr)
        sys.exit(130)
    print_summary(run_folder)
    typer.echo("\n".join(next_steps(run_folder, request.stages[-1], request.size)))


def resume(run_dir: RunDirOption, on: OnOption = None) -> None:
    """Submit again what is left of a chain that was cancelled or has failed on a cluster."""
    from recipes.launch.on_slurm import resume as resume_chain

    resume_chain(run_dir, on)


def train(
    stage: StageArgument,
    size: SizeOption,
    run_dir: Annotated[Path, typer.Option(help="The run's folder.")],
    overrides: OverridesArgument = None,
    data: Annotated[Path | None, typer.Option(help="A folder of prepared data.")] = None,
    packed: PackedOption = None,
    prompts: PromptsOption = None,
    reward_model: RewardModelOption = None,
    reward_model_name: RewardModelNameOption = "",
    init: Annotated[
        Path | None,
        typer.Option(
            help="Start from this checkpoint or finished stage's folder  [default: the parent's]"
        ),
    ] = None,
    log: TrackerOption = None,
) -> None:
    """Train one stage in this process, or in each one of torchrun; continue it if interrupted."""
    from recipes.registry.resolve import resolve_ready

    # a wrong stage or override first
    recipe = resolve_ready(stage, size, overrides or [])
    stage_run: StageRun | None
    if recipe.kind == "rl":
        model = (reward_model, reward_model_name) if reward_model else None
        stage_run = _prepare_rl(stage, size, run_dir, overrides or [], prompts, model, init, log)
    else:
        stage_run = _prepare(stage, size, run_dir, overrides or [], data, packed, init, log)
    if stage_run is None:
        return
    try:
        stage_run.train()
    finally:
        # also of a stage that has failed or was stopped
        if stage_run.has_begun:
            _write_report(run_dir)


def _prepare(
    stage: str,
    size: str,
    run_folder: Path,
    overrides: Sequence[str],
    data: Path | None,
    packed: Path | None,
    init: Path | None,
    log: str | None,
) -> "StageRun | None":
    """Check what a stage needs, by what its kind trains on; None where it is finished already.

    Raises:
        UserError: that is not named; and as the two functions ``prepare``.
    """
    from recipes.registry.stages import STAGES

    if STAGES[stage].kind == "sft":
        if packed is None:
            raise UserError(
                f"{stage} trains on packed conversations: name the folder of "
                f"`granite41 data pack` with --packed"
            )
        from recipes.alignment.sft_run import prepare as prepare_sft

        return prepare_sft(stage, size, run_folder, packed, overrides, init, log)

    if data is None:
        raise UserError(f"{stage} trains on prepared data: name its folder with --data")
    from recipes.training.run import prepare

    return prepare(stage, size, run_folder, data, overrides, init, log)


def _prepare_rl(
    stage: str,
    size: str,
    run_folder: Path,
    overrides: Sequence[str],
    prompts: Path | None,
    reward_model: tuple[str, str] | None,
    init: Path | None,
    log: str | None,
) -> "StageRun | None":
    """Check what a stage of RL needs; None where it is finished already.

    Raises:
        UserError: no prompts are named; and as :func:`recipes.alignment.rl.run.prepare`.
    """
    from data_prep.prompts.encoder import PromptEncoder
    from recipes.alignment.rl.run import prepare

    if prompts is None:
        raise UserError(
            f"{stage} answers prompts: name the folder of `granite41 data prompts` with --prompts"
        )
    return prepare(
        stage,
        size,
        run_folder,
        prompts,
        PromptEncoder,
        reward_model=reward_model,
        overrides=overrides,
        init=init,
        tracker=log,
    )


def _write_report(run_folder: Path) -> None:
    """Write the run's report; where it cannot be, say so and hide no other error."""
    from recipes.reports.run import write_report

    try:
        write_report(run_folder)
    except (OSError, UserError) as error:
        _log.warning("%s: no report was written: %s", run_folder, error)
