"""What submitting to Slurm costs: time until the jobs are in the queue, time lost by a restart, load of the scheduler.

A real Slurm of two nodes on this machine (``tests/helpers/local_cluster.py``; root and its packages are needed).

- Dry run: the whole chain of size 8b, as a process; the peer is ``python -c "import nemo_run"``.
- Submission: one stage (5 jobs) and the whole chain (as many as it has) of size tiny into a queue whose nodes are
  drained, as a process; the peer is ``sbatch`` of the very same scripts, one after the other.
- Restart: ``scontrol requeue`` in the middle of phase 1 on one node, where every start imports NeMo anew; told are the
  seconds from the command to the job's next start by Slurm, to the moment when training goes on, and to the first new
  step. Slurm waits up to 5 s for processes to end (``KillWait``), and then 5 s more (``cred_expire``, 120 by default).
- Load: calls of ``squeue``, ``sacct`` and ``scontrol`` for one ``granite41 status`` of 100 jobs; the peer is nemo-run's
  own ``Experiment.status``.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]

from tests.helpers import local_cluster

GRANITE41 = [sys.executable, "-m", "recipes.cli"]


def seconds(command: Sequence[str | Path], environment: dict[str, str], rounds: int = 1) -> float:
    """Return the least wall-clock seconds of a process over ``rounds``."""
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        best = min(best, time.perf_counter() - start)
    return best


def dry_run(environment: dict[str, str], rounds: int) -> None:
    chain = [
        "run",
        "phase1..lce_512k",
        "--size",
        "8b",
        "--on",
        "h100",
        "--data",
        "/data",
        "--dryrun",
    ]
    ours = seconds([*GRANITE41, *chain], environment | {"USER": "somebody"}, rounds)
    theirs = seconds([sys.executable, "-c", "import nemo_run"], environment, rounds)
    print(
        f"dry run of the whole chain: {ours:.2f} s; import nemo_run: {theirs:.2f} s, {theirs / ours:.1f} times that"
    )


def submission(
    cluster: local_cluster.LocalCluster, file: Path, folder: Path, environment: dict[str, str]
) -> None:
    for node in cluster.nodes:
        cluster.run("scontrol", "update", f"nodename={node}", "state=drain", "reason=benchmark")
    for name, stages in (("one stage", "phase1"), ("whole chain", "phase1..lce_512k")):
        run_folder = folder / "runs" / stages.replace(".", "_")
        words = ["run", stages, "--size", "tiny", "--on", file, "--run-dir", run_folder]
        ours = seconds([*GRANITE41, *words], environment)
        scripts = sorted(run_folder.glob("slurm/experiments/*/*/*_sbatch.sh"))
        start = time.perf_counter()
        for script in scripts:
            cluster.run("sbatch", "--parsable", script)
        theirs = time.perf_counter() - start
        print(
            f"submission, {name}, {len(scripts)} jobs: {ours:.2f} s; sbatch of the same scripts alone {theirs:.2f} s"
        )
    cluster.run("scancel", "--user=root")
    for node in cluster.nodes:
        cluster.run("scontrol", "update", f"nodename={node}", "state=resume")


def restart(
    cluster: local_cluster.LocalCluster, file: Path, folder: Path, environment: dict[str, str]
) -> None:
    run_folder = folder / "runs" / "restart"
    words = ["run", "phase1", "--size", "tiny", "--on", file, "--run-dir", run_folder, "--no-eval"]
    subprocess.run(
        [*GRANITE41, *words], env=environment, check=True, stdout=subprocess.DEVNULL, cwd=ROOT
    )
    job = json.loads((run_folder / "slurm/submitted.json").read_text())["jobs"]["phase1"]["id"]
    metrics, events = (
        run_folder / "phase1/metrics/steps.jsonl",
        run_folder / "slurm/phase1/events.jsonl",
    )

    def steps() -> int:
        return metrics.read_text().count('"loss"') if metrics.exists() else 0

    def wait(ready) -> float:
        while not ready():
            time.sleep(0.05)
        return time.time()

    wait(lambda: steps() >= 30)
    begin = time.time()
    cluster.run("scontrol", "requeue", job)
    started = wait(lambda: events.read_text().count("started") == 2)
    logs = f"slurm/experiments/*/*/phase1/log-*_{job}_1.out"
    goes_on = wait(
        lambda: any("continues after step" in log.read_text() for log in run_folder.glob(logs))
    )
    kept = int(
        re.findall(r"continues after step (\d+)", next(run_folder.glob(logs)).read_text())[0]
    )
    stepped = wait(lambda: steps() > kept)
    parts = {
        "until Slurm has started the job again": started - begin,
        "imports, set-up, checkpoint": goes_on - started,
        "first new step": stepped - goes_on,
    }
    told = ", ".join(f"{name} {value:.1f}" for name, value in parts.items())
    print(
        f"restart: {stepped - begin:.1f} s from requeue to the first new step, after step {kept}: {told}"
    )
    cluster.run("scancel", "--user=root")


def load(
    cluster: local_cluster.LocalCluster,
    file: Path,
    folder: Path,
    environment: dict[str, str],
    jobs: int,
) -> None:
    program = f"""
import sys
from pathlib import PurePosixPath
from recipes.runs.task import Task
from slurm.cluster import load_cluster
from slurm.submit import submit
chain = [Task(f"job{{n}}", ("list",)) for n in range({jobs})]
submit(chain, load_cluster({str(file)!r}), PurePosixPath({str(folder / "runs/load")!r}), {{}})
"""
    for node in cluster.nodes:
        cluster.run("scontrol", "update", f"nodename={node}", "state=drain", "reason=benchmark")
    subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        check=True,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    status = [*GRANITE41, "status", "--run-dir", folder / "runs/load", "--json"]
    peer = f"""
import nemo_run as run
run.config.set_nemorun_home({str(folder / "runs/load/slurm")!r})
from nemo_run.run.torchx_backend.schedulers import slurm
slurm.SLURM_JOB_DIRS = {str(folder / "runs/load/slurm/.slurm_jobs")!r}
with run.Experiment.from_title("load") as experiment:
    experiment.status(return_dict=True)
"""
    for name, command in (
        ("granite41 status", status),
        ("nemo-run's status", [sys.executable, "-c", peer]),
    ):
        calls = folder / "calls"
        calls.write_text("")
        counted = environment | {"PATH": f"{_counting(folder, calls)}:{environment['PATH']}"}
        start = time.perf_counter()
        subprocess.run(command, env=counted, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        asked = calls.read_text().split()
        kinds = ", ".join(f"{asked.count(kind)} {kind}" for kind in sorted(set(asked)))
        print(f"{name} of {jobs} jobs: {kinds}; {time.perf_counter() - start:.1f} s")
    cluster.run("scancel", "--user=root")


def _counting(folder: Path, calls: Path) -> Path:
    """Return a folder of Slurm's query programs that note each call."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    for name in ("squeue", "sacct", "scontrol"):
        real = local_cluster.program(name)
        (programs / name).write_text(f'#!/bin/sh\necho {name} >> {calls}\nexec {real} "$@"\n')
        (programs / name).chmod(0o755)
    return programs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="of the dry run (3)")
    parser.add_argument("--jobs", type=int, default=100, help="whose status is asked (100)")
    parser.add_argument(
        "--only", nargs="+", default=["dryrun", "submission", "restart", "load"], help="(all)"
    )
    options = parser.parse_args()
    if reason := local_cluster.why_not():
        sys.exit(reason)
    if "dryrun" in options.only:
        dry_run(dict(os.environ), options.rounds)
    with (
        tempfile.TemporaryDirectory(prefix="slurm-") as home,
        tempfile.TemporaryDirectory() as shared,
        local_cluster.running(Path(home)) as cluster,
    ):
        file = Path(shared) / "cluster.yaml"
        compute = {
            "partition": "batch",
            "time_limit": "01:00:00",
            "gpu_type": "cpu",
            "gpus_per_node": 1,
        }
        content = {
            "account": "granite",
            "folder": shared,
            "python": sys.executable,
            "compute": compute,
        }
        file.write_text(yaml.safe_dump(content))
        given = (cluster, file, Path(shared), os.environ | cluster.environment)
        if "submission" in options.only:
            submission(*given)
        if "restart" in options.only:
            restart(*given)
        if "load" in options.only:
            load(*given, options.jobs)


if __name__ == "__main__":
    main()
