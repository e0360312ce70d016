"""What nemo-run sends to sbatch, with a program in the place of sbatch that prints job ids."""

import os
from pathlib import Path, PurePosixPath

import pytest

from recipes.common.errors import UserError
from recipes.runs.task import Task
from slurm.cluster import Cluster, Compute, Container
from slurm.jobs import build_jobs
from slurm.submit import _submit, dry_run_scripts

pytestmark = pytest.mark.slow

# counts its calls: the ids are 1, 2, ...
SBATCH = """\
#!/bin/sh
echo "$@" >> {calls}
wc -l < {calls}
"""
SBATCH_THAT_REFUSES_THE_SECOND_JOB = """\
#!/bin/sh
echo "$@" >> {calls}
wc -l < {calls}
if [ "$(wc -l < {calls})" = 2 ]; then
    echo "sbatch: error: too many" >&2
    exit 1
fi
"""
SCANCEL = """\
#!/bin/sh
echo "scancel $@" >> {calls}
"""

COMPUTE = Compute("batch", "04:00:00", gpu_type="h100", gpus_per_node=8, gres="gpu:8")
CLUSTER = Cluster("mine", COMPUTE, folder="/shared", container=Container("/shared/nemo.sqsh"))
CHAIN = [
    Task("phase1", ("train", "phase1"), processes=16, needs_gpu=True, stage_folder=Path("/r/p")),
    Task("export", ("export",), ("phase1",)),
    Task("shards", ("data", "tokenize"), ("export",), array=3),
]
COMMIT = "0123456789abcdef"


def _write_programs(folder: Path, sbatch: str) -> Path:
    """Write sbatch and scancel; return the file of their calls."""
    calls = folder / "calls"
    for name, text in (("sbatch", sbatch), ("scancel", SCANCEL)):
        program = folder / name
        program.write_text(text.format(calls=calls))
        program.chmod(0o755)
    return calls


def _submit_here(folder: Path) -> tuple[dict[str, str], dict[str, str], dict[str, str]] | str:
    """Submit the chain; return ids, the scripts that were sent, and those of a dry run."""
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
    os.environ["GRANITE41_COMMIT"] = COMMIT
    run_folder = folder / "runs" / "8b"
    place = PurePosixPath(run_folder)
    code = PurePosixPath("/shared/code") / COMMIT
    try:
        experiment, ids = _submit(build_jobs(CHAIN, CLUSTER), CLUSTER, place, code)
    except UserError as error:
        return str(error)

    sent = {}
    for path in run_folder.glob("slurm/experiments/*/*/*_sbatch.sh"):
        sent[path.name.removesuffix("_sbatch.sh")] = path.read_text()
    printed = {}
    for job, script in dry_run_scripts(CHAIN, CLUSTER, place).items():
        printed[job] = script.replace("EXPERIMENT", experiment)
    return ids, sent, printed


def test_a_submission_sends_the_scripts_of_a_dry_run(forked, tmp_path) -> None:
    calls = _write_programs(tmp_path, SBATCH)
    ids, sent, printed = forked(_submit_here, tmp_path)
    assert sent == printed
    assert ids == {"phase1": "1", "export": "2", "shards": "3"}
    # what a job waits for is an option of sbatch
    first, second, third = calls.read_text().splitlines()
    assert "--dependency" not in first
    assert "--dependency=afterok:1" in second
    assert "--dependency=afterok:2" in third


def test_a_refused_job_cancels_those_before_it(forked, tmp_path) -> None:
    calls = _write_programs(tmp_path, SBATCH_THAT_REFUSES_THE_SECOND_JOB)
    refusal = forked(_submit_here, tmp_path)
    assert refusal == (
        "sbatch refused a job, the 1 before it were cancelled: sbatch: error: too many"
    )
    assert calls.read_text().splitlines()[-1] == "scancel 1"
