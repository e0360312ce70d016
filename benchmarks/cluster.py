"""Cost of Slurm: time until jobs are in the queue, time lost by a restart, load of the scheduler.

A real Slurm of two nodes runs on this machine (``tests/helpers/local_cluster.py``; it needs root
and the packages of ``tests/slurm/install.sh``).

- Dry run: the whole chain of size 8b, as a process; the peer is ``python -c "import nemo_run"``.
- Submission: one stage and the whole chain of size tiny into a queue whose nodes are drained, as a
  process; the peer is ``sbatch`` of the same scripts, one after the other.
- Restart: ``scontrol requeue`` in the middle of phase 1 on one node, where every start imports
  NeMo anew. Printed are the seconds from the command to the job's next start by Slurm, to the
  moment when training continues, and to the first new step. Slurm waits up to 5 s for processes to
  end (``KillWait``), and then 5 s more (``cred_expire``, 120 by default).
- Load: calls of ``squeue``, ``sacct`` and ``scontrol`` for one ``granite41 status`` of 100 jobs;
  the peer is nemo-run's own ``Experiment.status``.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.helpers import local_cluster

GRANITE41 = [sys.executable, "-m", "recipes.cli"]
WHOLE_CHAIN = "phase1..lce_512k"

Word = str | Path

SUBMIT = """
from pathlib import PurePosixPath
from recipes.runs.task import Task
from slurm.cluster import load_cluster
from slurm.submit import submit

chain = [Task(f"job{{number}}", ("list",)) for number in range({jobs})]
submit(chain, load_cluster({file!r}), PurePosixPath({run_folder!r}))
"""

NEMO_RUN_STATUS = """
import nemo_run as run
run.config.set_nemorun_home({home!r})
from nemo_run.run.torchx_backend.schedulers import slurm
slurm.SLURM_JOB_DIRS = {home!r} + "/.slurm_jobs"
with run.Experiment.from_title("load") as experiment:
    experiment.status(return_dict=True)
"""


@dataclass(frozen=True)
class Site:
    """The running cluster, its file, a shared folder, and the environment of commands."""

    cluster: local_cluster.LocalCluster
    file: Path
    folder: Path
    environment: dict[str, str]

    def set_nodes(self, *state: str) -> None:
        """Set the state of all nodes."""
        for node in self.cluster.nodes:
            self.cluster.run("scontrol", "update", f"nodename={node}", *state)

    def drain(self) -> None:
        """Let no job start."""
        self.set_nodes("state=drain", "reason=benchmark")

    def cancel_all(self) -> None:
        """Empty the queue."""
        self.cluster.run("scancel", "--user=root")

    def run_folder(self, name: str) -> Path:
        """Return the folder of a run."""
        return self.folder / "runs" / name


def run(command: Sequence[Word], environment: dict[str, str]) -> float:
    """Run a process, which must succeed; return its seconds of wall-clock time."""
    start = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return time.perf_counter() - start


def least_seconds(command: Sequence[Word], environment: dict[str, str], rounds: int) -> float:
    """Return the least seconds of a process over ``rounds``."""
    return min(run(command, environment) for _ in range(rounds))


def dry_run(rounds: int) -> None:
    """Print the time of a dry run of the whole chain."""
    environment = os.environ | {"USER": "somebody"}
    flags = ["--size", "8b", "--on", "h100", "--data", "/data", "--dryrun"]
    ours = least_seconds([*GRANITE41, "run", WHOLE_CHAIN, *flags], environment, rounds)
    theirs = least_seconds([sys.executable, "-c", "import nemo_run"], environment, rounds)
    print(
        f"dry run of the whole chain: {ours:.2f} s; "
        f"import nemo_run: {theirs:.2f} s, {theirs / ours:.1f} times that"
    )


def submission(site: Site) -> None:
    """Print the time of submissions into a queue that starts nothing."""
    site.drain()
    for name, stages in (("one stage", "phase1"), ("whole chain", WHOLE_CHAIN)):
        run_folder = site.run_folder(stages.replace(".", "_"))
        flags = ["--size", "tiny", "--on", site.file, "--run-dir", run_folder]
        ours = run([*GRANITE41, "run", stages, *flags], site.environment)

        scripts = sorted(run_folder.glob("slurm/experiments/*/*/*_sbatch.sh"))
        start = time.perf_counter()
        for script in scripts:
            site.cluster.run("sbatch", "--parsable", script)
        theirs = time.perf_counter() - start
        print(
            f"submission, {name}, {len(scripts)} jobs: {ours:.2f} s; "
            f"sbatch of the same scripts alone {theirs:.2f} s"
        )
    site.cancel_all()
    site.set_nodes("state=resume")


def restart(site: Site) -> None:
    """Print the time from a requeue in the middle of phase 1 to the first new step."""
    run_folder = site.run_folder("restart")
    flags = ["--size", "tiny", "--on", site.file, "--run-dir", run_folder, "--no-eval"]
    run([*GRANITE41, "run", "phase1", *flags], site.environment)
    submitted = json.loads((run_folder / "slurm/submitted.json").read_text())
    job = submitted["jobs"]["phase1"]["id"]
    metrics = run_folder / "phase1/metrics/steps.jsonl"
    events = run_folder / "slurm/phase1/events.jsonl"

    def count_steps() -> int:
        return metrics.read_text().count('"loss"') if metrics.exists() else 0

    def find_continued() -> list[str]:
        logs = run_folder.glob(f"slurm/experiments/*/*/phase1/log-*_{job}_1.out")
        text = "".join(log.read_text() for log in logs)
        return re.findall(r"continues after step (\d+)", text)

    wait(lambda: count_steps() >= 30)
    begin = time.time()
    site.cluster.run("scontrol", "requeue", job)
    started = wait(lambda: events.read_text().count("started") == 2)
    continued = wait(lambda: bool(find_continued()))
    kept = int(find_continued()[0])
    stepped = wait(lambda: count_steps() > kept)

    print(
        f"restart: {stepped - begin:.1f} s from requeue to the first new step, after step {kept}: "
        f"until Slurm has started the job again {started - begin:.1f}, "
        f"imports, set-up, checkpoint {continued - started:.1f}, "
        f"first new step {stepped - continued:.1f}"
    )
    site.cancel_all()


def wait(ready: Callable[[], bool]) -> float:
    """Wait until ``ready`` returns True; return the time of day in seconds."""
    while not ready():
        time.sleep(0.05)
    return time.time()


def load(site: Site, jobs: int) -> None:
    """Print the queries of Slurm for the status of many jobs."""
    run_folder = site.run_folder("load")
    site.drain()
    program = SUBMIT.format(jobs=jobs, file=str(site.file), run_folder=str(run_folder))
    run([sys.executable, "-c", program], site.environment)

    peer = NEMO_RUN_STATUS.format(home=str(run_folder / "slurm"))
    commands = {
        "granite41 status": [*GRANITE41, "status", "--run-dir", run_folder, "--json"],
        "nemo-run's status": [sys.executable, "-c", peer],
    }
    calls = site.folder / "calls"
    programs = _counting_programs(site.folder, calls)
    path = f"{programs}:{site.environment['PATH']}"
    for name, command in commands.items():
        calls.write_text("")
        seconds = run(command, site.environment | {"PATH": path})
        called = calls.read_text().split()
        counts = [f"{called.count(program)} {program}" for program in sorted(set(called))]
        print(f"{name} of {jobs} jobs: {', '.join(counts)}; {seconds:.1f} s")
    site.cancel_all()


def _counting_programs(folder: Path, calls: Path) -> Path:
    """Return a folder of Slurm's query programs that write a line to ``calls`` each time."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    for name in ("squeue", "sacct", "scontrol"):
        real = local_cluster.program(name)
        script = programs / name
        script.write_text(f'#!/bin/sh\necho {name} >> {calls}\nexec {real} "$@"\n')
        script.chmod(0o755)
    return programs


def _write_cluster_file(folder: Path) -> Path:
    content = {
        "account": "granite",
        "folder": str(folder),
        "python": sys.executable,
        "compute": {
            "partition": "batch",
            "time_limit": "01:00:00",
            "gpu_type": "cpu",
            "gpus_per_node": 1,
        },
    }
    file = folder / "cluster.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ["dryrun", "submission", "restart", "load"]
    parser.add_argument("--rounds", type=int, default=3, help="of the dry run (3)")
    parser.add_argument("--jobs", type=int, default=100, help="of which the status is read (100)")
    parser.add_argument("--only", nargs="+", default=parts, help="(all)")
    options = parser.parse_args()
    if reason := local_cluster.why_not():
        sys.exit(reason)

    if "dryrun" in options.only:
        dry_run(options.rounds)
    with (
        tempfile.TemporaryDirectory(prefix="slurm-") as home,
        tempfile.TemporaryDirectory() as shared,
        local_cluster.running(Path(home)) as cluster,
    ):
        folder = Path(shared)
        environment = os.environ | cluster.environment
        site = Site(cluster, _write_cluster_file(folder), folder, environment)
        if "submission" in options.only:
            submission(site)
        if "restart" in options.only:
            restart(site)
        if "load" in options.only:
            load(site, options.jobs)


if __name__ == "__main__":
    main()
