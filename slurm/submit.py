"""Submission of a chain: all of its jobs get into a cluster's queue, or none."""

import getpass
import logging
import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from recipes.common.errors import UserError
from recipes.common.versions import commit as describe_commit
from recipes.runs.chain_request import ChainRequest
from recipes.runs.task import Task
from slurm.batch_script import batch_script, build_executor, command
from slurm.cluster import Cluster
from slurm.jobs import SlurmJob, build_jobs
from slurm.preflight import check_cluster
from slurm.shell import Shell, last_line, outside_allocation
from slurm.submission import (
    Submission,
    SubmittedJob,
    experiments_folder,
    records_folder,
)

if TYPE_CHECKING:
    from nemo_run import Experiment
    from nemo_run.core.tunnel.client import LocalTunnel, SSHTunnel

log = logging.getLogger(__name__)

_ROOT = Path(__file__).parents[1]


def dry_run_scripts(
    chain: Sequence[Task],
    cluster: Cluster,
    run_folder: PurePosixPath,
    mounts: Sequence[str] = (),
) -> dict[str, str]:
    """Return task -> the batch script that :func:`submit` sends, but for the experiment's id."""
    commit = (describe_commit() or "unknown").removesuffix("-dirty")
    return {
        job.name: batch_script(job, cluster, run_folder, commit, mounts)
        for job in build_jobs(chain, cluster)
    }


def submit(
    chain: Sequence[Task],
    cluster: Cluster,
    run_folder: PurePosixPath,
    request: ChainRequest | None = None,
    *,
    needed_bytes: int = 0,
    mounts: Sequence[str] = (),
) -> dict[str, str]:
    """Put a job for each task into the queue; return task -> job id.

    The code is that of the last commit, in ``CLUSTER.folder/code/COMMIT``. The submission is
    recorded in ``run_folder/slurm/submitted.json``.

    Args:
        chain: the tasks.
        cluster: where they run.
        run_folder: the run's folder on the cluster.
        request: what `granite41 resume` builds the chain from again.
        needed_bytes: free space that the cluster's shared folder must have.
        mounts: folders that the jobs read, outside the run's and those of the cluster file.

    Raises:
        UserError: the cluster lacks what its file or the chain names; the code is in no git
            checkout; sbatch refuses a job, in which case those before it are cancelled.
    """
    jobs = build_jobs(chain, cluster)
    _require_fitting(cluster, jobs, needed_bytes)
    shell = Shell(cluster)
    code = _copy_code(cluster, shell)
    experiment, ids = _submit(jobs, cluster, run_folder, code, mounts)

    submission = Submission(
        # how it is reached depends on where the user is
        cluster=replace(cluster, login=None),
        commit=code.name,
        experiment=experiment,
        request=request,
        jobs={job.name: SubmittedJob(ids[job.name], list(job.task.after)) for job in jobs},
    )
    try:
        submission.write(shell, run_folder)
    except BaseException:
        # no command could find these jobs again
        shell.cancel(list(ids.values()))
        raise
    return ids


def _require_fitting(cluster: Cluster, jobs: Sequence[SlurmJob], needed_bytes: int) -> None:
    failed = [check for check in check_cluster(cluster, jobs, needed_bytes) if not check.ok]
    if failed:
        reasons = [f"{check.name}: {check.found}, expected {check.expected}" for check in failed]
        raise UserError(f"the cluster does not fit, nothing was submitted: {'; '.join(reasons)}")


def _copy_code(cluster: Cluster, shell: Shell) -> PurePosixPath:
    """Copy this code as of its last commit to the cluster, once; return its folder."""
    described = describe_commit()
    if not described:
        raise UserError(
            f"{_ROOT}: not a git checkout, so there is no commit to run on the cluster; "
            f"clone the project"
        )
    commit = described.removesuffix("-dirty")
    if described != commit:
        log.warning("uncommitted changes stay here; the cluster runs commit %s", commit[:12])

    folder = PurePosixPath(cluster.folder) / "code" / commit
    if shell.run(["test", "-d", folder]).returncode == 0:
        return folder

    # the folder gets its name when it is complete
    archive = subprocess.run(
        ["git", "archive", commit],
        cwd=_ROOT,
        capture_output=True,
        check=True,
    ).stdout
    target = shlex.quote(str(folder))
    partial = shlex.quote(f"{folder}.partial")
    done = shell.script(
        f"rm -rf {partial} && mkdir -p {partial} && tar -x -C {partial} "
        f"&& mv -T {partial} {target}",
        archive,
    )
    if done.returncode:
        raise UserError(
            f"{folder}: the code could not be copied there ({last_line(done.stderr)}); "
            f"nothing was submitted"
        )
    return folder


def _submit(
    jobs: Sequence[SlurmJob],
    cluster: Cluster,
    run_folder: PurePosixPath,
    code: PurePosixPath,
    mounts: Sequence[str] = (),
) -> tuple[str, dict[str, str]]:
    """Submit the jobs as one nemo-run experiment; return its id, and job -> Slurm's id.

    Raises:
        UserError: sbatch refuses a job; those before it are cancelled.
    """
    home = _nemo_run_home(cluster, run_folder)
    # nemo-run reads it when it is imported
    os.environ["NEMORUN_HOME"] = home
    import nemo_run as run
    from nemo_run.core.packaging.git import GitArchivePackager

    from recipes.compat.slurm_executor import keep_log_handlers, use_home, use_scripts

    use_home(home)
    tunnel = _tunnel(cluster, run_folder)
    options = {"log_level": "WARNING", "clean_mode": True, "skip_status_at_exit": True}
    with keep_log_handlers(), run.Experiment(run_folder.name, **options) as experiment:
        for job in jobs:
            words = command(job, cluster)
            executor = build_executor(job, cluster, run_folder, code.name, mounts)
            executor.tunnel = tunnel
            # every job has a link to the one copy of the code
            executor.packager = GitArchivePackager(symlink_from_remote_dir=str(code))
            experiment.add(
                run.Script(path=words[1], args=words[2:], entrypoint=words[0]),
                executor=executor,
                name=job.name,
                dependencies=list(job.task.after),
            )

        # the experiment has its id now, which names the folder of scripts and logs
        scripts = {
            job.name: batch_script(
                job,
                cluster,
                run_folder,
                code.name,
                mounts,
                experiment._id,
            )
            for job in jobs
        }
        use_scripts(experiment, scripts)
        _run_or_cancel(experiment, cluster)
        return experiment._id, {job.id: _slurm_id(job.handle) for job in experiment.jobs}


def _nemo_run_home(cluster: Cluster, run_folder: PurePosixPath) -> str:
    """Return the folder of nemo-run's records: the run's, or this machine's for a remote run."""
    if not cluster.login:
        return str(records_folder(run_folder))
    return os.environ.get("NEMORUN_HOME", str(Path.home() / ".nemo_run"))


def _tunnel(cluster: Cluster, run_folder: PurePosixPath) -> "LocalTunnel | SSHTunnel":
    from nemo_run.core.tunnel.client import LocalTunnel, SSHTunnel

    login = cluster.login
    if not login:
        return LocalTunnel(job_dir="")
    return SSHTunnel(
        host=login.host,
        user=login.user or getpass.getuser(),
        port=login.port,
        identity=login.identity,
        job_dir=str(experiments_folder(run_folder)),
    )


def _run_or_cancel(experiment: "Experiment", cluster: Cluster) -> None:
    """Submit an experiment's jobs; cancel them again where that is interrupted or refused."""
    from invoke.exceptions import UnexpectedExit

    try:
        with outside_allocation():
            experiment.run(detach=True)
    except BaseException as error:
        submitted = [_slurm_id(job.handle) for job in experiment.jobs if job.handle]
        if submitted:
            Shell(cluster).cancel(submitted)
        if not isinstance(error, UnexpectedExit):
            raise
        raise UserError(
            f"sbatch refused a job, the {len(submitted)} before it were cancelled: "
            f"{last_line(error.result.stderr)}"
        ) from error


def _slurm_id(handle: str) -> str:
    """Return Slurm's job id of nemo-run's handle: slurm_tunnel://nemo_run/ID/..."""
    return handle.rpartition("/")[2]
