"""The benchmark of submission runs to its end with its smallest settings; no figure is asserted."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import local_cluster

pytestmark = pytest.mark.slurm


def test_dry_run_and_load() -> None:
    if reason := local_cluster.why_not():
        pytest.skip(reason)
    script = Path(__file__).parents[2] / "benchmarks" / "cluster.py"
    options = ["--rounds", "1", "--jobs", "3", "--only", "dryrun", "load"]
    done = subprocess.run([sys.executable, script, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    dryrun, ours, theirs = done.stdout.splitlines()
    seconds = [float(number) for number in re.findall(r"([\d.]+) s", dryrun)]
    assert min(seconds) > 0
    # however many jobs
    assert ours.startswith("granite41 status of 3 jobs: 1 sacct, 1 squeue; ")
    assert re.match(r"nemo-run's status of 3 jobs: [3-9] sacct; ", theirs)
