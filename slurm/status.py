"""Status of a submitted chain, in two queries of Slurm for any number of jobs."""

import io
import logging
import shlex
import tarfile
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from recipes.common.errors import UserError
from recipes.common.json_files import read_json_lines
from recipes.registry.stages import STAGES
from recipes.runs.stage_manifest import read_manifest
from slurm.cluster import Cluster
from slurm.shell import Shell, last_line
from slurm.submission import (
    SUBMITTED,
    Submission,
    experiments_folder,
    records_folder,
)

log = logging.getLogger(__name__)

# a sentence for the user; srun puts the number of the node before it
_SENTENCE = "^([0-9]+: )?granite41: "
# printed in place of the queue where squeue fails
_NO_QUEUE = "granite41-no-queue"
_ACTIVE = (
    "PENDING",
    "RUNNING",
    "COMPLETING",
    "CONFIGURING",
    "REQUEUED",
    "SUSPENDED",
    "REQUEUE_HOLD",
)

# files that hold the state of a run, and folders whose existence counts
_STATE_FILES = (
    "manifest.json",
    "recipe.yaml",
    "evaluation.json",
    "gate.json",
    SUBMITTED,
    "events.jsonl",
    "steps.jsonl",
    "hf",
    "merged",
    "init",
    "corpora",
)

# a job's last event -> Slurm's word for its state; other events are failures
_STATE_AFTER = {
    "started": "RUNNING",
    "finished": "COMPLETED",
    "stopped": "PENDING",
    "crashed": "PENDING",
    "lost": "PENDING",
    "terminated": "CANCELLED",
}
_REASON_AFTER = {
    "given up": "as many starts as the cluster file allows brought nothing new",
    "requeue refused": "Slurm did not queue it again; `granite41 resume` continues it",
}


@dataclass(frozen=True)
class JobStatus:
    """One job of a chain.

    Attributes:
        task: the task's name.
        id: Slurm's number of the job.
        state: as Slurm names it.
        reason: why it waits or has failed.
        starts: how often it has started.
        goodput: the part of its allocated time that was spent on steps which count; None before
            there is any.
    """

    task: str
    id: str
    state: str
    reason: str
    starts: int
    goodput: float | None

    @property
    def is_active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in _ACTIVE

    @property
    def has_failed(self) -> bool:
        """Whether it has ended, neither with success nor by being cancelled."""
        return not self.is_active and self.state not in ("COMPLETED", "CANCELLED")


@contextmanager
def local_view_of_run(shell: Shell, run_folder: PurePosixPath) -> Iterator[Path]:
    """Yield a folder with the state of a run: the run's own, or a copy of its small files.

    Raises:
        UserError: the folder cannot be read. A copy's own errors name the folder on the cluster.
    """
    if not shell.login:
        yield Path(run_folder)
        return

    names = " -o ".join(f"-name {shlex.quote(name)}" for name in _STATE_FILES)
    folder = shlex.quote(str(run_folder))
    done = shell.script(
        f"test -d {folder} || exit 0; cd {folder} && "
        f"find . -maxdepth 5 \\( {names} \\) -print0 "
        f"| tar -c -z --no-recursion --null -T -"
    )
    if done.returncode:
        raise UserError(f"{run_folder}: cannot be read on the cluster: {last_line(done.stderr)}")

    with tempfile.TemporaryDirectory(prefix="granite41-") as copy:
        # a folder that does not exist yet has no archive
        if done.stdout:
            with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
                archive.extractall(copy, filter="data")
        try:
            yield Path(copy)
        except UserError as error:
            raise UserError(str(error).replace(copy, str(run_folder))) from error


def cli_flags(cluster: Cluster, on: str | None, run_folder: PurePosixPath) -> str:
    """Return the flags with which ``granite41 status``, ``cancel`` and ``resume`` find a run."""
    flags = f"--run-dir {shlex.quote(str(run_folder))}"
    if on and cluster.login:
        flags += f" --on {shlex.quote(on)}"
    return flags


def query_status(
    cluster: Cluster,
    local_view: Path,
    run_folder: PurePosixPath,
    submission: Submission,
) -> list[JobStatus]:
    """Return the status of each submitted job.

    The jobs' own records replace what Slurm has forgotten, or has no accounting for.

    Raises:
        UserError: neither squeue nor sacct answers; a record of the run is damaged.
    """
    records = Path(records_folder(PurePosixPath(local_view)))
    events = {task: _read_events(records / task) for task in submission.jobs}

    # earlier submissions into the same folder count for the goodput
    ids = {job.id for job in submission.jobs.values()}
    for task_events in events.values():
        ids.update(event.job for event in task_events)
    shell = Shell(cluster)
    queue, accounting = _query_slurm(shell, ids)

    jobs = []
    for task, job in submission.jobs.items():
        history = JobHistory(
            job.id,
            queue.get(job.id),
            accounting,
            events[task],
            local_view / task / "metrics" / "steps.jsonl",
        )
        status = JobStatus(
            task,
            job.id,
            history.state(),
            history.reason(),
            history.num_starts(),
            history.goodput(),
        )
        jobs.append(status)

    # only failures need their logs read
    failed = [job.task for job in jobs if job.has_failed]
    messages = last_sentences(shell, run_folder, submission, failed)
    return [_explain(job, local_view, messages) for job in jobs]


def active_ids(jobs: Sequence[JobStatus]) -> list[str]:
    """Return the ids of jobs that wait or run."""
    return [job.id for job in jobs if job.is_active]


def log_files(
    shell: Shell,
    run_folder: PurePosixPath,
    submission: Submission,
    task: str,
) -> list[str]:
    """Return the paths on the cluster of the logs of a job's latest start.

    Returns:
        The log of the batch script, with those of all starts, and the log of its command.
    """
    done = shell.script(_find_logs(run_folder, submission, task))
    latest = {}
    for path in done.stdout.decode(errors="replace").splitlines():
        kind = PurePosixPath(path).name.partition("_")[0]
        latest[kind.partition("-")[0]] = path
    return [latest[kind] for kind in ("sbatch", "log") if kind in latest]


class JobState(NamedTuple):
    """Slurm's word for the state of a job, and the reason where there is one."""

    state: str
    reason: str


@dataclass(frozen=True)
class Attempt:
    """One start of a job, or of a member of an array, by the accounting; it may still run.

    Attributes:
        member: the job's id, for a member of an array with its index: ``7_3``.
        result: its state and exit status.
        seconds: that it had its nodes.
    """

    member: str
    result: JobState
    seconds: int


@dataclass(frozen=True)
class Event:
    """A line that a job has written about itself (``job.sh``): ``started``, ``finished``, ..."""

    job: str
    name: str


@dataclass(frozen=True)
class JobHistory:
    """What Slurm and the run's folder know of one task.

    Attributes:
        id: of the task's job.
        queued: its state by squeue; None where it is not in the queue.
        accounting: job -> its starts, for all jobs of the folder.
        events: of the task, those of earlier submissions included.
        steps: the task's ``steps.jsonl``, if it trains.
    """

    id: str
    queued: JobState | None
    accounting: dict[str, list[Attempt]]
    events: list[Event]
    steps: Path

    def state(self) -> str:
        """Return Slurm's word for the state: by the queue, the accounting, or its last event."""
        current = self.queued or self._result()
        if current:
            return current.state
        names = self._event_names()
        return _STATE_AFTER.get(names[-1], "FAILED") if names else "UNKNOWN"

    def reason(self) -> str:
        """Return why the job waits or has failed, empty where Slurm gives no reason."""
        names = self._event_names()
        if names and names[-1] in _REASON_AFTER:
            return _REASON_AFTER[names[-1]]
        current = self.queued or self._result()
        return current.reason if current else ""

    def num_starts(self) -> int:
        """Return how often the task has started, in this submission and those before."""
        return [event.name for event in self.events].count("started")

    def goodput(self) -> float | None:
        """Return seconds of steps over allocated seconds, of all jobs that the task has had."""
        allocated = 0
        for job in {event.job for event in self.events}:
            allocated += sum(attempt.seconds for attempt in self.accounting.get(job, []))
        if not allocated:
            return None
        return _step_seconds(self.steps) / allocated or None

    def _event_names(self) -> list[str]:
        return [event.name for event in self.events if event.job == self.id]

    def _result(self) -> JobState | None:
        """Return the result of the last start; of an array, that of its members."""
        # those of a member are in order: the last one replaces the others
        last_starts = {attempt.member: attempt for attempt in self.accounting.get(self.id, [])}
        results = [attempt.result for attempt in last_starts.values()]
        if len(results) <= 1:
            return next(iter(results), None)

        # an array succeeds with all of its members
        bad = [result for result in results if result.state != "COMPLETED"]
        if not bad:
            return JobState("COMPLETED", "")
        return JobState(bad[0].state, f"{len(bad)} of {len(results)} shards")


def _query_slurm(
    shell: Shell,
    ids: Collection[str],
) -> tuple[dict[str, JobState], dict[str, list[Attempt]]]:
    """Return job -> its state in the queue, and job -> its starts by the accounting."""
    jobs = ",".join(sorted(ids))
    # neither knows all: squeue forgets what has ended, sacct may be missing
    done = shell.script(
        f"squeue --noheader --jobs={jobs} --format='%i|%T|%r' || {{ s=$?; echo {_NO_QUEUE}; }}; "
        f"sacct --noheader --parsable2 --allocations --duplicates --jobs={jobs} "
        f"--format=JobID,State,ExitCode,ElapsedRaw || exit ${{s:-0}}"
    )
    if done.returncode:
        raise UserError(
            f"neither squeue nor sacct answers ({last_line(done.stderr)}); "
            f"the jobs are as they were, ask again later"
        )

    lines = done.stdout.decode(errors="replace").splitlines()
    errors = done.stderr.decode(errors="replace")
    # jobs that Slurm has forgotten are no outage
    if _NO_QUEUE in lines and "Invalid job id" not in errors:
        log.warning(
            "squeue does not answer (%s); the states are those of the accounting, which may be "
            "old, and what waits is not in it",
            errors.strip().partition("\n")[0],
        )

    queue: dict[str, JobState] = {}
    accounting: dict[str, list[Attempt]] = {}
    for line in lines:
        member, *fields = line.split("|")
        # 7_3 and 7_[4-9] are members of the array 7
        job = member.partition("_")[0]
        if len(fields) == 2:
            state, reason = fields
            # an array runs as long as one of its members does
            if job not in queue or queue[job].state != "RUNNING":
                queue[job] = JobState(state, "" if reason == "None" else reason)
        elif len(fields) == 3:
            state, exit_code, seconds = fields
            # "CANCELLED by 0" also says who has cancelled it
            result = JobState(state.split()[0], _exit_reason(exit_code))
            accounting.setdefault(job, []).append(Attempt(member, result, int(seconds)))
    return queue, accounting


def _exit_reason(exit_code: str) -> str:
    """Return words for an exit code of the accounting, ``STATUS:SIGNAL``."""
    status, _, signal = exit_code.partition(":")
    if status != "0":
        return f"exit status {status}"
    return f"signal {signal}" if signal != "0" else ""


def _explain(job: JobStatus, local_view: Path, messages: dict[str, str]) -> JobStatus:
    """Return the job with the best reason: of its stage's manifest, its log, or Slurm."""
    # the folders of other tasks may have manifests of another kind
    if job.task in STAGES:
        manifest = read_manifest(local_view / job.task)
        if manifest and manifest.error:
            return replace(job, reason=manifest.error)
    return replace(job, reason=messages.get(job.task) or job.reason)


def last_sentences(
    shell: Shell,
    run_folder: PurePosixPath,
    submission: Submission,
    tasks: Sequence[str],
) -> dict[str, str]:
    """Return task -> the last sentence for the user in its logs, where there is one."""
    if not tasks:
        return {}
    # one visit to the cluster for all jobs
    lines = []
    for task in tasks:
        find = _find_logs(run_folder, submission, task)
        grep = f"{find} | xargs -r grep -hE '{_SENTENCE}' | tail -n 1 | tr '\n' ' '"
        lines.append(f"echo {shlex.quote(task)}'|'$({grep})\n")

    sentences = {}
    for line in shell.script("".join(lines)).stdout.decode(errors="replace").splitlines():
        task, _, text = line.partition("|")
        sentence = text.partition("granite41: ")[2].strip()
        if sentence:
            sentences[task] = sentence
    return sentences


def _find_logs(run_folder: PurePosixPath, submission: Submission, task: str) -> str:
    """Return a shell's command that lists a job's logs, the latest last.

    A start has one of what surrounds its command, ``sbatch_*``, and one of the command, ``log-*``.
    """
    folder = shlex.quote(str(experiments_folder(run_folder)))
    logs = shlex.quote(f"*/{submission.experiment}/{task}/*.out")
    by_time = "-printf '%T@ %p\\n' | sort -n | cut -d ' ' -f 2-"
    return f"find {folder} -path {logs} {by_time}"


def _read_events(folder: Path) -> list[Event]:
    """Return what the starts of a job, or of an array's members, have recorded, in order."""
    events = []
    for path in sorted(folder.rglob("events.jsonl")):
        # a lost node may have left half a line, which the next start has completed
        for line in read_json_lines(path, damaged=[]):
            event = Event(str(line.get("job")), str(line.get("event")))
            if event.job.isdecimal():
                events.append(event)
    return events


def _step_seconds(path: Path) -> float:
    """Return the seconds of all steps of a stage that count."""
    if not path.exists():
        return 0.0
    steps = [line for line in read_json_lines(path) if "tokens_per_second" in line]
    if len(steps) < 2:
        return 0.0
    # every step has as many tokens
    try:
        tokens_per_step = steps[1]["tokens"] - steps[0]["tokens"]
        return sum(tokens_per_step / step["tokens_per_second"] for step in steps)
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise UserError(
            f"{path}: a step's 'tokens' or 'tokens_per_second' is missing or no positive number; "
            f"remove the line"
        ) from error
