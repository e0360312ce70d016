"""A chain's tasks as Slurm's jobs: what each asks for, its command, and nemo-run's executor for it."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from recipes.common.errors import UserError
from recipes.common.versions import COMMIT
from recipes.runs.task import Task
from slurm.cluster import Cluster, Compute, Partition

if TYPE_CHECKING:
    from nemo_run.core.execution.slurm import SlurmExecutor

# below the ports that Linux gives to outgoing connections; jobs that share a node have different numbers
_PORT = "$((20000 + SLURM_JOB_ID % 10000))"
_RECORDS = "slurm"


@dataclass(frozen=True)
class Job:
    """A task, and what it asks of which partition."""

    task: Task
    partition: Partition
    nodes: int
    # that torchrun starts on each node
    processes_per_node: int


def build_jobs(chain: Sequence[Task], cluster: Cluster) -> list[Job]:
    """Return a job for each task: training on as many nodes as its processes need, all else on one.

    Raises:
        UserError: a number of processes that does not fill its nodes.
    """
    compute = cluster.compute
    # without a partition of their own, light tasks share a node of the other, and take no GPU
    light = cluster.light or Partition(
        compute.partition, compute.time_limit, qos=compute.qos, constraint=compute.constraint
    )
    jobs = []
    for task in chain:
        partition = compute if task.needs_gpu else light
        per_node = min(task.processes, compute.gpus_per_node)
        if task.processes % per_node:
            raise UserError(
                f"{task.name}: {task.processes} processes do not fill nodes of {per_node} GPUs; "
                f"choose a multiple with --devices"
            )
        jobs.append(Job(task, partition, task.processes // per_node, per_node))
    return jobs


def command(job: Job, cluster: Cluster) -> list[str]:
    """Return the words of the job's command, for the shell of the batch script."""
    words = ["-m", "recipes.cli", *map(shlex.quote, job.task.arguments)]
    if job.task.array > 1:
        words.append("--shard=$SLURM_ARRAY_TASK_ID")
    # a single process that trains would take Slurm's variables for a cluster of its own
    if job.task.stage_folder is None:
        return [shlex.quote(cluster.python), *words]
    if cluster.launcher == "fault_tolerant":
        # restarts the processes within the job; without its file of settings it watches no heartbeats
        launch = [
            "ft_launcher",
            "--ignore-missing-fault-tol-cfg",
            f"--max-restarts={cluster.retries}",
        ]
    else:
        launch = ["torchrun"]
    if job.nodes == 1:
        launch.append("--standalone")
    else:
        launch += [f"--nnodes={job.nodes}", "--rdzv-backend=c10d", "--rdzv-id=$SLURM_JOB_ID"]
        launch.append(f"--rdzv-endpoint=$head_node_ip:{_PORT}")
    return [*launch, f"--nproc-per-node={job.processes_per_node}", *words]


def setup(job: Job, cluster: Cluster, run_folder: PurePosixPath, commit: str) -> str:
    """Return the lines of the batch script before its command."""
    stage = job.task.stage_folder
    values: dict[str, Any] = {
        "granite41_records": run_folder / _RECORDS / job.task.name,
        "granite41_stage": stage or "",
        "granite41_retries": cluster.retries,
    }
    lines = [f"{name}={shlex.quote(str(value))}" for name, value in values.items()]
    lines += [Path(__file__).with_name("job.sh").read_text(encoding="utf-8").strip()]
    lines += [f"module load {module}" for module in cluster.modules]
    exported = {COMMIT: commit, **cluster.environment}
    lines += [f"export {name}={shlex.quote(value)}" for name, value in exported.items()]
    if "/" in cluster.python and not cluster.container:
        # torchrun lies beside its Python
        lines.append(f"export PATH={shlex.quote(str(PurePosixPath(cluster.python).parent))}:$PATH")
    if cluster.scratch:
        lines.append(f"export TMPDIR={cluster.scratch}")
    if stage:
        lines.append(
            f"export GRANITE41_STOP_AT=$((granite41_end_time - {cluster.stop_before_limit}))"
        )
        # torchrun gives its processes 30 s after a signal, less than a step and a save of a large model may take
        lines.append(f"export TORCH_ELASTIC_SHUTDOWN_TIMEOUT={cluster.stop_before_limit}")
    return "\n".join(lines)


def executor(
    job: Job, cluster: Cluster, run_folder: PurePosixPath, setup_lines: str
) -> "SlurmExecutor":
    """Return nemo-run's executor of the job, as yet without folders.

    Args:
        run_folder: its name begins the names of the jobs.
        setup_lines: what :func:`setup` returns.
    """
    from nemo_run.core.execution.slurm import SlurmExecutor

    partition, container = job.partition, cluster.container
    mounts = list(container.mounts) if container else []
    if container:
        for folder in filter(None, (cluster.folder, cluster.scratch, str(run_folder))):
            if not any(
                PurePosixPath(folder).is_relative_to(mount.split(":")[1]) for mount in mounts
            ):
                mounts.append(f"{folder}:{folder}")
    # a job whose parent has failed would wait for ever
    additional: dict[str, Any] = {"kill_on_invalid_dep": "yes"}
    if isinstance(partition, Compute) and job.nodes > 1 and partition.segment:
        additional["segment"] = min(job.nodes, partition.segment)
    return SlurmExecutor(
        account=cluster.account,
        partition=partition.partition,
        job_name_prefix=f"{run_folder.name}.",
        time=partition.time_limit,
        nodes=job.nodes,
        ntasks_per_node=1,
        cpus_per_task=partition.cpus_per_task,
        mem=partition.memory,
        gres=partition.gres,
        exclusive=partition.exclusive or None,
        qos=partition.qos,
        constraint=partition.constraint,
        array=f"0-{job.task.array - 1}" if job.task.array > 1 else None,
        container_image=container.image if container else None,
        container_mounts=mounts,
        # pyxis lets the image's own values win over all others
        container_env=list(cluster.environment) or None if container else None,
        additional_parameters=additional,
        setup_lines=setup_lines,
        poll_estimated_start_time=False,
    )
