"""Put a chain into a cluster's queue: all of its jobs or none."""

import getpass
import json
import os
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import Any

from recipes.common.errors import UserError
from recipes.common.versions import commit
from recipes.runs.task import Task
from slurm.cluster import Cluster
from slurm.jobs import Job, build_jobs, command, executor, setup
from slurm.preflight import check_cluster
from slurm.shell import Shell

# in the run's folder: what was submitted, each job's own records, and nemo-run's experiments
RECORDS = "slurm"
SUBMITTED = "submitted.json"
_ROOT = Path(__file__).parents[1]


def scripts(chain: Sequence[Task], cluster: Cluster, run_folder: PurePosixPath) -> dict[str, str]:
    """Return each job's batch script by the task's name, as nemo-run writes it but for the ids of what it waits for."""
    from recipes.compat.slurm_executor import load_slurm_only

    load_slurm_only()
    from nemo_run.core.execution.slurm import SlurmBatchRequest
    from nemo_run.core.tunnel.client import LocalTunnel

    code = (commit() or "unknown").removesuffix("-dirty")
    written = {}
    for job in build_jobs(chain, cluster):
        name = job.task.name
        asked = executor(job, cluster, run_folder, setup(job, cluster, run_folder, code))
        folder = str(run_folder / RECORDS / "experiments" / run_folder.name / "EXPERIMENT")
        asked.tunnel = LocalTunnel(job_dir=folder)
        asked.job_name, asked.job_dir = name, f"{folder}/{name}"
        written[name] = SlurmBatchRequest(
            launch_cmd=["sbatch", "--requeue", "--parsable"],
            jobs=[name],
            command_groups=[command(job, cluster)],
            executor=asked,
            max_retries=0,
            extra_env={},
        ).materialize()
    return written


def submit(
    chain: Sequence[Task],
    cluster: Cluster,
    run_folder: PurePosixPath,
    request: dict[str, Any],
    wanted_bytes: int = 0,
    say: Callable[[str], None] = print,
) -> dict[str, str]:
    """Put a job for each task into the queue; return task -> job id.

    The code is that of the last commit, in ``CLUSTER.folder/code/COMMIT``. What was submitted is in
    ``run_folder/slurm/submitted.json``, with ``request``, from which `granite41 resume` makes the chain anew.

    Args:
        wanted_bytes: free space that the cluster's shared folder must have.

    Raises:
        UserError: the cluster lacks what its file or the chain names; the code is in no git checkout; sbatch refuses
            a job, in which case those before it are cancelled.
    """
    jobs = build_jobs(chain, cluster)
    missing = [answer for answer in check_cluster(cluster, jobs, wanted_bytes) if not answer.ok]
    if missing:
        told = "; ".join(
            f"{answer.name}: {answer.found}, expected {answer.expected}" for answer in missing
        )
        raise UserError(f"the cluster does not fit, nothing was submitted: {told}")
    shell = Shell(cluster)
    code = _put_code(cluster, shell, say)
    experiment, ids = _submit(jobs, cluster, run_folder, code)
    record = {
        # how it is reached is a matter of who asks, and from where
        "cluster": asdict(replace(cluster, login=None)),
        "commit": code.name,
        "experiment": experiment,
        "request": request,
        "jobs": {
            job.task.name: {"id": ids[job.task.name], "after": list(job.task.after)} for job in jobs
        },
    }
    try:
        _write(shell, run_folder / RECORDS / SUBMITTED, json.dumps(record, indent=2))
    except BaseException:
        # what nobody could ask about is not to run
        shell.run(["scancel", *ids.values()])
        raise
    return ids


def _put_code(cluster: Cluster, shell: Shell, say: Callable[[str], None]) -> PurePosixPath:
    """Put this code as of its last commit on the cluster, unless it is there; return its folder."""
    described = commit()
    if not described:
        raise UserError(
            f"{_ROOT}: not a git checkout, so there is no commit to run on the cluster; clone the project"
        )
    name = described.removesuffix("-dirty")
    if described != name:
        say(f"changes that are not committed stay here; the cluster runs {name[:12]}")
    folder = PurePosixPath(cluster.folder) / "code" / name
    if shell.run(["test", "-d", folder]).returncode == 0:
        return folder
    archive = subprocess.run(
        ["git", "archive", name], cwd=_ROOT, capture_output=True, check=True
    ).stdout
    target, partial = shlex.quote(str(folder)), shlex.quote(f"{folder}.partial")
    done = shell.script(
        f"rm -rf {partial} && mkdir -p {partial} && tar -x -C {partial} && mv -T {partial} {target}",
        archive,
    )
    if done.returncode:
        reason = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise UserError(
            f"{folder}: the code could not be put there ({reason}); nothing was submitted"
        )
    return folder


def _submit(
    jobs: Sequence[Job], cluster: Cluster, run_folder: PurePosixPath, code: PurePosixPath
) -> tuple[str, dict[str, str]]:
    """Submit through one nemo-run experiment, whose id and jobs' ids are returned; cancel all when one is refused."""
    login, experiments = cluster.login, run_folder / RECORDS / "experiments"
    # nemo-run's own records, which `nemorun experiment` reads, are where the run is, or here
    home = (
        os.environ.get("NEMORUN_HOME", str(Path.home() / ".nemo_run"))
        if login
        else str(experiments.parent)
    )
    # read when nemo-run is imported
    os.environ["NEMORUN_HOME"] = home
    import nemo_run as run
    from invoke.exceptions import UnexpectedExit
    from nemo_run.core.packaging.git import GitArchivePackager
    from nemo_run.core.tunnel.client import LocalTunnel, SSHTunnel
    from nemo_run.run.torchx_backend.schedulers import slurm as scheduler

    # this process may have imported it before
    run.config.set_nemorun_home(home)
    scheduler.SLURM_JOB_DIRS = f"{home}/.slurm_jobs"
    tunnel: LocalTunnel | SSHTunnel = LocalTunnel(job_dir="")
    if login:
        tunnel = SSHTunnel(
            host=login.host,
            user=login.user or getpass.getuser(),
            port=login.port,
            identity=login.identity,
            job_dir=str(experiments),
        )
    with run.Experiment(
        run_folder.name, log_level="WARNING", clean_mode=True, skip_status_at_exit=True
    ) as experiment:
        for job in jobs:
            words = command(job, cluster)
            asked = executor(job, cluster, run_folder, setup(job, cluster, run_folder, code.name))
            asked.tunnel = tunnel
            # every job has a link to the one copy of the code
            asked.packager = GitArchivePackager(symlink_from_remote_dir=str(code))
            script = run.Script(path=words[1], args=words[2:], entrypoint=words[0])
            experiment.add(
                script, executor=asked, name=job.task.name, dependencies=list(job.task.after)
            )
        try:
            experiment.run(detach=True)
        except BaseException as error:
            submitted = [_id(job.handle) for job in experiment.jobs if job.handle]
            if submitted:
                Shell(cluster).run(["scancel", *submitted])
            if not isinstance(error, UnexpectedExit):
                raise
            reason = (error.result.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(
                f"sbatch refused a job, the {len(submitted)} before it were cancelled: {reason}"
            ) from error
        return experiment._id, {job.id: _id(job.handle) for job in experiment.jobs}


def _id(handle: str) -> str:
    """Return Slurm's job id of nemo-run's handle: slurm_tunnel://nemo_run/ID/..."""
    return handle.rpartition("/")[2]


def _write(shell: Shell, path: PurePosixPath, text: str) -> None:
    target, partial = shlex.quote(str(path)), shlex.quote(f"{path}.partial")
    done = shell.script(
        f"mkdir -p {shlex.quote(str(path.parent))} && cat > {partial} && mv {partial} {target}",
        text.encode(),
    )
    if done.returncode:
        raise UserError(
            f"{path}: could not be written: {done.stderr.decode(errors='replace').strip()}"
        )
