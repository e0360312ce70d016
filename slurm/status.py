"""What became of a submitted chain: asked from any shell, on any day, with two queries of Slurm however many jobs."""

import io
import json
import shlex
import tarfile
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from recipes.common.errors import UserError
from recipes.runs.stage_manifest import read_manifest
from slurm.cluster import Cluster
from slurm.shell import Shell
from slurm.submit import RECORDS, SUBMITTED

_ACTIVE = (
    "COMPUTED",
    "RUNNING",
    "COMPLETING",
    "CONFIGURING",
    "REQUEUED",
    "SUSPENDED",
    "REQUEUE_HOLD",
)
# what says how far a run is, and the folders whose being there counts
_TELLING = (
    *(
        "manifest.json",
        "recipe.yaml",
        "evaluation.json",
        "gate.json",
        SUBMITTED,
        "events.jsonl",
        "steps.jsonl",
    ),
    *("hf", "merged", "init", "corpora"),
)


@dataclass(frozen=True)
class JobStatus:
    """One job of a chain. ``goodput`` is the part of its allocated time that went into steps which count."""

    task: str
    id: str
    state: str
    reason: str
    starts: int
    goodput: float | None


@contextmanager
def local_view_of_run(shell: Shell, run_folder: PurePosixPath) -> Iterator[Path]:
    """Yield a folder with what tells how far a run is: the run's own, or a copy of its small files."""
    if not shell.login:
        yield Path(run_folder)
        return
    names = " -o ".join(f"-name {shlex.quote(name)}" for name in _TELLING)
    folder = shlex.quote(str(run_folder))
    done = shell.script(
        f"test -d {folder} || exit 0; cd {folder} && find . -maxdepth 5 \\( {names} \\) -print0 "
        f"| tar -c -z --no-recursion --null -T -"
    )
    with tempfile.TemporaryDirectory(prefix="granite41-") as copy:
        if done.returncode:
            raise UserError(
                f"{run_folder}: cannot be read on the cluster: {done.stderr.decode(errors='replace')}"
            )
        if done.stdout:
            with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
                archive.extractall(copy, filter="data")
        yield Path(copy)


def read_submitted(seen: Path, run_folder: PurePosixPath) -> dict[str, Any]:
    """Return what :func:`slurm.submit.submit` recorded.

    Raises:
        UserError: nothing was submitted into this folder.
    """
    try:
        return json.loads((seen / RECORDS / SUBMITTED).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{run_folder}: no chain was submitted into this folder; `granite41 run ... --on CLUSTER` does"
        ) from error


def cli_flags(cluster: Cluster, on: str | None, run_folder: PurePosixPath) -> str:
    """Return the options with which ``granite41 status``, ``cancel`` and ``resume`` find a run again from here."""
    where = f" --on {shlex.quote(on)}" if on and cluster.login else ""
    return f"--run-dir {shlex.quote(str(run_folder))}{where}"


def query_status(
    cluster: Cluster, seen: Path, run_folder: PurePosixPath, record: dict[str, Any]
) -> list[JobStatus]:
    """Return how each job of ``record`` stands.

    What Slurm has forgotten, or has no accounting for, is told from the jobs' own records.
    """
    events = {task: _events(seen / RECORDS / task) for task in record["jobs"]}
    # earlier chains of the same folder count for the goodput
    earlier = {str(event["job"]) for lines in events.values() for event in lines}
    shell = Shell(cluster)
    queued, ended = _ask(shell, earlier | {job["id"] for job in record["jobs"].values()})
    found = []
    for task, job in record["jobs"].items():
        number = job["id"]
        own = [event for event in events[task] if str(event["job"]) == number]
        state, reason = queued.get(number) or _end(ended.get(number, [])) or (_last_event(own), "")
        if own and own[-1]["event"] == "given up":
            reason = "as many starts as the cluster file allows brought no new checkpoint"
        starts = sum(event["event"] == "started" for event in own)
        all_ids = {str(event["job"]) for event in events[task]}
        seconds = sum(row.seconds for id_ in all_ids for row in ended.get(id_, []))
        goodput = (
            _step_seconds(seen / task / "metrics" / "steps.jsonl") / seconds if seconds else None
        )
        found.append(JobStatus(task, number, state, reason, starts, goodput or None))
    failed = [job for job in found if job.state not in ("COMPLETED", "CANCELLED", *_ACTIVE)]
    told = _last_words(shell, run_folder, record, failed)
    return [
        replace(job, reason=_error(seen, job.task) or told.get(job.id) or job.reason)
        for job in found
    ]


def active(jobs: Sequence[JobStatus]) -> list[str]:
    """Return the ids of jobs that wait or run."""
    return [job.id for job in jobs if job.state in _ACTIVE]


def log_files(
    shell: Shell, run_folder: PurePosixPath, record: dict[str, Any], task: str
) -> list[str]:
    """Return the paths on the cluster of a job's logs since the last submission, the latest last."""
    done = shell.script(f"{_find_logs(run_folder, record, task)} -printf '%T@ %p\\n' | sort -n")
    return [line.partition(" ")[2] for line in done.stdout.decode(errors="replace").splitlines()]


def _find_logs(run_folder: PurePosixPath, record: dict[str, Any], task: str) -> str:
    folder = shlex.quote(str(run_folder / RECORDS / "experiments"))
    logs = f"*/{record['experiment']}/{task}/log-*.out"
    return f"find {folder} -path {shlex.quote(logs)}"


@dataclass(frozen=True)
class _Ended:
    """One start of a job, or of a member of an array, as the accounting has it; it may still run."""

    id: str
    state: str
    reason: str
    seconds: int


def _ask(
    shell: Shell, ids: Collection[str]
) -> tuple[dict[str, tuple[str, str]], dict[str, list[_Ended]]]:
    """Return job id -> state and why it waits for those in the queue, and job id -> its starts by the accounting."""
    listed = ",".join(sorted(str(int(number)) for number in ids))
    # neither knows all: the one forgets what has ended, the other may be missing
    done = shell.script(
        f"squeue --noheader --jobs={listed} --format='%i|%T|%r'; s=$?; echo; "
        f"sacct --noheader --parsable2 --allocations --duplicates --jobs={listed} "
        f"--format=JobID,State,ExitCode,ElapsedRaw || exit $s"
    )
    if done.returncode:
        reason = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise UserError(
            f"neither squeue nor sacct answers ({reason}); the jobs are as they were, ask again later"
        )
    queued: dict[str, tuple[str, str]] = {}
    ended: dict[str, list[_Ended]] = {}
    for line in done.stdout.decode(errors="replace").splitlines():
        member, *fields = line.split("|")
        # 7_3 and 7_[4-9] are members of the array 7
        number = member.partition("_")[0]
        if len(fields) == 2 and queued.get(number, ("", ""))[0] != "RUNNING":
            queued[number] = (fields[0], "" if fields[1] == "None" else fields[1])
        if len(fields) == 3:
            state, code, seconds = fields
            status, _, signal = code.partition(":")
            reason = (
                f"exit status {status}"
                if status != "0"
                else f"signal {signal}"
                if signal != "0"
                else ""
            )
            # the state also says who has cancelled it
            ended.setdefault(number, []).append(
                _Ended(member, state.split()[0], reason, int(seconds))
            )
    return queued, ended


def _end(starts: Sequence[_Ended]) -> tuple[str, str] | None:
    """Return the state and reason of a job's last start, or of the members of an array that did not succeed."""
    last = {start.id: start for start in starts}
    if len(last) > 1:
        bad = [start for start in last.values() if start.state != "COMPLETED"]
        return (bad[0].state, f"{len(bad)} of {len(last)} shards") if bad else ("COMPLETED", "")
    return next(((start.state, start.reason) for start in last.values()), None)


def _events(folder: Path) -> list[dict[str, Any]]:
    """Return what the starts of a job, or of an array's members, have recorded, each in its order."""
    return [event for path in sorted(folder.rglob("events.jsonl")) for event in _lines(path)]


def _last_event(events: Sequence[dict[str, Any]]) -> str:
    """Return Slurm's word for how a job stands by its own records."""
    words = {
        "started": "RUNNING",
        "finished": "COMPLETED",
        "stopped": "COMPUTED",
        "crashed": "COMPUTED",
    }
    return words.get(events[-1]["event"], "FAILED") if events else "UNKNOWN"


def _error(seen: Path, task: str) -> str:
    """Return why a stage failed, by its manifest."""
    manifest = read_manifest(seen / task)
    return (manifest and manifest.error) or ""


def _last_words(
    shell: Shell, run_folder: PurePosixPath, record: dict[str, Any], failed: Sequence[JobStatus]
) -> dict[str, str]:
    """Return job id -> the last sentence that the command wrote for its user, where it wrote one."""
    script = "".join(
        f"echo '{int(job.id)}|'$({_find_logs(run_folder, record, job.task)} -exec grep -h '^granite41: ' {{}} + "
        f"| tail -n 1 | tr '\n' ' ')\n"
        for job in failed
    )
    lines = shell.script(script).stdout.decode(errors="replace").splitlines() if script else []
    words = dict(line.split("|", 1) for line in lines)
    return {
        number: sentence.strip().removeprefix("granite41: ") for number, sentence in words.items()
    }


def _step_seconds(metrics: Path) -> float:
    """Return the seconds of all steps of a stage that count."""
    steps = [line for line in _lines(metrics) if "tokens_per_second" in line]
    if len(steps) < 2:
        return 0.0
    tokens_per_step = steps[1]["tokens"] - steps[0]["tokens"]
    return sum(tokens_per_step / line["tokens_per_second"] for line in steps)


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a JSON lines file that others append to."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
