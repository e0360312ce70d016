"""``granite41 cluster``, and commands for a submitted chain: status, logs, cancel."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from recipes.common.errors import UserError
from recipes.common.tables import print_table

cluster_app = typer.Typer(
    help="Slurm clusters.", no_args_is_help=True, rich_markup_mode=None, suggest_commands=False
)
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
RunDirOption = Annotated[Path, typer.Option(help="The run's folder, on the cluster.")]
OnOption = Annotated[
    str | None,
    typer.Option("--on", metavar="CLUSTER", help="The cluster, where it is not this machine's."),
]


@cluster_app.command("check")
def check(
    cluster_file: Annotated[
        str, typer.Argument(metavar="FILE", help="A cluster file, or the name of a known one.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Check that a cluster has what its file says; exit status 1 where it has not."""
    from recipes.common.check_result import print_checks
    from slurm.cluster import load_cluster
    from slurm.node_checks import check_nodes
    from slurm.preflight import check_cluster

    cluster = load_cluster(cluster_file)
    checks = check_cluster(cluster)
    # nodes are tried when their partitions are known
    if all(check.ok for check in checks):
        checks += check_nodes(cluster)
    if not print_checks({"": checks}, as_json):
        raise typer.Exit(1)


def status(run_dir: RunDirOption, on: OnOption = None, as_json: JsonOption = False) -> None:
    """Print the status of each job of a submitted chain."""
    from recipes.launch.on_slurm import find_submission
    from slurm.shell import Shell
    from slurm.status import local_view_of_run, query_status

    cluster, folder, submission = find_submission(run_dir, on)
    with local_view_of_run(Shell(cluster), folder) as local_view:
        jobs = query_status(cluster, local_view, folder, submission)
    if as_json:
        typer.echo(json.dumps([vars(job) for job in jobs], indent=2))
        return

    rows = []
    for job in jobs:
        goodput = f"{job.goodput:.0%}" if job.goodput else "-"
        rows.append([job.task, job.id, job.state, str(job.starts), goodput, job.reason])
    print_table(["job", "id", "state", "starts", "goodput", "reason"], rows)


def logs(
    task: Annotated[
        str, typer.Argument(metavar="JOB", help="A job that `granite41 status` names.")
    ],
    run_dir: RunDirOption,
    on: OnOption = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print what is appended, until Ctrl-C.")
    ] = False,
) -> None:
    """Print a job's logs, of its batch script and its latest start."""
    from recipes.launch.on_slurm import find_submission
    from recipes.registry.resolve import require_known
    from slurm.shell import Shell
    from slurm.status import cli_flags, last_sentences, log_files

    cluster, folder, submission = find_submission(run_dir, on)
    require_known("job", task, submission.jobs)
    shell = Shell(cluster)
    files = log_files(shell, folder, submission, task)
    if not files:
        flags = cli_flags(cluster, on, folder)
        raise UserError(f"{task}: has no log yet; see its state with `granite41 status {flags}`")

    if follow:
        command = shell.local_command(["tail", "-n", "+1", "-f", *files])
        os.execvp(command[0], command)  # noqa: S606

    typer.echo(shell.text(["tail", "-n", "+1", *files]))
    # a launcher prints its own frames after the sentence that says why
    reason = last_sentences(shell, folder, submission, [task]).get(task)
    if reason:
        typer.echo(f"{task}: {reason}")


def cancel(run_dir: RunDirOption, on: OnOption = None) -> None:
    """Cancel all jobs of a submitted chain that wait or run; what they have written stays."""
    from recipes.launch.on_slurm import find_submission
    from slurm.shell import Shell
    from slurm.status import active_ids, cli_flags, local_view_of_run, query_status

    cluster, folder, submission = find_submission(run_dir, on)
    shell = Shell(cluster)
    with local_view_of_run(shell, folder) as local_view:
        ids = active_ids(query_status(cluster, local_view, folder, submission))
    if ids:
        # those that wait first, as the end of one starts the next
        shell.cancel(list(reversed(ids)))
    flags = cli_flags(cluster, on, folder)
    typer.echo(
        f"cancelled {len(ids)} jobs; "
        f"`granite41 resume {flags}` continues from what they have written"
    )
