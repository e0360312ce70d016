"""``granite41 rollout-server``: vLLM servers that a trainer refreshes."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from recipes.cli.data import Dryrun
from recipes.cli.evaluate import OnOption
from recipes.common.errors import UserError

Folder = Annotated[
    Path,
    typer.Argument(metavar="FOLDER", help="Shared with the trainer: RUN/STAGE/rollout."),
]
Model = Annotated[
    Path,
    typer.Option(help="Hugging Face folder that the stage starts from."),
]
Number = Annotated[
    int | None,
    # a job of an array gets its number as a shard
    typer.Option("--number", "--shard", min=0, help="Of this server  [default: 0]"),
]
Servers = Annotated[
    int,
    typer.Option(min=1, help="On a cluster, jobs with a server each."),
]
Python = Annotated[
    str,
    typer.Option(help="Interpreter of the environment with vLLM."),
]
Host = Annotated[
    str | None,
    typer.Option(help="Address that the trainer's node reaches  [default: this node's name's]"),
]
MaxLength = Annotated[
    int,
    typer.Option(min=2, help="Tokens of a prompt and its answer."),
]
TensorParallel = Annotated[
    int,
    typer.Option(min=1, help="GPUs that share the model."),
]
VllmOptions = Annotated[
    str,
    typer.Option(metavar="WORDS", help='More words of `vllm serve`, as "--dtype bfloat16".'),
]


def rollout_server(
    folder: Folder,
    model: Model,
    number: Number = None,
    python: Python = "python",
    host: Host = None,
    max_length: MaxLength = 8192,
    tensor_parallel: TensorParallel = 1,
    vllm_options: VllmOptions = "",
    servers: Servers = 1,
    on: OnOption = "local",
    dryrun: Dryrun = False,
) -> None:
    """Run a vLLM server for the rollouts of RL until its stage, FOLDER's parent, has finished."""
    try:
        more = shlex.split(vllm_options)
    except ValueError as error:
        raise UserError(
            f"--vllm-options {vllm_options!r}: cannot be split into words ({error}); correct it"
        ) from error

    if on != "local":
        from recipes.launch.on_slurm import serve_on_cluster
        from recipes.runs.commands import RolloutServerOptions

        if number is not None or host is not None:
            raise UserError(
                f"--number and --host: --on {on} numbers the servers and finds their nodes' "
                f"addresses; leave them out"
            )
        options = RolloutServerOptions(
            folder=folder,
            model=model,
            python=python,
            max_length=max_length,
            tensor_parallel=tensor_parallel,
            vllm_options=vllm_options,
        )
        serve_on_cluster(on, options, servers, dryrun)
        return
    if servers > 1 or dryrun:
        raise UserError(
            "--servers and --dryrun: are for a cluster, named with --on; here start one command "
            "for each --number"
        )
    _serve(folder, model, number or 0, python, host, max_length, tensor_parallel, more)


def _serve(
    folder: Path,
    model: Path,
    number: int,
    python: str,
    host: str | None,
    max_length: int,
    tensor_parallel: int,
    more: list[str],
) -> None:
    from recipes.alignment.rollout.folder import RolloutFolder
    from recipes.alignment.rollout.supervisor import (
        Supervisor,
        inner_address,
        server_environment,
        vllm_command,
    )
    from recipes.model_folder.weights import open_granite
    from recipes.runs.stage_manifest import read_manifest

    def is_over() -> bool:
        manifest = read_manifest(folder.parent)
        return manifest is not None and manifest.is_finished

    positions = open_granite(model).config.max_position_embeddings
    if max_length > positions:
        raise UserError(
            f"--max-length {max_length:,}: is beyond the {positions:,} positions of {model}; ask "
            f"for at most as many"
        )
    shared = RolloutFolder(folder)
    command = vllm_command(python, model, max_length, tensor_parallel, more)
    supervisor = Supervisor(shared, number, command, host or inner_address(), is_over)
    supervisor.run(server_environment(shared.key()))
