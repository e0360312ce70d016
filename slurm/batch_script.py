"""Batch scripts: one function writes them for a dry run and for the submission."""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from recipes.common.environment import COMMIT, STOP_AT
from recipes.runs.stage_folder import CHECKPOINTS
from slurm.cluster import Cluster, Compute
from slurm.jobs import SlurmJob
from slurm.submission import experiments_folder, records_folder

if TYPE_CHECKING:
    from nemo_run.core.execution.slurm import SlurmExecutor

# below the ports that Linux uses for outgoing connections; jobs that share a node differ
_PORT = "$((20000 + SLURM_JOB_ID % 10000))"
# seconds in which an evaluation or a server that nears its time limit ends and queues itself again;
# it has no checkpoint to save
_EVALUATION_MARGIN = 60

# srun is in the background, so that a signal, which ends the wait for it, is recorded when it comes
_SCRIPT = """\
#!/bin/bash
{% for flag in sbatch_flags -%}
{{ flag }}
{% endfor %}
{{ setup_lines }}

{{ srun_commands[0] }} &
granite41_command=$!
until wait $granite41_command; ! kill -0 $granite41_command 2> /dev/null; do :; done
wait $granite41_command
exitcode=$?
exit $exitcode
"""


def batch_script(
    job: SlurmJob,
    cluster: Cluster,
    run_folder: PurePosixPath,
    commit: str,
    mounts: Sequence[str] = (),
    experiment: str = "EXPERIMENT",
) -> str:
    """Return the batch script of a job; ``sbatch`` gets the ids of what it waits for as an option.

    Args:
        job: the job.
        cluster: where it runs.
        run_folder: the run's folder on the cluster.
        commit: of the code that it runs.
        mounts: folders that the job reads, outside those of the cluster file and the run.
        experiment: nemo-run's id of the submission.
    """
    from recipes.compat.slurm_executor import import_slurm_executor

    import_slurm_executor(_SCRIPT)
    from nemo_run.core.execution.slurm import SlurmBatchRequest
    from nemo_run.core.tunnel.client import LocalTunnel

    # where nemo-run keeps an experiment, with a folder for each job
    folder = experiments_folder(run_folder) / run_folder.name / experiment
    executor = build_executor(job, cluster, run_folder, commit, mounts)
    executor.tunnel = LocalTunnel(job_dir=str(folder))
    executor.job_name = job.name
    executor.job_dir = str(folder / job.name)
    request = SlurmBatchRequest(
        launch_cmd=["sbatch", "--requeue", "--parsable"],
        jobs=[job.name],
        command_groups=[command(job, cluster)],
        executor=executor,
        max_retries=0,
        extra_env={},
    )
    return request.materialize()


def build_executor(
    job: SlurmJob,
    cluster: Cluster,
    run_folder: PurePosixPath,
    commit: str,
    mounts: Sequence[str] = (),
) -> "SlurmExecutor":
    """Return nemo-run's executor of the job, without tunnel and folders; see :func:`batch_script`.

    Jobs are named after the run's folder and the task.
    """
    from nemo_run.core.execution.slurm import SlurmExecutor

    partition = job.partition
    container = cluster.container

    # a job whose parent has failed would wait forever
    additional: dict[str, Any] = {"kill_on_invalid_dep": "yes", "requeue": True}
    if isinstance(partition, Compute) and job.nodes > 1 and partition.segment:
        additional["segment"] = min(job.nodes, partition.segment)

    executor = SlurmExecutor(
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
        additional_parameters=additional,
        setup_lines=_setup_lines(job, cluster, run_folder, commit),
        poll_estimated_start_time=False,
        srun_args=_srun_args(job, cluster),
        dependency_type="after" if job.task.after_start else "afterok",
    )
    if job.task.array > 1:
        executor.array = f"0-{job.task.array - 1}"
        # a trainer waits for all of its servers
        if cluster.array_throttle and not job.task.serves_rollouts:
            executor.array += f"%{cluster.array_throttle}"
    if container:
        executor.container_image = container.image
        folders = (cluster.folder, cluster.scratch, str(run_folder), *mounts)
        executor.container_mounts = _with_folders(container.mounts, folders)
        # pyxis lets the image's own values win over all others
        executor.container_env = list(_environment(job, cluster))
    return executor


def command(job: SlurmJob, cluster: Cluster) -> list[str]:
    """Return the words of the job's command, quoted for the shell of the batch script."""
    words = ["-m", "recipes.cli", *map(shlex.quote, job.task.arguments)]
    if job.task.array > 1:
        words.append("--shard=$SLURM_ARRAY_TASK_ID")
    if job.task.is_server:
        words.append("--host=$granite41_head_address")

    # a single process that trains would take Slurm's variables for a cluster of its own
    if job.task.stage_folder is None:
        program = [shlex.quote(cluster.python), *words]
        if job.task.units_folder is None:
            return program
        return ["timeout", "--kill-after=30", "$granite41_seconds", *program]

    if cluster.launcher == "fault_tolerant":
        # restarts processes within the job; without a settings file it watches no heartbeats
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
        launch += [
            f"--nnodes={job.nodes}",
            "--rdzv-backend=c10d",
            "--rdzv-id=$SLURM_JOB_ID",
            f"--rdzv-endpoint=$granite41_head_address:{_PORT}",
        ]
    return [*launch, f"--nproc-per-node={job.processes_per_node}", *words]


def _srun_args(job: SlurmJob, cluster: Cluster) -> list[str]:
    words = list(cluster.srun_args)
    if job.nodes > 1:
        # one file has the lines of all nodes
        words.append("--label")
    return words


def _environment(job: SlurmJob, cluster: Cluster) -> dict[str, str]:
    """Return the variables of the cluster file that a job exports."""
    environment = cluster.environment | job.partition.environment
    if cluster.container and not job.task.needs_gpu:
        # an image for GPUs otherwise refuses to start on a node without a driver
        environment = {"NVIDIA_VISIBLE_DEVICES": "void"} | environment
    return environment


def _setup_lines(job: SlurmJob, cluster: Cluster, run_folder: PurePosixPath, commit: str) -> str:
    """Return the lines of the batch script before its command."""
    task = job.task
    progress = task.units_folder
    if task.stage_folder:
        progress = task.stage_folder / CHECKPOINTS

    records = records_folder(run_folder) / job.name
    job_sh = Path(__file__).with_name("job.sh").read_text(encoding="utf-8").strip()
    lines = [
        f"granite41_records={shlex.quote(str(records))}",
        f"granite41_stage={shlex.quote(str(task.stage_folder or ''))}",
        f"granite41_progress={shlex.quote(str(progress or ''))}",
        f"granite41_retries={cluster.retries}",
        "",
        job_sh,
        "",
        *environment_lines(job, cluster),
        f"export {COMMIT}={shlex.quote(commit)}",
    ]
    if job.nodes > 1 or task.is_server:
        lines.append("granite41_find_head")

    if task.stage_folder:
        seconds = cluster.stop_before_limit
        lines.append(f"export {STOP_AT}=$((granite41_end_time - {seconds}))")
        # torchrun gives its processes 30 s after a signal, less than a step and a checkpoint of a
        # large model may take
        lines.append(f"export TORCH_ELASTIC_SHUTDOWN_TIMEOUT={seconds}")
    elif task.units_folder:
        margin = min(_EVALUATION_MARGIN, cluster.stop_before_limit)
        left = f"granite41_end_time - $(date +%s) - {margin}"
        lines.append(f"granite41_seconds=$(({left}))")
    return "\n".join(lines)


def environment_lines(job: SlurmJob, cluster: Cluster) -> list[str]:
    """Return the lines that load the modules and export the variables of a cluster file."""
    # modules before the environment, which may correct what they set
    lines = [f"granite41_load {module}" for module in cluster.modules]
    for name, value in _environment(job, cluster).items():
        lines.append(f"export {name}={shlex.quote(value)}")

    if "/" in cluster.python and not cluster.container:
        # torchrun is in the folder of its Python
        folder = str(PurePosixPath(cluster.python).parent)
        lines.append(f"export PATH={shlex.quote(folder)}:$PATH")
    if cluster.scratch:
        lines.append(f"export TMPDIR={cluster.scratch}")
    return lines


def _with_folders(mounts: Sequence[str], folders: Iterable[str | None]) -> list[str]:
    """Return the mounts, and mounts of those folders that they do not cover."""
    mounts = list(mounts)
    for folder in folders:
        # HOST:CONTAINER[:OPTIONS]
        targets = [mount.split(":")[1] for mount in mounts]
        if folder and not any(map(PurePosixPath(folder).is_relative_to, targets)):
            mounts.append(f"{folder}:{folder}")
    return mounts
