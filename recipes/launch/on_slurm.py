"""The chain on a Slurm cluster: as jobs that wait for each other, or printed."""

import logging
import re
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from evaluation.results import UNITS, evaluation_name
from evaluation.suites import LONG_CONTEXT
from evaluation.suites import lengths as ruler_lengths
from recipes.common.errors import UserError
from recipes.launch.chain import build_chain, require_initial_checkpoint, trained_recipes
from recipes.launch.cluster_inputs import input_folders, named_folders
from recipes.launch.curation import JUDGE_FILE, curation_tasks
from recipes.model_folder.hub import is_path
from recipes.registry.resolve import require_known, resolve_pretraining
from recipes.registry.stages import STAGES
from recipes.runs.chain_request import ChainRequest
from recipes.runs.commands import (
    CurateOptions,
    EvaluateOptions,
    RolloutServerOptions,
    TokenizeOptions,
)
from recipes.runs.data_folder import MANIFEST as DATA_MANIFEST
from recipes.runs.stage_folder import STAGE_BYTES
from recipes.runs.task import Task
from recipes.spec.sizes import SIZES
from slurm.cluster import Cluster, load_cluster
from slurm.jobs import build_jobs
from slurm.shell import Shell
from slurm.status import active_ids, cli_flags, local_view_of_run, query_status
from slurm.submission import Submission
from slurm.submit import dry_run_scripts, submit

log = logging.getLogger(__name__)


def run_on_cluster(
    on: str,
    run_dir: Path | None,
    request: ChainRequest,
    dryrun: bool,
) -> None:
    """Submit a chain, or print its jobs with their batch scripts without asking the cluster.

    Raises:
        UserError: an invalid cluster file; a chain that :func:`recipes.launch.chain.build_chain`
            refuses; a path that the cluster cannot know; a chain of this folder that still waits
            or runs; and as :func:`slurm.submit.submit`.
    """
    cluster = load_cluster(on)
    folder = _run_folder(cluster, run_dir, request.size)
    request = _for_cluster(request, cluster)
    if not dryrun:
        _submit(cluster, on, folder, request)
        return

    # a cluster behind a login node is not asked; its run counts as new
    state: AbstractContextManager[Any]
    if cluster.login:
        state = tempfile.TemporaryDirectory(prefix="granite41-")
    else:
        state = local_view_of_run(Shell(cluster), folder)
    with state as local_view:
        chain = _build_chain(request, folder, Path(local_view))

    mounts = named_folders(request)
    if request.data and not cluster.login and (Path(request.data) / DATA_MANIFEST).exists():
        mounts = input_folders(Shell(cluster), request, trained_recipes(chain, request))
    _print_scripts(chain, cluster, folder, mounts)


def tokenize_on_cluster(
    on: str,
    run_dir: Path | None,
    options: TokenizeOptions,
    dryrun: bool,
) -> None:
    """Submit ``granite41 data tokenize`` as an array with a job for each shard.

    The last job writes the manifest.

    Args:
        on: the cluster.
        run_dir: folder of the jobs' records; None for one of the cluster's named as the output.
        options: of the command; without ``workers`` a job has as many as the CPUs that the
            cluster's file gives it.
        dryrun: print the jobs, submit nothing.

    Raises:
        UserError: the cluster is not this machine's, whose files say how many shards there are;
            and as :func:`run_on_cluster`.
    """
    cluster = load_cluster(on)
    if cluster.login:
        raise UserError(
            f"--on {on}: the number of shards is seen where the files are; run it on the login node"
        )
    from data_prep.shards import make_plan

    # the array has a job for each shard, so they are counted here
    inputs = [_absolute_input(name) for name in options.inputs]
    count = len(make_plan(inputs, options.shards).shards)
    workers = options.workers
    if workers is None and cluster.cpu_partition:
        workers = cluster.cpu_partition.cpus_per_task
    options = replace(
        options,
        inputs=tuple(inputs),
        output=Path(options.output).resolve(),
        tokenizer=Path(options.tokenizer).resolve(),
        shards=count,
        workers=workers,
    )

    chain = [Task("tokenize", options.to_argv(), array=count)]
    folder = _run_folder(cluster, run_dir, Path(options.output).name)
    mounts = _data_folders([*options.inputs, str(options.tokenizer)], options.output)
    _submit_data(chain, cluster, on, folder, mounts, dryrun)


def curate_on_cluster(
    on: str,
    run_dir: Path | None,
    options: CurateOptions,
    serve: str | None,
    vllm: str,
    dryrun: bool,
) -> None:
    """Submit ``granite41 data curate``: its passes one after the other, by arrays of jobs.

    Args:
        on: the cluster.
        run_dir: as of :func:`tokenize_on_cluster`.
        options: of the command.
        serve: the judge, a folder or a name of the Hub, that a job serves for the selection.
        vllm: the program that serves it.
        dryrun: print the jobs, submit nothing.

    Raises:
        UserError: as :func:`tokenize_on_cluster`.
    """
    cluster = load_cluster(on)
    if cluster.login:
        raise UserError(
            f"--on {on}: the number of shards is seen where the files are; run it on the login node"
        )
    from data_prep.shards import make_plan

    inputs = [_absolute_input(name) for name in options.inputs]
    count = len(make_plan(inputs, options.shards).shards)
    if serve and not serve.startswith("/") and Path(serve).is_dir():
        serve = str(Path(serve).resolve())
    rubric = Path(options.rubric).resolve() if options.rubric else None
    options = replace(
        options,
        inputs=tuple(inputs),
        output=Path(options.output).resolve(),
        decontaminate=tuple(map(_absolute_suite, options.decontaminate)),
        rubric=rubric,
        shards=count,
    )
    folder = _run_folder(cluster, run_dir, Path(options.output).name)
    chain = curation_tasks(options, folder, serve, vllm)
    read = [*inputs, *options.decontaminate, *map(str, filter(None, (rubric, serve, vllm)))]
    mounts = _data_folders(read, options.output)
    if not dryrun:
        # of a former server, which must not be taken for the new one
        Path(folder / JUDGE_FILE).unlink(missing_ok=True)
    _submit_data(chain, cluster, on, folder, mounts, dryrun)


def _submit_data(
    chain: Sequence[Task],
    cluster: Cluster,
    on: str,
    folder: PurePosixPath,
    mounts: Sequence[str],
    dryrun: bool,
) -> None:
    """Submit tasks that are no stages, or print them."""
    if dryrun:
        _print_scripts(chain, cluster, folder, mounts)
        return
    ids = submit(
        chain,
        cluster,
        folder,
        _former_request(cluster, on, folder),
        mounts=mounts,
    )
    for task in chain:
        shards = f"{task.array} jobs for as many shards" if task.array > 1 else "one job"
        print(f"{ids[task.name]}  {task.name}: {shards}")
    log.info("see `granite41 status %s`", cli_flags(cluster, on, folder))


def _data_folders(read: Sequence[str], output: Path | str) -> list[str]:
    """Return the folders that a task reads, and the one in which its output is."""
    folders = [str(Path(output).parent)]
    for name in read:
        path = Path(name.removeprefix("task:"))
        # a name of the Hub or of a task is no folder
        if path.is_absolute():
            folders.append(str(path if path.is_dir() else path.parent))
    return folders


def _absolute_suite(spec: str) -> str:
    name = spec.removeprefix("task:")
    if name != spec and not Path(name).is_file():
        return spec
    return spec.removesuffix(name) + str(Path(name).resolve())


def serve_on_cluster(on: str, options: RolloutServerOptions, servers: int, dryrun: bool) -> None:
    """Submit ``granite41 rollout-server`` as an array with a job for each server.

    A job queues itself again before its time limit, and ends with the stage.

    Args:
        on: the cluster.
        options: of the command; paths are the cluster's. The jobs' records are in its folder.
        servers: their number.
        dryrun: print the jobs, submit nothing.

    Raises:
        UserError: as :func:`run_on_cluster`.
    """
    cluster = load_cluster(on)
    folder = _cluster_path(cluster, Path(options.folder), "FOLDER")
    model = _cluster_path(cluster, Path(options.model), "--model")
    options = replace(options, folder=str(folder), model=str(model))
    task = Task(
        "servers",
        options.to_argv(),
        needs_gpu=True,
        # each refresh is progress
        units_folder=Path(folder) / "weights",
        array=servers,
        is_server=True,
        serves_rollouts=True,
    )
    # the stage's folder has the manifest by which they end
    mounts = [str(folder.parent), str(model)]
    if dryrun:
        _print_scripts([task], cluster, folder, mounts)
        return

    ids = submit([task], cluster, folder, _former_request(cluster, on, folder), mounts=mounts)
    print(f"{ids['servers']}  {servers} rollout servers")
    log.info("see `granite41 status %s`", cli_flags(cluster, on, folder))


def evaluate_on_cluster(on: str, options: EvaluateOptions, dryrun: bool) -> None:
    """Submit ``granite41 eval SUITE`` as one job; RULER as one for each length and a last one.

    Args:
        on: the cluster.
        options: the run's folder is one of the cluster's named as the model's size when None, and
            RULER's lengths are a stage's own when empty; paths are the cluster's.
        dryrun: print the jobs, submit nothing.

    Raises:
        UserError: as :func:`run_on_cluster`.
    """
    cluster = load_cluster(on)
    run_dir = None
    if options.run_dir:
        run_dir = Path(options.run_dir)
    folder = _run_folder(cluster, run_dir, options.size)
    options = _with_cluster_paths(options, cluster)
    options = replace(options, run_dir=str(folder))
    chain = _evaluation_tasks(options, Path(folder))
    mounts = _evaluation_folders(options)
    if dryrun:
        _print_scripts(chain, cluster, folder, mounts)
        return

    # with the former request a chain of this folder can still be resumed
    ids = submit(
        chain,
        cluster,
        folder,
        _former_request(cluster, on, folder),
        mounts=mounts,
    )
    for task in chain:
        print(f"{ids[task.name]}  {task.name}")
    flags = cli_flags(cluster, on, folder)
    log.info("see `granite41 status %s`, and the scores with `granite41 eval report`", flags)


def resume(run_dir: Path, on: str | None) -> None:
    """Submit what is left of a chain that ended early.

    Args:
        run_dir: the run's folder on the cluster.
        on: a cluster file whose present values replace those of the submission.

    Raises:
        UserError: nothing was submitted into the folder; and as :func:`run_on_cluster`.
    """
    cluster, folder, submission = find_submission(run_dir, on)
    if not submission.request:
        raise UserError(
            f"{folder}: holds no chain of stages; give its command again, "
            f"what is done is not done again"
        )
    _submit(cluster, on, folder, submission.request)


def find_submission(run_dir: Path, on: str | None) -> tuple[Cluster, PurePosixPath, Submission]:
    """Return the cluster, the run's folder there, and what was submitted into it.

    Args:
        run_dir: the run's folder.
        on: the cluster, where it is not this machine's.

    Raises:
        UserError: an invalid cluster file; nothing was submitted, or its record is damaged.
    """
    if on is None:
        folder = run_dir.resolve()
        submission = Submission.read(folder)
        return submission.cluster, PurePosixPath(folder), submission

    cluster = load_cluster(on)
    cluster_folder = _resolve_unless_remote(cluster, run_dir)
    with local_view_of_run(Shell(cluster), cluster_folder) as local_view:
        submission = Submission.read(local_view)
    return cluster, cluster_folder, submission


def _submit(
    cluster: Cluster,
    on: str | None,
    folder: PurePosixPath,
    request: ChainRequest,
) -> None:
    _former_request(cluster, on, folder)
    with local_view_of_run(Shell(cluster), folder) as local_view:
        chain = _build_chain(request, folder, local_view)
    recipes = trained_recipes(chain, request)
    mounts = input_folders(Shell(cluster), request, recipes)
    if not cluster.login:
        require_initial_checkpoint(chain, request.init)

    # a finished stage has no task
    names = [task.name for task in chain]
    for stage in request.stages:
        if stage not in names:
            log.info("%s: finished already", stage)

    # what the stages that are trained will need on the cluster's disk
    parameters = sum(recipe.model.parameter_count.value for recipe in recipes)
    ids = submit(
        chain,
        cluster,
        folder,
        request,
        needed_bytes=parameters * STAGE_BYTES,
        mounts=mounts,
    )

    for job in build_jobs(chain, cluster):
        print(f"{ids[job.name]}  {job}")
    flags = cli_flags(cluster, on, folder)
    log.info(
        "%d jobs are in the queue; see `granite41 status %s`",
        len(ids),
        flags,
    )


def _former_request(
    cluster: Cluster,
    on: str | None,
    folder: PurePosixPath,
) -> ChainRequest | None:
    """Return the request of the chain that was submitted into this folder before.

    Raises:
        UserError: its jobs wait or run.
    """
    with local_view_of_run(Shell(cluster), folder) as local_view:
        if not Submission.is_in(local_view):
            return None
        submission = Submission.read(local_view)
        status = query_status(cluster, local_view, folder, submission)
        ids = active_ids(status)
    if ids:
        raise UserError(
            f"{folder}: {len(ids)} jobs of this run wait or run already; "
            f"`granite41 cancel {cli_flags(cluster, on, folder)}` first, or name another --run-dir"
        )
    return submission.request


def _print_scripts(
    chain: Sequence[Task],
    cluster: Cluster,
    folder: PurePosixPath,
    mounts: Sequence[str],
) -> None:
    """Print each job with its batch script."""
    scripts = dry_run_scripts(chain, cluster, folder, mounts)
    for job in build_jobs(chain, cluster):
        print(f"==== {job}")
        print(scripts[job.name])


def _for_cluster(request: ChainRequest, cluster: Cluster) -> ChainRequest:
    """Return the request with paths as the jobs see them, and with the cluster's GPUs."""
    data = request.data
    if data:
        data = str(_cluster_path(cluster, Path(data), "--data"))
    packed = request.packed
    if packed:
        packed = str(_cluster_path(cluster, Path(packed), "--packed"))
    prompts = request.prompts
    if prompts:
        prompts = str(_cluster_path(cluster, Path(prompts), "--prompts"))

    init = request.init
    if init:
        init = _cluster_model(cluster, init, "--init")

    # the cluster's file says which GPUs it has, unless the user does; tiny needs none
    require_known("size", request.size, SIZES)
    overrides = list(request.overrides)
    gpu_type = "parallelism.gpu_type="
    is_overridden = any(override.startswith(gpu_type) for override in overrides)
    if not SIZES[request.size].is_tiny and not is_overridden:
        overrides.append(f"{gpu_type}{cluster.compute.gpu_type}")
    return replace(
        request,
        data=data,
        packed=packed,
        prompts=prompts,
        init=init,
        overrides=overrides,
    )


def _build_chain(
    request: ChainRequest,
    folder: PurePosixPath,
    local_view: Path,
) -> Sequence[Task]:
    return build_chain(
        request,
        Path(folder),
        on_cluster=True,
        state=local_view,
    )


def _with_cluster_paths(options: EvaluateOptions, cluster: Cluster) -> EvaluateOptions:
    paths: dict[str, Any] = {}
    for name in ("output", "ruler_samples", "corpora"):
        value = getattr(options, name)
        if value is not None:
            flag = f"--{name.replace('_', '-')}"
            path = _cluster_path(cluster, Path(value), flag)
            paths[name] = str(path)

    # a stage is no path
    if options.model not in STAGES:
        paths["model"] = _cluster_model(cluster, options.model, "--model")
    return replace(options, **paths)


def _cluster_model(cluster: Cluster, model: str, option: str) -> str:
    """Return a checkpoint's path, or a model's path or name after ``hf:``, as the jobs see it."""
    if not model.startswith("hf:"):
        return str(_cluster_path(cluster, Path(model), option))
    name = model.removeprefix("hf:")
    if is_path(name):
        name = str(_cluster_path(cluster, Path(name), option))
    return f"hf:{name}"


def _evaluation_folders(options: EvaluateOptions) -> list[str]:
    """Return the folders that an evaluation reads or writes outside the run's."""
    values = (
        options.model.removeprefix("hf:"),
        options.ruler_samples,
        options.corpora,
    )
    folders = [str(value) for value in values if value and PurePosixPath(value).is_absolute()]
    if options.output:
        # it may be that only its parent exists
        folders.append(str(PurePosixPath(options.output).parent))
    return folders


def _evaluation_tasks(options: EvaluateOptions, run_folder: Path) -> list[Task]:
    """Return the tasks of an evaluation; of several lengths one each, and one that gathers them."""
    name = f"eval-{options.suite}"
    lengths = options.lengths
    if options.suite == LONG_CONTEXT and options.model in STAGES and not lengths:
        recipe = resolve_pretraining(options.model, options.size)
        length = recipe.sequence_length.value
        lengths = tuple(ruler_lengths(options.size, length))
        options = replace(options, lengths=lengths)
    argv = options.to_argv()
    label = options.label or ("unmerged" if options.unmerged else "")
    stage_folder = run_folder / (options.stage or options.model)
    output = options.output or stage_folder / "eval" / evaluation_name(options.suite, label)
    units = Path(output) / UNITS
    if len(lengths) <= 1:
        return [Task(name, argv, needs_gpu=True, units_folder=units)]

    # a job for each length, and one that gathers their scores
    parts = []
    for length in lengths:
        part = replace(options, lengths=(length,))
        task = Task(
            f"{name}-{length}",
            part.to_argv(),
            needs_gpu=True,
            units_folder=units,
        )
        parts.append(task)
    names = tuple(part.name for part in parts)
    return [*parts, Task(name, argv, after=names)]


def _absolute_input(name: str) -> str:
    if name.startswith("hf:"):
        return name
    return str(Path(name).resolve())


def _run_folder(cluster: Cluster, run_dir: Path | None, name: str) -> PurePosixPath:
    """Return the run's folder on the cluster, which has a name in its shared folder by default."""
    if run_dir:
        return _cluster_path(cluster, run_dir, "--run-dir")
    default = PurePosixPath(cluster.folder) / "runs" / name
    return _cluster_path(cluster, default, "--run-dir")


def _cluster_path(
    cluster: Cluster,
    path: Path | PurePosixPath,
    option: str,
) -> PurePosixPath:
    """Return a path as the cluster's jobs see it, which start in a folder of their own."""
    if cluster.login and not path.is_absolute():
        raise UserError(
            f"{option} {path}: a relative path means nothing on {cluster.login.host}; "
            f"give an absolute one"
        )
    absolute = _resolve_unless_remote(cluster, path)
    # nemo-run replaces /nemo_run anywhere in a batch script
    text = str(absolute)
    if "/nemo_run" in text or not re.fullmatch(r"/[\w./@+=-]*", text):
        raise UserError(
            f"{option} {text!r}: nemo-run writes paths into scripts as they are, and "
            f"replaces /nemo_run; name one of letters, digits and ./@+=-_ without it"
        )
    return absolute


def _resolve_unless_remote(cluster: Cluster, path: Path | PurePosixPath) -> PurePosixPath:
    """Return a path without links where this machine sees the cluster's files, else as it is."""
    if cluster.login:
        return PurePosixPath(path)
    return PurePosixPath(Path(path).resolve())
