"""The chain on a Slurm cluster: as jobs that wait for each other, or printed."""

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from evaluation.suites import LONG_CONTEXT
from evaluation.suites import lengths as ruler_lengths
from recipes.common.errors import UserError
from recipes.launch.chain import require_inputs, tasks
from recipes.registry.resolve import STAGES, require_known, resolve_pretraining
from recipes.runs.stage_folder import CHECKPOINTS_KEPT
from recipes.runs.task import Task
from recipes.spec.sizes import SIZES
from slurm.cluster import Cluster, cluster_from_dict, load_cluster
from slurm.jobs import build_jobs
from slurm.shell import Shell
from slurm.status import active, cli_flags, local_view_of_run, query_status, read_submitted
from slurm.submit import RECORDS, SUBMITTED, scripts, submit

# that a trained stage leaves for each parameter: checkpoints of bf16 weights, fp32 ones and two moments, one more while
# it is written; its merge; its export
_BYTES = 14 * (CHECKPOINTS_KEPT + 1) + 2 + 2


@dataclass(frozen=True)
class Request:
    """What a user asked for, as :func:`recipes.launch.chain.tasks` takes it; paths are the cluster's."""

    stages: list[str]
    size: str
    overrides: list[str]
    data: str | None
    devices: int | None
    init: str | None
    evaluate: bool


def run_on_cluster(
    on: str,
    run_dir: Path | None,
    request: Request,
    dryrun: bool,
    say: Callable[[str], None] = print,
) -> None:
    """Submit a chain, or print its jobs with their batch scripts, for which nothing is asked of the cluster.

    Raises:
        UserError: a cluster file that does not hold; a chain that :func:`recipes.launch.chain.tasks` refuses; a path that
            the cluster cannot know; a chain of this folder that still waits or runs; and as
            :func:`slurm.submit.submit`.
    """
    cluster = load_cluster(on)
    folder = _there(
        cluster, run_dir or PurePosixPath(cluster.folder) / "runs" / request.size, "--run-dir"
    )
    data = request.data and str(_there(cluster, Path(request.data), "--data"))
    init = request.init
    if init and not init.startswith("hf:"):
        init = str(_there(cluster, Path(init), "--init"))
    own = {override.partition("=")[0] for override in request.overrides}
    overrides = list(request.overrides)
    require_known("size", request.size, SIZES)
    if not SIZES[request.size].is_tiny and "parallelism.gpu_type" not in own:
        overrides.append(f"parallelism.gpu_type={cluster.compute.gpu_type}")
    wanted = Request(
        request.stages, request.size, overrides, data, request.devices, init, request.evaluate
    )
    if dryrun:
        seen = _nothing() if cluster.login else local_view_of_run(Shell(cluster), folder)
        with seen as state:
            chain = _chain(wanted, folder, Path(state))
        _print(chain, cluster, folder, say)
        return
    _submit(cluster, on, folder, wanted, say)


def tokenize_on_cluster(
    on: str,
    run_dir: Path | None,
    inputs: Sequence[str],
    output: Path,
    tokenizer: Path,
    shards: int | None,
    workers: int | None,
    options: Sequence[str],
    dryrun: bool,
    say: Callable[[str], None] = print,
) -> None:
    """Submit ``granite41 data tokenize`` as an array with a job for each shard; the last one writes the manifest.

    Args:
        run_dir: folder of the jobs' records; in the cluster's own by the name of the output when None.
        workers: processes of a job; those that the cluster's file gives it when None.
        options: more of the command's own.
        dryrun: print the jobs, submit nothing.

    Raises:
        UserError: the cluster is not this machine's, whose files say how many shards there are; and as
            :func:`run_on_cluster`.
    """
    cluster = load_cluster(on)
    if cluster.login:
        raise UserError(
            f"--on {on}: how many shards there are is seen where the files are; run it on the login node"
        )
    from data_prep.shards import plan

    inputs = [name if name.startswith("hf:") else str(Path(name).resolve()) for name in inputs]
    count = len(plan(inputs, shards))
    if workers is None and cluster.light:
        workers = cluster.light.cpus_per_task
    if workers:
        options = (*options, f"--workers={workers}")
    words = ("data", "tokenize", "--input", *inputs, "--output", str(output.resolve()))
    words += ("--tokenizer", str(tokenizer.resolve()), f"--shards={count}", *options)
    folder = _there(
        cluster, run_dir or PurePosixPath(cluster.folder) / "runs" / output.name, "--run-dir"
    )
    chain = [Task("tokenize", words, array=count)]
    if dryrun:
        _print(chain, cluster, folder, say)
        return
    ids = submit(chain, cluster, folder, _former_request(cluster, on, folder), say=say)
    say(
        f"{ids['tokenize']}  {count} jobs for as many shards; see `granite41 status {cli_flags(cluster, on, folder)}`"
    )


def evaluate_on_cluster(
    on: str,
    run_dir: Path | None,
    suite: str,
    model: str,
    size: str,
    lengths: Sequence[int],
    options: Mapping[str, Any],
    dryrun: bool,
    say: Callable[[str], None] = print,
) -> None:
    """Submit ``granite41 eval SUITE``: RULER with a job for each length and one that gathers them, others as one job.

    Args:
        run_dir: the run's folder; in the cluster's own by the model's size when None.
        model: a stage of the run, a folder, or ``hf:NAME``.
        lengths: RULER's, in tokens; for a stage those of its recipe when empty.
        options: more of the command's own: a value, a list, or True for a flag; a path is the cluster's.
        dryrun: print the jobs, submit nothing.

    Raises:
        UserError: as :func:`run_on_cluster`.
    """
    cluster = load_cluster(on)
    folder = _there(cluster, run_dir or PurePosixPath(cluster.folder) / "runs" / size, "--run-dir")
    if model not in STAGES and not model.startswith("hf:"):
        model = str(_there(cluster, Path(model), "--model"))
    words = ["eval", suite, "--model", model, "--size", size, "--run-dir", str(folder)]
    for name, value in options.items():
        if isinstance(value, Path):
            value = _there(cluster, value, name)
        words += (
            [name]
            if value is True
            else [name, *map(str, value if isinstance(value, list) else [value])]
        )
    if suite == LONG_CONTEXT and model in STAGES and not lengths:
        lengths = ruler_lengths(size, resolve_pretraining(model, size).sequence_length.value)
    name = f"eval-{suite}"
    given = ("--lengths", *map(str, lengths)) if lengths else ()
    chain = [Task(name, (*words, *given), needs_gpu=True)]
    if len(lengths) > 1:
        parts = [
            Task(f"{name}-{length}", (*words, "--lengths", str(length)), needs_gpu=True)
            for length in lengths
        ]
        chain = [*parts, Task(name, (*words, *given), after=tuple(part.name for part in parts))]
    if dryrun:
        _print(chain, cluster, folder, say)
        return
    # a chain of this folder can be resumed after it
    ids = submit(chain, cluster, folder, _former_request(cluster, on, folder), say=say)
    for task in chain:
        say(f"{ids[task.name]}  {task.name}")
    say(
        f"see `granite41 status {cli_flags(cluster, on, folder)}`, and the scores with `granite41 eval report`"
    )


def resume(run_dir: Path, on: str | None, say: Callable[[str], None] = print) -> None:
    """Submit what is left of a chain that ended early: with the cluster file's present values where ``on`` names one.

    Raises:
        UserError: nothing was submitted into the folder; and as :func:`run_on_cluster`.
    """
    cluster = load_cluster(on) if on else None
    folder = PurePosixPath(run_dir if cluster and cluster.login else run_dir.resolve())
    if cluster:
        with local_view_of_run(Shell(cluster), folder) as seen:
            record = read_submitted(seen, folder)
    else:
        record = read_submitted(Path(folder), folder)
    if not record["request"]:
        raise UserError(
            f"{folder}: holds no chain of stages; give its command again, what is done is not done again"
        )
    _submit(
        cluster or cluster_from_dict(record["cluster"]),
        on,
        folder,
        Request(**record["request"]),
        say,
    )


def _print(
    chain: Sequence[Task], cluster: Cluster, folder: PurePosixPath, say: Callable[[str], None]
) -> None:
    """Print each job with its batch script."""
    written = scripts(chain, cluster, folder)
    for job in build_jobs(chain, cluster):
        after = f" after {', '.join(job.task.after)}" if job.task.after else ""
        say(
            f"==== {job.task.name}: {job.nodes} x {job.processes_per_node} on {job.partition.partition}{after}"
        )
        say(written[job.task.name])


def _submit(
    cluster: Cluster,
    on: str | None,
    folder: PurePosixPath,
    request: Request,
    say: Callable[[str], None],
) -> None:
    _former_request(cluster, on, folder)
    with local_view_of_run(Shell(cluster), folder) as seen:
        chain = _chain(request, folder, seen)
    if not cluster.login:
        require_inputs(chain, Path(request.data) if request.data else None, request.init)
    for name in request.stages:
        if name not in [task.name for task in chain]:
            say(f"{name}: finished already")
    trained = [resolve_pretraining(task.name, request.size) for task in chain if task.stage_folder]
    wanted = sum(recipe.model.parameter_count.value for recipe in trained) * _BYTES
    ids = submit(chain, cluster, folder, asdict(request), wanted, say)
    for job in build_jobs(chain, cluster):
        after = f", after {', '.join(job.task.after)}" if job.task.after else ""
        size = f"{job.nodes} x {job.processes_per_node}"
        say(f"{ids[job.task.name]}  {job.task.name}: {size} on {job.partition.partition}{after}")
    say(
        f"{len(ids)} jobs are in the queue; see `granite41 status {cli_flags(cluster, on, folder)}`"
    )


def _former_request(cluster: Cluster, on: str | None, folder: PurePosixPath) -> dict[str, Any]:
    """Return the request of the chain that was submitted into this folder, empty where none was.

    Raises:
        UserError: its jobs wait or run.
    """
    with local_view_of_run(Shell(cluster), folder) as seen:
        if not (seen / RECORDS / SUBMITTED).exists():
            return {}
        record = read_submitted(seen, folder)
        waiting = active(query_status(cluster, seen, folder, record))
    if waiting:
        raise UserError(
            f"{folder}: {len(waiting)} jobs of this run wait or run already; "
            f"`granite41 cancel {cli_flags(cluster, on, folder)}` first, or name another --run-dir"
        )
    return record["request"]


def _chain(request: Request, folder: PurePosixPath, state: Path) -> Sequence[Task]:
    return tasks(
        request.stages,
        request.size,
        Path(folder),
        Path(request.data) if request.data else None,
        request.devices,
        request.overrides,
        request.init,
        request.evaluate,
        on_cluster=True,
        state=state,
    )


def _there(cluster: Cluster, path: Path | PurePosixPath, option: str) -> PurePosixPath:
    """Return a path as the cluster's jobs see it, which start in a folder of their own."""
    if cluster.login and not path.is_absolute():
        raise UserError(
            f"{option} {path}: a relative path means nothing on {cluster.login.host}; give an absolute one"
        )
    absolute = PurePosixPath(Path(path).resolve()) if not cluster.login else PurePosixPath(path)
    # nemo-run replaces /nemo_run wherever a batch script has it
    if "/nemo_run" in str(absolute) or not re.fullmatch(r"/[\w./@+=-]*", str(absolute)):
        raise UserError(
            f"{option} {str(absolute)!r}: nemo-run writes paths into scripts as they are, and replaces /nemo_run; "
            f"name one of letters, digits and ./@+=-_ without it"
        )
    return absolute


def _nothing() -> AbstractContextManager[Any]:
    return tempfile.TemporaryDirectory(prefix="granite41-")
