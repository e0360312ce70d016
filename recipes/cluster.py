"""The chain on a Slurm cluster: as jobs that wait for each other, or printed."""

import shlex
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from recipes.pipeline import tasks
from recipes.spec import UserError, resolve_pretraining
from recipes.spec.task import Task
from recipes.training.stage_folder import CHECKPOINTS_KEPT
from slurm.cluster import Cluster, cluster_of, load_cluster
from slurm.jobs import jobs_of
from slurm.shell import Shell
from slurm.status import active, read_submitted, seen_from_here, status_of
from slurm.submit import RECORDS, SUBMITTED, scripts, submit

# that a trained stage leaves for each parameter: checkpoints of bf16 weights, fp32 ones and two moments, one more while
# it is written; its merge; its export
_BYTES = 14 * (CHECKPOINTS_KEPT + 1) + 2 + 2


@dataclass(frozen=True)
class Request:
    """What a user asked for, as :func:`recipes.pipeline.tasks` takes it; paths are the cluster's."""

    stages: list[str]
    size: str
    overrides: list[str]
    data: str | None
    devices: int | None
    init: str | None
    evaluate: bool


def run_on_cluster(
    on: str, run_dir: Path | None, request: Request, dryrun: bool, say: Callable[[str], None] = print
) -> None:
    """Submit a chain, or print its jobs with their batch scripts, for which nothing is asked of the cluster.

    Raises:
        UserError: a cluster file that does not hold; a chain that :func:`recipes.pipeline.tasks` refuses; a path that
            the cluster cannot know; a chain of this folder that still waits or runs; and as
            :func:`slurm.submit.submit`.
    """
    cluster = load_cluster(on)
    folder = _there(cluster, run_dir or PurePosixPath(cluster.folder) / "runs" / request.size, "--run-dir")
    data = request.data and str(_there(cluster, Path(request.data), "--data"))
    init = request.init
    if init and not init.startswith("hf:"):
        init = str(_there(cluster, Path(init), "--init"))
    own = {override.partition("=")[0] for override in request.overrides}
    overrides = list(request.overrides)
    if request.size != "tiny" and "parallelism.gpu_type" not in own:
        overrides.append(f"parallelism.gpu_type={cluster.compute.gpu_type}")
    wanted = Request(request.stages, request.size, overrides, data, request.devices, init, request.evaluate)
    if dryrun:
        seen = _nothing() if cluster.login else seen_from_here(Shell(cluster), folder)
        with seen as state:
            chain = _chain(wanted, folder, Path(state))
        written = scripts(chain, cluster, folder)
        for job in jobs_of(chain, cluster):
            after = f" after {', '.join(job.task.after)}" if job.task.after else ""
            say(f"==== {job.task.name}: {job.nodes} x {job.processes_per_node} on {job.partition.partition}{after}")
            say(written[job.task.name])
        return
    _submit(cluster, folder, wanted, say)


def resume(run_dir: Path, on: str | None, say: Callable[[str], None] = print) -> None:
    """Submit what is left of a chain that ended early: with the cluster file's present values where ``on`` names one.

    Raises:
        UserError: nothing was submitted into the folder; and as :func:`run_on_cluster`.
    """
    cluster = load_cluster(on) if on else None
    folder = PurePosixPath(run_dir if cluster and cluster.login else run_dir.resolve())
    if cluster:
        with seen_from_here(Shell(cluster), folder) as seen:
            record = read_submitted(seen, folder)
    else:
        record = read_submitted(Path(folder), folder)
    _submit(cluster or cluster_of(record["cluster"]), folder, Request(**record["request"]), say)


def _submit(cluster: Cluster, folder: PurePosixPath, request: Request, say: Callable[[str], None]) -> None:
    with seen_from_here(Shell(cluster), folder) as seen:
        if (seen / RECORDS / SUBMITTED).exists():
            waiting = active(status_of(cluster, seen, folder, read_submitted(seen, folder)))
            if waiting:
                raise UserError(
                    f"{folder}: {len(waiting)} jobs of this run wait or run already; "
                    f"`granite41 cancel --run-dir {shlex.quote(str(folder))}` first, or name another --run-dir"
                )
        chain = _chain(request, folder, seen)
    for name in request.stages:
        if name not in [task.name for task in chain]:
            say(f"{name}: finished already")
    trained = [resolve_pretraining(task.name, request.size) for task in chain if task.stage_folder]
    wanted = sum(recipe.model.parameter_count.value for recipe in trained) * _BYTES
    ids = submit(chain, cluster, folder, asdict(request), wanted, say)
    for job in jobs_of(chain, cluster):
        after = f", after {', '.join(job.task.after)}" if job.task.after else ""
        size = f"{job.nodes} x {job.processes_per_node}"
        say(f"{ids[job.task.name]}  {job.task.name}: {size} on {job.partition.partition}{after}")
    say(f"{len(ids)} jobs are in the queue; see `granite41 status --run-dir {shlex.quote(str(folder))}`")


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
        raise UserError(f"{option} {path}: a relative path means nothing on {cluster.login.host}; give an absolute one")
    absolute = PurePosixPath(Path(path).resolve()) if not cluster.login else PurePosixPath(path)
    # nemo-run replaces /nemo_run wherever a batch script has it
    if "/nemo_run" in str(absolute) or not str(absolute).isprintable() or " " in str(absolute):
        raise UserError(f"{option} {absolute}: nemo-run cannot handle spaces or /nemo_run in a path; name another")
    return absolute


def _nothing() -> AbstractContextManager[Any]:
    return tempfile.TemporaryDirectory(prefix="granite41-")
