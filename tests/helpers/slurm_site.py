"""What a user of a cluster has: a cluster file, a shared folder, and the command line."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from recipes.runs.task import Task
from tests.helpers.local_cluster import LocalCluster

# steps of a model so small that most of a step is what torch does around it
STEPS = 250
TOKENS_PER_STEP = 256
SMALL_MODEL = (
    "model.vocab_size=512",
    "model.num_layers=1",
    "sequence_length=64",
    "global_batch_size=4",
    "parallelism.micro_batch_size=2",
    f"tokens={STEPS * TOKENS_PER_STEP}",
    "schedule.warmup_tokens=512",
    "checkpoint_every_tokens=12800",
    "validate_every_tokens=76800",
    "validation_batches=1",
    "split=900,100,0",
)

Word = str | Path


def submit_tasks(chain: list[Task], file: Path, run_folder: Path) -> dict[str, str] | str:
    """Submit tasks; return task -> job id, or the sentence of a refusal."""
    from recipes.common.errors import UserError
    from slurm.cluster import load_cluster
    from slurm.submit import submit

    try:
        return submit(chain, load_cluster(str(file)), PurePosixPath(run_folder))
    except UserError as error:
        return str(error)


class Site:
    """A user of the local cluster.

    Attributes:
        cluster: the running cluster.
        environment: of every job; it leads to a process that has NeMo loaded.
        folder: shared by the nodes, which are all on this machine.
        run_folder: of the one run.
        file: the cluster file.
        shell: environment of the shell that the commands are given in.
        flags: that tell a command which run it is about.
        stage: that is trained.
    """

    stage = "phase1"

    def __init__(self, cluster: LocalCluster, environment: dict[str, str], folder: Path) -> None:
        self.cluster = cluster
        self.environment = environment
        self.folder = folder
        self.run_folder = folder / "runs" / "one"
        self.file = folder / "cluster.yaml"
        self.shell = os.environ | environment
        self.flags: list[Word] = ["--run-dir", self.run_folder]
        self.write({})

    def write(self, changes: dict[str, Any]) -> None:
        """Write the cluster file, with changes."""
        compute = {
            "partition": "batch",
            "time_limit": "00:10:00",
            "gpu_type": "cpu",
            "gpus_per_node": 1,
        }
        content = {
            "account": "granite",
            "folder": str(self.folder),
            "python": sys.executable,
            # the nodes share this machine's cores
            "environment": {"OMP_NUM_THREADS": "1", **self.environment},
            "stop_before_limit": 30,
            **changes,
            "compute": compute | changes.get("compute", {}),
        }
        self.file.write_text(yaml.safe_dump(content))

    def run(self, *words: Word, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command, which ends with this exit status."""
        done = subprocess.run(
            [sys.executable, "-m", "recipes.cli", *words],
            env=self.shell,
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done

    def stdout(self, *words: Word) -> str:
        """Run a command; return its results."""
        return self.run(*words).stdout

    def messages(self, *words: Word) -> str:
        """Run a command; return its progress and warnings."""
        return self.run(*words).stderr

    def refusal(self, *words: Word) -> str:
        """Run a command that is a user's mistake; return its sentence."""
        return self.run(*words, status=2).stderr

    def phase1(self, data: Path, *more: str) -> list[Word]:
        """Return the words of the command that submits phase 1."""
        flags = ["--on", self.file, "--run-dir", self.run_folder, "--data", data, "--no-eval"]
        return ["run", "phase1", "--size", "tiny", *flags, *SMALL_MODEL, *more]

    def submit(self, data: Path, *more: str) -> dict[str, str]:
        """Submit phase 1; return task -> job id."""
        self.run(*self.phase1(data, *more))
        return self.ids()

    def submission(self) -> dict[str, Any]:
        """Return the record of the last submission."""
        return json.loads((self.run_folder / "slurm/submitted.json").read_text())

    def ids(self) -> dict[str, str]:
        """Return task -> job id of the last submission."""
        return {task: job["id"] for task, job in self.submission()["jobs"].items()}

    def status(self) -> dict[str, dict[str, Any]]:
        """Return task -> what `granite41 status` says."""
        jobs = json.loads(self.stdout("status", *self.flags, "--json"))
        return {job["task"]: job for job in jobs}

    def states(self) -> dict[str, str]:
        """Return task -> state."""
        return {task: job["state"] for task, job in self.status().items()}

    def events(self, task: str) -> list[str]:
        """Return what the starts of a job have recorded, in order."""
        path = self.run_folder / "slurm" / task / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line)["event"] for line in lines]

    def batch_log(self, task: str) -> str:
        """Return what the batch script of a job has printed."""
        logs = self.run_folder.glob(f"slurm/experiments/*/*/{task}/sbatch_*.out")
        return "".join(log.read_text() for log in logs)

    def manifest(self) -> dict[str, Any]:
        """Return the manifest of the stage."""
        return json.loads((self.run_folder / self.stage / "manifest.json").read_text())

    def steps(self) -> list[int]:
        """Return the numbers of the steps of the stage that are recorded."""
        path = self.run_folder / self.stage / "metrics/steps.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        # the last line may still be being written
        whole = [line for line in lines if '"loss"' in line and line.endswith("}")]
        return [json.loads(line)["step"] for line in whole]

    def last_step(self) -> int:
        """Return the number of the last step of the stage, 0 before the first."""
        return max(self.steps(), default=0)

    def wait(self, ready: Callable[[], Any], seconds: float = 180) -> None:
        """Wait until ``ready`` returns something true."""
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                raise TimeoutError(self._report())
            time.sleep(0.2)

    def wait_for(self, job: str, state: str) -> None:
        """Wait until a job is in this state."""
        self.wait(lambda: self.cluster.state(job).startswith(state))

    def wait_for_empty_queue(self) -> None:
        """Wait until what was cancelled has ended."""
        self.wait(self.queue_is_empty)

    def queue_is_empty(self) -> bool:
        """Whether no job waits or runs."""
        return self.cluster.run("squeue", "--noheader") == ""

    def wait_for_start(self, number: int) -> None:
        """Wait until the stage trains in its start of this number."""
        self.wait(lambda: self.events(self.stage).count("started") == number)
        self.wait_for_step(self.last_step() + 30)

    def wait_for_step(self, least: int) -> None:
        """Wait until the stage has done this step."""
        self.wait(lambda: self.last_step() >= least)

    def clean_up(self) -> None:
        """Empty the queue and resume the nodes, for the next test."""
        self.cluster.run("scancel", "--user=root")
        for node in self.cluster.nodes:
            if self.cluster.node_state(node).startswith(("down", "drain")):
                self.cluster.run("scontrol", "update", f"nodename={node}", "state=resume")
        self.wait_for_empty_queue()

    def _report(self) -> str:
        """Return the queue, all events, and the ends of the latest logs."""
        events = [path.read_text() for path in self.run_folder.glob("slurm/*/events.jsonl")]
        logs = sorted(self.run_folder.glob("slurm/experiments/*/*/*/*.out"), key=os.path.getmtime)
        tails = [f"== {log.name}\n{log.read_text()[-2000:]}" for log in logs[-4:]]
        return "\n".join([self.cluster.run("squeue"), *events, *tails])
