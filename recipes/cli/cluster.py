"""``granite41 cluster``, and what is asked of a chain that was submitted: status, logs, cancel."""

import json
import os
import sys
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

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
    """Ask a cluster whether it has what its file says; exit status 1 where it has not."""
    from slurm.cluster import load_cluster
    from slurm.preflight import check_cluster

    answers = check_cluster(load_cluster(cluster_file))
    if as_json:
        typer.echo(json.dumps([vars(answer) for answer in answers], indent=2))
    else:
        rows = [
            [answer.name, "ok" if answer.ok else "MISSING", answer.found, answer.expected]
            for answer in answers
        ]
        print_table(["asked", "result", "found", "expected"], rows)
    missing = [answer for answer in answers if not answer.ok]
    for answer in missing:
        print(
            f"granite41: {answer.name}: {answer.found}; expected {answer.expected}", file=sys.stderr
        )
    if missing:
        raise typer.Exit(1)


def status(run_dir: RunDirOption, on: OnOption = None, as_json: JsonOption = False) -> None:
    """Tell how each job of a submitted chain stands."""
    from slurm.shell import Shell
    from slurm.status import local_view_of_run, query_status

    cluster, folder, record = _submitted(run_dir, on)
    with local_view_of_run(Shell(cluster), folder) as seen:
        jobs = query_status(cluster, seen, folder, record)
    if as_json:
        typer.echo(json.dumps([vars(job) for job in jobs], indent=2))
        return
    print_table(
        ["job", "id", "state", "starts", "goodput", "why"],
        [
            [
                job.task,
                job.id,
                job.state,
                str(job.starts),
                f"{job.goodput:.0%}" if job.goodput else "-",
                job.reason,
            ]
            for job in jobs
        ],
    )


def logs(
    task: Annotated[
        str, typer.Argument(metavar="JOB", help="A job that `granite41 status` names.")
    ],
    run_dir: RunDirOption,
    on: OnOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as the log grows.")] = False,
) -> None:
    """Print a job's log, of its latest start."""
    from recipes.registry.resolve import require_known
    from slurm.shell import Shell
    from slurm.status import cli_flags, log_files

    cluster, folder, record = _submitted(run_dir, on)
    require_known("job", task, record["jobs"])
    shell = Shell(cluster)
    files = log_files(shell, folder, record, task)
    if not files:
        raise UserError(
            f"{task}: has no log yet; `granite41 status {cli_flags(cluster, on, folder)}` says how it stands"
        )
    typer.echo(f"{files[-1]}:", err=True)
    words = [*shell.ssh_command(["tail", "-n", "+1", *(["-f"] if follow else []), files[-1]])]
    sys.stdout.flush()
    os.execvp(words[0], words)  # noqa: S606


def cancel(run_dir: RunDirOption, on: OnOption = None) -> None:
    """Cancel all jobs of a submitted chain that wait or run; what they have written stays."""
    from slurm.shell import Shell
    from slurm.status import active, cli_flags, local_view_of_run, query_status

    cluster, folder, record = _submitted(run_dir, on)
    shell = Shell(cluster)
    with local_view_of_run(shell, folder) as seen:
        ids = active(query_status(cluster, seen, folder, record))
    if ids:
        # those that wait first, as the end of one starts the next
        shell.text(["scancel", *reversed(ids)])
    again = f"`granite41 resume {cli_flags(cluster, on, folder)}`"
    typer.echo(f"cancelled {len(ids)} jobs; {again} goes on from what they have written")


def _submitted(run_dir: Path, on: str | None) -> tuple[Any, PurePosixPath, dict[str, Any]]:
    """Return the cluster, the run's folder there, and what was submitted into it."""
    from slurm.cluster import cluster_from_dict, load_cluster
    from slurm.shell import Shell
    from slurm.status import local_view_of_run, read_submitted

    if on is None:
        folder = PurePosixPath(run_dir.resolve())
        record = read_submitted(Path(folder), folder)
        return cluster_from_dict(record["cluster"]), folder, record
    cluster = load_cluster(on)
    folder = PurePosixPath(run_dir if cluster.login else run_dir.resolve())
    with local_view_of_run(Shell(cluster), folder) as seen:
        return cluster, folder, read_submitted(seen, folder)
